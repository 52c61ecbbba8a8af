// Numbers as they are shown.

/** All digits that tell it from its neighbours. */
export const full = (value) => (Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");

/** So many significant digits. */
export function short(value, digits = 4) {
  if (!Number.isFinite(value)) return full(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-3 ? value.toExponential(Math.max(1, digits - 2)) : String(Number(value.toPrecision(digits)));
}

/** A probability: three decimals, or two significant digits where that would be 0. */
export const probability = (p) => (!Number.isFinite(p) ? full(p) : p >= 0.0005 || p === 0 ? p.toFixed(3) : p.toExponential(1));

/** A share in percent, without decimals. */
export const percent = (share) => (Number.isFinite(share) ? `${Math.round(100 * share)}` : full(share));

/** Statistics of an array: those of what is finite, the others counted. */
export function statisticsOf(values, isCounted = () => true) {
  let [count, sum, squares, min, max, zeros, others] = [0, 0, 0, Infinity, -Infinity, 0, 0];
  values.forEach((value, n) => {
    if (!isCounted(n)) return;
    if (!Number.isFinite(value)) {
      others += 1;
      return;
    }
    count += 1;
    sum += value;
    squares += value * value;
    min = Math.min(min, value);
    max = Math.max(max, value);
    if (value === 0) zeros += 1;
  });
  if (!count) return { count, others, l2: Number.NaN, mean: Number.NaN, std: Number.NaN, min: Number.NaN, max: Number.NaN, zeros };
  const mean = sum / count;
  let spread = 0;
  values.forEach((value, n) => {
    if (isCounted(n) && Number.isFinite(value)) spread += (value - mean) ** 2;
  });
  return { count, mean, std: Math.sqrt(spread / count), l2: Math.sqrt(squares), min, max, zeros, others };
}
