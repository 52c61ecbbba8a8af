// Compute one element by its formula, with all steps and terms.
//
// A run has `array(name, gradient)`, `shape(name)`, its `tokens` and their `targets`. A formula has the sizes
// of the axes and a list of steps. A step is a sum of terms, and a term is a function of a product of
// factors.

import {functionOf} from "./expressions.js";

const OVERFLOW = 300; // if |x| exceeds it, the largest x is subtracted before exp

/** Sizes as numbers, where "T" becomes the length of the text. */
export const sizesOf = (sizes, length) => sizes.map(size => (size === "T" ? length : size));

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
	const [query, key] = [place[hidden[0]], place[hidden[1]]];
	return key > query || key < firstKey(query, hidden[2]);
}

/** The first key in the window of a query. A window of -n means chunks of n positions. */
function firstKey(query, window) {
	if (!window) return 0;
	return window < 0 ? query - (query % -window) : Math.max(0, query - window + 1);
}

/** Compute an element in float64. Returns its value, its steps with their terms (if `keep` is set), and a
    magnitude. Rounding errors are a small share of the magnitude. */
export const workedOut = (formula, flat, run, keep = true) => evaluatorOf(formula, run, keep)(flat);

/** Compute all elements of an array, or only the elements of the position `only.row` in an array of the shape
    `only.shape`. The other elements are then those of the array `only.others`. */
export function rowsOf(formula, run, only = null) {
	const count = sizesOf(formula.sizes, run.length).reduce((a, b) => a * b, 1);
	const evaluate = evaluatorOf(formula, run, false);
	const [rows, width] = only && only.shape.length > 1 ? only.shape.slice(-2) : [1, count];
	const values = new Float64Array(only?.others ?? count);
	for (let from = rows > 1 ? only.row * width : 0; from < count; from += rows * width) {
		for (let flat = from; flat < from + width; flat += 1) values[flat] = evaluate(flat).value;
	}
	return values;
}

/** A function that computes the element at a place in the flat array. */
function evaluatorOf(formula, run, keep) {
	const sizes = sizesOf(formula.sizes, run.length);
	const steps = formula.steps.map(step => ({
		...step,
		terms: step.t.map(term => readable(term, run, sizes.length))
	}));
	return flat => {
		const place = placeOf(flat, sizes);
		if (isHidden(formula.hidden, place)) return {value: 0, magnitude: 0, steps: [], hidden: true};
		const results = [];
		for (const step of steps)
			results.push(
				step.along ? alongOf(step, place, [...results], run, keep) : stepOf(step, place, results, run, keep)
			);
		const last = results.at(-1);
		return {
			value: last.value,
			magnitude: last.magnitude,
			steps: last.count ? results : [last],
			hidden: false
		};
	};
}

/** A term with functions that read its factors. */
const readable = (term, run, axes) => ({
	...term,
	over: term.over ?? [],
	of: functionOf(term.tree ?? "x"),
	factors: term.x.map(factor => reader(factor, run, axes))
});

/** A step with a result for each place along its ranges. A result is computed when it is first read. */
function alongOf(step, place, before, run, keep) {
	const cache = new Map();
	const results = along => {
		const key = along.join();
		if (!cache.has(key)) cache.set(key, stepOf(step, place, before, run, keep, along));
		return cache.get(key);
	};
	return {label: step.label, along: step.along.length, results, count: 0, terms: []};
}

/** The result of a step for a term at the place `at`, whose first `axes` numbers are the place of the
    element. */
const resultOf = (step, at, axes) => (step.results ? step.results(at.slice(axes, axes + step.along)) : step);

function stepOf(step, place, before, run, keep, along = []) {
	const result = {
		label: step.label ?? "",
		value: 0,
		magnitude: 0,
		count: 0,
		exact: true,
		terms: [],
		guard: Boolean(step.guard)
	};
	let sum = 0;
	let lost = 0; // the rounding errors of the sum (Neumaier's summation)
	let largest = -Infinity;
	let smallest = Infinity;
	const at = [...place, ...along];
	const add = term => {
		const record = keep ? recorded(term, at, before, place.length) : null;
		let x = 1;
		for (const factor of term.factors) x *= factor.value(at, before);
		if (term.less !== undefined) x -= resultOf(before[term.less], at, place.length).value;
		const value = term.of(x);
		largest = Math.max(largest, x);
		smallest = Math.min(smallest, x);
		const next = sum + value;
		if (Number.isFinite(next))
			lost += Math.abs(sum) >= Math.abs(value) ? sum - next + value : value - next + sum;
		sum = next;
		result.count += 1;
		if (!keep) return;
		result.exact &&= record.exact;
		result.magnitude += sizeOf(term, x, value, record.magnitude);
		result.terms.push({
			factors: record.factors,
			value,
			text: written(term, before),
			at: term.over.length ? at[place.length] : null,
			over: term.over[0]
		});
	};
	for (const term of step.terms) {
		if (term.where && !isTarget(term.where, place, run)) continue;
		if (term.within && !isWithin(term.within, place)) continue;
		const isSame = () => !term.same || spotOf(term.same[0], at, run) === at[term.same[1]];
		overAll(term.over, along.length, at, place.length, run, () => isSame() && add(term));
	}
	result.value = step.guard ? guarded(largest, smallest) : sum + lost;
	if (step.guard)
		result.magnitude = 0; // the largest x is copied, so it has no rounding error
	else if (result.exact) result.magnitude = Math.abs(result.value);
	return result;
}

/** The factors of a term in words, the magnitude of their product, and whether all of them are exact. */
function recorded(term, at, before, axes) {
	const factors = term.factors.map(factor => factor.described(at, before));
	let x = 1;
	let magnitude = 1;
	for (const factor of factors) {
		magnitude =
			magnitude * Math.abs(factor.value) + Math.abs(x) * (factor.magnitude - Math.abs(factor.value));
		x *= factor.value;
	}
	if (term.less === undefined) return {factors, magnitude, exact: factors.every(({exact}) => exact)};
	const subtracted = resultOf(before[term.less], at, axes);
	return {
		factors,
		magnitude: magnitude + subtracted.magnitude - Math.abs(x) + Math.abs(x - subtracted.value),
		exact: false
	};
}

/** Return true if the place along an axis belongs to a range of places. */
const isWithin = ([axis, first, end], place) => place[axis] >= first && place[axis] < end;

/** Return true if the target of a position is known. If the element has a token, the target must be this
    token. */
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
	if (of === "keys") [start, stop] = [firstKey(at[axis], window), at[axis] + 1];
	if (of === "queries") start = at[axis];
	if (of === "itself") [start, stop] = [at[axis], Math.min(at[axis] + 1, count)];
	for (let place = start; place < stop; place += 1) {
		if (of === "tokens" && run.tokens[place] !== at[axis]) continue;
		if (of === "known" && run.targets[place] === null) continue;
		if (of === "queries" && firstKey(place, window) > at[axis]) break;
		at[first + n] = place;
		overAll(over, n + 1, at, first, run, each);
	}
	at.length = first + n;
}

/** Functions that return, for a place along axes and ranges and the results of the steps before, the value of
    a factor and its description: words or the name of an element, and its magnitude. */
function reader(factor, run, axes) {
	if (factor.of !== undefined) return elementReader(factor, run, axes);
	if (factor.step !== undefined) return stepReader(factor, axes);
	const described = constantOf(factor, run);
	return {value: at => described(at).value, described};
}

function stepReader({step, prefix}, axes) {
	const described = (at, before) => {
		const {label} = before[step];
		const {value, magnitude, exact} = resultOf(before[step], at, axes);
		if (prefix === "1/")
			return {words: `1/${label}`, value: 1 / value, magnitude: magnitude / (value * value), exact};
		if (prefix === "-") return {words: `-(${label})`, value: -value, magnitude, exact};
		return {words: label, value, magnitude, exact};
	};
	return {value: (at, before) => described(at, before).value, described};
}

/** A function that describes a factor that is no element: a position, a share of the targets, or a number of
    the plan. */
function constantOf(factor, run) {
	if (factor.place !== undefined)
		return at => ({words: "position", value: at[factor.place], magnitude: at[factor.place], exact: true});
	if (factor.share !== undefined) {
		const known = run.targets.filter(target => target !== null).length;
		const result = {
			words: `${factor.share < 0 ? "-" : ""}1/${known}`,
			value: factor.share / known,
			magnitude: 1 / known,
			exact: true
		};
		return () => result;
	}
	return at => {
		const value = factor.along === undefined ? factor.is : factor.is[at[factor.along]];
		return {words: factor.say, value, magnitude: Math.abs(value), exact: true};
	};
}

function elementReader(factor, run, axes) {
	const gradient = factor.d === 1;
	let array;
	let shape; // a page has no shape of an array that it lacks
	const flatAt = at => {
		array ??= arrayOf(factor.of, gradient, run);
		shape ??= run.shape(factor.of);
		let flat = 0;
		for (let axis = 0; axis < shape.length; axis += 1)
			flat = flat * shape[axis] + spotOf(factor.at[axis], at, run);
		if (array.exact && !array.exact(flat))
			throw new RangeError(`${factor.of} is in this page only as an 8-bit picture`);
		return flat;
	};
	const subtracted = (at, before) => resultOf(before[factor.less], at, axes);
	const described = (at, before) => {
		const flat = flatAt(at);
		const value = array[flat];
		if (factor.less === undefined)
			return {name: factor.of, gradient, flat, value, magnitude: Math.abs(value)};
		const less = subtracted(at, before);
		return {
			words: `(${gradient ? "d " : ""}${factor.of} - ${less.label})`,
			value: value - less.value,
			magnitude: Math.abs(value - less.value) + less.magnitude
		};
	};
	const isPlain = factor.less === undefined;
	return {
		value: (at, before) => {
			const flat = flatAt(at);
			return isPlain ? array[flat] : array[flat] - subtracted(at, before).value;
		},
		described
	};
}

function arrayOf(name, gradient, run) {
	const array = run.array(name, gradient);
	if (!array) throw new RangeError(`${name} is not in this page`);
	return array;
}

/** The place along an axis of an array: the place along an axis of the element, or computed from several
    axes. */
export function spotOf(spot, at, run) {
	if (typeof spot === "number") return at[spot];
	let place = spot[0];
	for (const [axis, stride, table] of spot.slice(1)) {
		const entry = spotOf(axis, at, run);
		place += (table === undefined ? entry : entriesOf(table, run)[entry]) * stride;
	}
	return place;
}

/** The entries of a table: numbers, the tokens or targets of the run, or the elements of an event. */
const entriesOf = (table, run) =>
	typeof table === "string" ? (run[table] ?? arrayOf(table, false, run)) : table;

/** The magnitude of f(x), for its rounding error: |f(x)|, or |slope| * magnitude of x if this is larger. */
function sizeOf(term, x, value, magnitude) {
	if (!term.f) return magnitude;
	const {of} = term;
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
