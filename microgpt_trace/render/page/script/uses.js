// Where a number goes: of each array that is worked out from it, the element in which it weighs most.

import { placeOf, sizesOf, spotOf, workedOut } from "./formulas.js";

const MOST = 3e6; // terms that are looked through

/** The formulas in which an array is read, each with the array that it is of. */
export function readersOf(page, name, gradient) {
  const found = [];
  const reads = (formula) => formula.steps.some((step) => step.t.some((term) => term.x.some((x) => x.of === name && (x.d === 1) === gradient)));
  for (const row of [...page.events, ...page.parameters]) {
    const isEvent = page.has(row.name);
    const own = isEvent && row.parts.includes(name) ? row.ofParts : row.formula;
    const isMasked = (place) => page.isMasked(row.name, place);
    if (!gradient && isEvent && own && reads(own)) found.push({ name: row.name, gradient: false, formula: own, isMasked });
    if (!gradient) continue;
    for (const [, formula] of page.waysOf(row.name)) {
      if (reads(formula)) found.push({ name: row.name, gradient: true, formula, isMasked });
    }
  }
  return found;
}

/** The element of a formula's array in which one weighs most, of how many it is read in; null of none. Where
    it adds nothing to a sum, but takes part in what others are divided by, the element at its own place. */
export function strongestUse({ name: result, formula, isMasked }, run, name, gradient, flat) {
  const shapeOf = run.shape(result);
  const sizes = sizesOf(formula.sizes, run.length);
  const outputs = sizes.reduce((a, b) => a * b, 1);
  const shape = run.shape(name);
  const own = placeOf(flat, shape);
  let best = null;
  let count = 0;
  let looked = 0;
  for (let output = 0; output < outputs && looked < MOST; output += 1) {
    const place = placeOf(output, sizes);
    if (isMasked(place) || !mayRead(formula, place, name, gradient, own, run)) continue;
    const worked = workedOut(formula, output, run);
    looked += worked.steps.reduce((sum, step) => sum + step.count, 0);
    const isOwn = (term) => term.factors.some((x) => x.name === name && x.gradient === gradient && x.flat === flat);
    const steps = worked.steps.map((step, at) => [at, step.terms.filter(isOwn)]).filter(([, terms]) => terms.length);
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

/** What a step's sum is multiplied by to give the value; null where that is not all that is done with it. */
function scaleOf(formula, worked, at) {
  const last = formula.steps.length - 1;
  if (at === last) return 1;
  const [{ x, f, less }, ...others] = formula.steps[last].t;
  const isSum = (factor) => factor.step === at && !factor.taken;
  if (others.length || f || less !== undefined || x.filter(isSum).length !== 1) return null;
  if (!x.every((factor) => isSum(factor) || factor.is !== undefined || factor.share !== undefined)) return null;
  return worked.steps[last].terms[0].factors.reduce((scale, { value }, n) => (isSum(x[n]) ? scale : scale * value), 1);
}

/** Whether an element's index fits what a formula reads for an output, the ranges of sums left open. */
function mayRead(formula, place, name, gradient, own, run) {
  const axesOf = (spot) => (typeof spot === "number" ? [spot] : spot.slice(1).map(([axis]) => axis));
  const fits = (spot, at) => axesOf(spot).some((axis) => axis >= place.length) || spotOf(spot, place, run) === at;
  return formula.steps.some((step) => step.t.some((term) => term.x.some((x) => x.of === name && (x.d === 1) === gradient && x.at.every((spot, axis) => fits(spot, own[axis])))));
}

