// Compute one element by its formula, with all steps and terms.
//
// A run has `array(name, gradient)`, `shape(name)`, its `tokens` and their `targets`. A formula has the sizes of
// the axes and a list of steps. A step is a sum of terms, and a term is a function of a product of factors.

import { functionOf } from "./expressions.js";

const OVERFLOW = 300; // if |x| exceeds it, the largest x is subtracted before exp

/** Sizes as numbers, where "T" becomes the length of the text. */
export const sizesOf = (sizes, length) => sizes.map((size) => (size === "T" ? length : size));

/** The index along each axis, for an element of a flat array. */
export function placeOf(flat, sizes) {
  const place = sizes.slice();
  let rest = flat;
  for (let axis = sizes.length - 1; axis >= 0; axis -= 1) {
    place[axis] = rest % sizes[axis];
    rest = Math.floor(rest / sizes[axis]);
  }
  return place;
}

/** The place in a flat array of the element with this index. */
export const flatOf = (place, sizes) => place.reduce((flat, at, axis) => flat * sizes[axis] + at, 0);

/** Return true if the query of an element does not see its key. */
export function isHidden(hidden, place) {
  if (!hidden) return false;
  const back = place[hidden[0]] - place[hidden[1]];
  return back < 0 || (hidden[2] !== null && back >= hidden[2]);
}

/** Compute an element in float64. Returns its value, its steps with their terms (if `keep` is set), and a magnitude.
    Rounding errors are a small share of the magnitude. */
export function workedOut(formula, flat, run, keep = true) {
  const place = placeOf(flat, sizesOf(formula.sizes, run.length));
  if (isHidden(formula.hidden, place)) return { value: 0, magnitude: 0, steps: [], hidden: true };
  const steps = [];
  for (const step of formula.steps) steps.push(step.along ? alongOf(step, place, [...steps], run) : stepOf(step, place, steps, run, keep));
  const last = steps.at(-1);
  return { value: last.value, magnitude: last.magnitude, steps: last.count ? steps : [last], hidden: false };
}

/** Compute all elements of an array. */
export function allOf(formula, run) {
  const count = sizesOf(formula.sizes, run.length).reduce((a, b) => a * b, 1);
  return Float64Array.from({ length: count }, (_, flat) => workedOut(formula, flat, run, false).value);
}

/** A step with a result for each place along its ranges. A result is computed when it is first read. */
function alongOf(step, place, before, run) {
  const cache = new Map();
  const results = (along) => {
    const key = along.join();
    if (!cache.has(key)) cache.set(key, stepOf(step, place, before, run, true, along));
    return cache.get(key);
  };
  return { label: step.label, along: step.along.length, results, count: 0, terms: [] };
}

/** The result of a step for a term at the place `at`, whose first `axes` numbers are the place of the element. */
const resultOf = (step, at, axes) => (step.results ? step.results(at.slice(axes, axes + step.along)) : step);

function stepOf(step, place, before, run, keep, along = []) {
  const result = { label: step.label ?? "", value: 0, magnitude: 0, count: 0, exact: true, terms: [] };
  let sum = 0;
  let lost = 0; // the rounding errors of the sum (Neumaier's summation)
  let largest = -Infinity;
  let smallest = Infinity;
  const at = [...place, ...along];
  const add = (term, factors, of, runs) => {
    const values = factors.map((factor) => factor(at));
    let x = 1;
    let magnitude = 1;
    let exact = term.less === undefined;
    for (const factor of values) {
      magnitude = magnitude * Math.abs(factor.value) + Math.abs(x) * (factor.magnitude - Math.abs(factor.value));
      x *= factor.value;
      exact &&= Boolean(factor.exact);
    }
    if (term.less !== undefined) {
      const subtracted = resultOf(before[term.less], at, place.length);
      magnitude += subtracted.magnitude - Math.abs(x);
      x -= subtracted.value;
      magnitude += Math.abs(x);
    }
    result.exact &&= exact;
    const value = of(x);
    largest = Math.max(largest, x);
    smallest = Math.min(smallest, x);
    const next = sum + value;
    if (Number.isFinite(next)) lost += Math.abs(sum) >= Math.abs(value) ? sum - next + value : value - next + sum;
    sum = next;
    result.count += 1;
    if (keep) result.magnitude += sizeOf(of, term, x, value, magnitude);
    if (keep) result.terms.push({ factors: values, value, text: written(term, before), at: runs.length ? at[runs[0]] : null, over: term.over?.[0] });
  };
  for (const term of step.t) {
    if (term.where && !isTarget(term.where, place, run)) continue;
    const factors = term.x.map((factor) => reader(factor, before, run, place.length));
    const of = functionOf(term.f ?? "");
    const over = term.over ?? [];
    const runs = over.map((_, n) => place.length + n);
    overAll(over, along.length, at, place.length, run, () => add(term, factors, of, runs));
  }
  result.value = step.guard ? guarded(largest, smallest) : sum + lost;
  if (step.guard) result.magnitude = 0; // the largest x is copied, so it has no rounding error
  else if (result.exact) result.magnitude = Math.abs(result.value);
  result.guard = Boolean(step.guard);
  return result;
}

/** Return true if the target of a position is known. If the element has a token, the target must be this token. */
function isTarget([position, token], place, run) {
  const target = run.targets[place[position]];
  return target !== null && (token === undefined || target === place[token]);
}

/** The number to subtract before exp: 0, or the largest x if exp would overflow or underflow in float64. */
const guarded = (largest, smallest) => (Math.abs(largest) < OVERFLOW && smallest >= -OVERFLOW ? 0 : largest);

function overAll(over, n, at, first, run, each) {
  if (n === over.length) {
    each();
    return;
  }
  const [size, of, axis, window] = over[n];
  const count = size === "T" ? run.length : size;
  let [start, stop] = [0, count];
  if (of === "keys") [start, stop] = [window ? Math.max(0, at[axis] - window + 1) : 0, at[axis] + 1];
  if (of === "queries") [start, stop] = [at[axis], window ? Math.min(count, at[axis] + window) : count];
  if (of === "itself") [start, stop] = [at[axis], Math.min(at[axis] + 1, count)];
  for (let place = start; place < stop; place += 1) {
    if (of === "tokens" && run.tokens[place] !== at[axis]) continue;
    if (of === "known" && run.targets[place] === null) continue;
    at[first + n] = place;
    overAll(over, n + 1, at, first, run, each);
  }
  at.length = first + n;
}

/** A function that returns, for a place along axes and ranges, the value of a factor and its magnitude. */
function reader(factor, before, run, axes) {
  if (factor.of !== undefined) return elementReader(factor, before, run, axes);
  if (factor.step !== undefined) {
    const { label } = before[factor.step];
    return (at) => {
      const { value, magnitude, exact } = resultOf(before[factor.step], at, axes);
      if (factor.prefix === "1/") return { words: `1/${label}`, value: 1 / value, magnitude: magnitude / (value * value), exact };
      if (factor.prefix === "-") return { words: `-(${label})`, value: -value, magnitude, exact };
      return { words: label, value, magnitude, exact };
    };
  }
  if (factor.place !== undefined) {
    return (at) => ({ words: "position", value: at[factor.place], magnitude: at[factor.place], exact: true });
  }
  if (factor.share !== undefined) {
    const known = run.targets.filter((target) => target !== null).length;
    const result = { words: `${factor.share < 0 ? "-" : ""}1/${known}`, value: factor.share / known, magnitude: 1 / known, exact: true };
    return () => result;
  }
  return (at) => {
    const value = factor.along === undefined ? factor.is : factor.is[at[factor.along]];
    return { words: factor.say, value, magnitude: Math.abs(value), exact: true };
  };
}

function elementReader(factor, before, run, axes) {
  const gradient = factor.d === 1;
  const array = run.array(factor.of, gradient);
  if (!array) throw new RangeError(`${factor.of} is not in this page`);
  const shape = run.shape(factor.of);
  return (at) => {
    const flat = flatOf(factor.at.map((spot) => spotOf(spot, at, run)), shape);
    if (array.exact && !array.exact(flat)) throw new RangeError(`${factor.of} is in this page only as an 8-bit picture`);
    const value = array[flat];
    if (factor.less === undefined) return { name: factor.of, gradient, flat, value, magnitude: Math.abs(value) };
    const subtracted = resultOf(before[factor.less], at, axes);
    const rest = value - subtracted.value;
    return { words: `(${factor.of} - ${subtracted.label})`, value: rest, magnitude: Math.abs(rest) + subtracted.magnitude };
  };
}

/** The place along an axis of an array: the place along an axis of the element, or computed from several axes. */
export function spotOf(spot, at, run) {
  if (typeof spot === "number") return at[spot];
  let place = spot[0];
  for (const [axis, stride, table] of spot.slice(1)) {
    place += (table === undefined ? at[axis] : (run[table] ?? table)[at[axis]]) * stride;
  }
  return place;
}

/** The magnitude of f(x), for its rounding error: |f(x)|, or |slope| * magnitude of x if this is larger. */
function sizeOf(of, term, x, value, magnitude) {
  if (!term.f) return magnitude;
  const step = Math.max(magnitude, 1e-300) * 1e-7;
  const slope = Math.abs(of(x + step) - of(x - step)) / (2 * step);
  const spread = Number.isFinite(slope) ? slope * magnitude : 0;
  const size = Math.max(Math.abs(value), spread);
  return term.beside ? Math.max(size, Math.abs(functionOf(term.beside)(x))) : size;
}

/** The function of a term as text, including the number that is subtracted from x. */
function written(term, before) {
  const less = term.less === undefined ? 0 : (before[term.less].value ?? 0);
  const shown = less === 0 ? "x" : `(x ${less < 0 ? "+" : "-"} ${Math.abs(less)})`;
  if (!term.f) return less === 0 ? "" : shown;
  return less === 0 ? term.f : term.f.replace(/\bx\b/g, shown);
}
