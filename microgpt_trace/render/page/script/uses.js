// The uses of a number: in each array that is computed from it, the element that it contributes most to.

import { placeOf, sizesOf, spotOf, workedOut } from "./formulas.js";

const MOST = 3e6; // terms that are searched

/** The formulas that read an array, each with the name of the array that it computes. */
export function readersOf(page, name, gradient) {
  const readers = [];
  const reads = (formula) => formula.steps.some((step) => step.t.some((term) => term.x.some((x) => x.of === name && (x.d === 1) === gradient)));
  for (const row of [...page.events, ...page.parameters]) {
    const isEvent = page.has(row.name);
    const forward = isEvent && row.parts.includes(name) ? row.ofParts : row.formula;
    const isMasked = (place) => page.isMasked(row.name, place);
    if (!gradient && isEvent && forward && reads(forward)) readers.push({ name: row.name, gradient: false, formula: forward, isMasked });
    if (!gradient) continue;
    for (const [, formula] of page.waysOf(row.name)) {
      if (reads(formula)) readers.push({ name: row.name, gradient: true, formula, isMasked });
    }
  }
  return readers;
}

/** The output that an element contributes most to, and the count of outputs that read it; null if none does. The
    output at the element's own place wins if the element is not simply added to it, as in a softmax. */
export function strongestUse({ name: result, formula, isMasked }, run, name, gradient, flat) {
  const shapeOf = run.shape(result);
  const sizes = sizesOf(formula.sizes, run.length);
  const outputs = sizes.reduce((a, b) => a * b, 1);
  const shape = run.shape(name);
  const index = placeOf(flat, shape);
  let best = null;
  let count = 0;
  let looked = 0;
  for (let output = 0; output < outputs && looked < MOST; output += 1) {
    const place = placeOf(output, sizes);
    if (isMasked(place) || !mayRead(formula, place, name, gradient, index, run)) continue;
    const worked = workedOut(formula, output, run);
    looked += worked.steps.reduce((sum, step) => sum + step.count, 0);
    const hasElement = (term) => term.factors.some((x) => x.name === name && x.gradient === gradient && x.flat === flat);
    const steps = worked.steps.map((step, at) => [at, step.terms.filter(hasElement)]).filter(([, terms]) => terms.length);
    if (!steps.length) continue;
    count += 1;
    const [[at, terms]] = steps;
    const term = terms.at(-1);
    const isSummed = !term.text || worked.steps[at].count > 1;
    const scale = steps.length === 1 && isSummed ? scaleOf(formula, worked, at) : null;
    const adds = scale === null ? null : terms.reduce((sum, each) => sum + each.value, 0) * scale;
    const weight = adds === null && output === flat && run.shape(name).join() === shapeOf.join() ? Infinity : Math.abs(term.value);
    if (!best || weight > best.weight) best = { output, weight, adds, value: worked.value };
  }
  return best && { ...best, count };
}

/** The factor from the sum of a step to the value; null if the value is not the sum times a factor. */
function scaleOf(formula, worked, at) {
  const last = formula.steps.length - 1;
  if (at === last) return 1;
  const [{ x, f, less }, ...others] = formula.steps[last].t;
  const isSum = (factor) => factor.step === at && !factor.taken;
  if (others.length || f || less !== undefined || x.filter(isSum).length !== 1) return null;
  if (!x.every((factor) => isSum(factor) || factor.is !== undefined || factor.share !== undefined)) return null;
  return worked.steps[last].terms[0].factors.reduce((scale, { value }, n) => (isSum(x[n]) ? scale : scale * value), 1);
}

/** Return true if a formula may read the element at `index` for the output at `place`; ranges of sums fit any index. */
function mayRead(formula, place, name, gradient, index, run) {
  const axesOf = (spot) => (typeof spot === "number" ? [spot] : spot.slice(1).map(([axis]) => axis));
  const fits = (spot, at) => axesOf(spot).some((axis) => axis >= place.length) || spotOf(spot, place, run) === at;
  return formula.steps.some((step) => step.t.some((term) => term.x.some((x) => x.of === name && (x.d === 1) === gradient && x.at.every((spot, axis) => fits(spot, index[axis])))));
}

