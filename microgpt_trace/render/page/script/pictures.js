// Arrays that a page does not hold in full. A picture in bytes shows colours, with exact numbers only at the last
// position. Of other arrays, the page holds nothing but the last position.

const FORMS = { shares, last: (picture, bytes, shape) => new Float32Array(shape.reduce((a, b) => a * b)) };

/** The array of a picture. `exact(flat)` is true for the elements of the last position, whose numbers are exact.
    `isLacking` is true if the page holds no other elements. */
export function unfolded(picture, bytes, last, shape) {
  const values = FORMS[picture.form](picture, bytes, shape);
  const [length, width] = [shape.at(-2), shape.at(-1)];
  const rows = values.length / width;
  for (let row = length - 1, n = 0; row < rows; row += length, n += 1) values.set(last.subarray(n * width, (n + 1) * width), row * width);
  values.exact = (flat) => Math.floor(flat / width) % length === length - 1;
  values.isLacking = picture.form === "last";
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
