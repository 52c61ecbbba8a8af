// Where a number goes: of each array that is worked out from it, the element in which it weighs most.

import { placeOf, sizesOf, workedOut } from "./formulas.js";

const MOST = 3e6; // terms that are looked through

/** The formulas in which an array is read, each with the array that it is of. */
export function readersOf(page, name, gradient) {
  const found = [];
  const wanted = `"of":"${name}"`;
  const reads = (formula) => formula.steps.some((step) => step.t.some((term) => term.x.some((x) => x.of === name && (x.d === 1) === gradient)));
  for (const row of [...page.events, ...page.parameters]) {
    const isEvent = page.has(row.name);
    const own = isEvent && row.parts.includes(name) ? page.formula(row.ofParts, row.layer) : page.formulaOf(row.name);
    if (!gradient && isEvent && own && reads(own)) found.push({ name: row.name, gradient: false, formula: own });
    if (!gradient) continue;
    for (const [, formula] of page.waysOf(row.name)) {
      if (JSON.stringify(formula).includes(wanted) && reads(formula)) found.push({ name: row.name, gradient: true, formula });
    }
  }
  return found;
}

/** The element of a formula's array in which one weighs most, of how many it is read in; null of none. Where
    it is no term of the last sum, but one of those that others are divided by, the element at its own place. */
export function strongestUse({ name: result, formula }, run, name, gradient, flat) {
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
    if (!mayRead(formula, place, name, gradient, own, run)) continue;
    const worked = workedOut(formula, output, run);
    looked += worked.steps.reduce((sum, step) => sum + step.count, 0);
    const terms = worked.steps.flatMap((step) => step.terms);
    const term = terms.findLast((each) => each.factors.some((x) => x.name === name && x.gradient === gradient && x.flat === flat));
    if (!term) continue;
    count += 1;
    const isLast = worked.steps.at(-1).terms.includes(term) || worked.steps.length <= 2;
    const adds = isLast && !term.text ? term.value : null;
    const weight = adds === null && output === flat && run.shape(name).join() === shapeOf.join() ? Infinity : Math.abs(term.value);
    if (!best || weight > best.weight) best = { output, weight, adds, value: worked.value };
  }
  return best && { ...best, count };
}

/** Whether an element's index fits what a formula reads for an output, the ranges of sums left open. */
function mayRead(formula, place, name, gradient, own, run) {
  const fits = (spot, at) => {
    if (typeof spot === "number") return spot >= place.length || place[spot] === at;
    let fixed = spot[0];
    for (const [axis, stride, table] of spot.slice(1)) {
      if (axis >= place.length) return true;
      fixed += (table === undefined ? place[axis] : (run[table] ?? table)[place[axis]]) * stride;
    }
    return fixed === at;
  };
  return formula.steps.some((step) => step.t.some((term) => term.x.some((x) => x.of === name && (x.d === 1) === gradient && x.at.every((spot, axis) => fits(spot, own[axis])))));
}

