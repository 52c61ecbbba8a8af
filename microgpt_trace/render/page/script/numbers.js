// Write numbers as text.

/** A number with as many digits as identify it among all float64 numbers. */
export const full = (value) => (Number.isFinite(value) ? String(value) : Number.isNaN(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");

/** A number with `digits` significant digits. */
export function short(value, digits = 4) {
  if (!Number.isFinite(value)) return full(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e6 || size < 1e-3 ? value.toExponential(Math.max(1, digits - 2)) : String(Number(value.toPrecision(digits)));
}

/** A probability with three decimals, or with two significant digits if all three decimals would be 0. */
export const probability = (p) => (!Number.isFinite(p) ? full(p) : p >= 0.0005 || p === 0 ? p.toFixed(3) : p.toExponential(1));

/** A share in percent, without decimals. */
export const percent = (share) => (Number.isFinite(share) ? `${Math.round(100 * share)}` : full(share));

/** Statistics of the finite elements of an array. `others` is the number of elements that are not finite. */
export function statisticsOf(values, isCounted) {
  const counted = values.filter((_, n) => isCounted(n));
  const finite = counted.filter(Number.isFinite);
  const sumOf = (part) => finite.reduce((sum, value) => sum + part(value), 0);
  const mean = sumOf((value) => value) / finite.length;
  return {
    count: finite.length, others: counted.length - finite.length, zeros: finite.filter((value) => value === 0).length,
    l2: Math.sqrt(sumOf((value) => value * value)), mean, std: Math.sqrt(sumOf((value) => (value - mean) ** 2) / finite.length),
    min: finite.reduce((least, value) => Math.min(least, value), Infinity), max: finite.reduce((most, value) => Math.max(most, value), -Infinity),
  };
}
