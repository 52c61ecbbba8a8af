// The traced steps of a training run: which one is shown, and curves over them. Knows no page.

/** The place of the step, or the position, that is nearest to one that is asked for; the last where none is. */
export function placeOf(steps, asked) {
  const wanted = Number(asked);
  if (asked === undefined || asked === "" || !Number.isFinite(wanted)) return steps.length - 1;
  let best = 0;
  steps.forEach((step, n) => {
    if (Math.abs(step - wanted) < Math.abs(steps[best] - wanted)) best = n;
  });
  return best;
}

/** A number that may be missing, or be spelled as JSON spells what is not finite. */
export const known = (value) => (value === null || value === undefined ? null : Number(value));

/** The largest finite magnitude of a curve. */
export const peakOf = (curve) => Math.max(0, ...curve.map(known).filter((value) => value !== null && Number.isFinite(value)).map(Math.abs));

/** Means of so many runs of a series, each as [middle, mean]; what is not finite is left out. */
export function meansOf(steps, values, most) {
  const size = Math.max(1, Math.ceil(values.length / most));
  const found = [];
  for (let from = 0; from < values.length; from += size) {
    const own = Array.from(values.slice(from, from + size)).filter(Number.isFinite);
    if (own.length) found.push([steps[Math.min(values.length - 1, from + (size >> 1))], own.reduce((sum, value) => sum + value, 0) / own.length]);
  }
  return found;
}
