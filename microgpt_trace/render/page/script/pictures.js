// Arrays of which a page holds a picture in bytes: good to look at, not to read numbers from.

/** The array that a picture stands for. Its `exact(flat)` says of which elements the number is known. */
export function unfolded(picture, bytes, last, shape) {
  const values = picture.form === "shares" ? shares(picture, bytes, shape) : signs(picture, bytes, last, shape);
  const lastRow = last ? shape[0] - 1 : -1;
  values.exact = (flat) => last !== undefined && Math.floor(flat / shape[1]) === lastRow;
  return values;
}

function shares({ side, block }, bytes, [heads, length]) {
  const values = new Float32Array(heads * length * length);
  const perHead = (side * (side + 1)) / 2;
  for (let head = 0; head < heads; head += 1) {
    for (let query = 0; query < length; query += 1) {
      const row = Math.floor(query / block);
      const from = head * perHead + (row * (row + 1)) / 2;
      const to = (head * length + query) * length;
      for (let key = 0; key <= query; key += 1) {
        const byte = bytes[from + Math.floor(key / block)];
        values[to + key] = byte === 255 ? Number.NaN : (byte / 254) ** 2;
      }
    }
  }
  return values;
}

function signs({ ends }, bytes, last, [length, width]) {
  const values = new Float32Array(length * width);
  for (let flat = 0; flat < values.length; flat += 1) {
    const step = (bytes[flat] << 24) >> 24;
    values[flat] = step === -128 ? Number.NaN : Math.sign(step) * (step / 127) ** 2 * ends[Math.floor(flat / width)];
  }
  if (last) values.set(last, (length - 1) * width);
  return values;
}
