// The uses of a number: in each array that is computed from it, the element to which it contributes most.

import {placeOf, sizesOf, spotOf, workedOut} from "./formulas.js";

const MOST = 3e6; // largest number of terms to search

/** The formulas that read an array, each with the name of the array that the formula computes. */
export function readersOf(page, name, gradient) {
	const readers = [];
	const reads = formula =>
		formula.steps.some(step =>
			step.t.some(term => term.x.some(x => x.of === name && (x.d === 1) === gradient))
		);
	for (const row of [...page.events, ...page.parameters]) {
		const isEvent = page.has(row.name);
		const forward = isEvent && row.parts.includes(name) ? row.ofParts : row.formula;
		const isMasked = place => page.isMasked(row.name, place);
		if (!gradient && isEvent && forward && reads(forward))
			readers.push({name: row.name, gradient: false, formula: forward, isMasked});
		if (!gradient) continue;
		for (const [formula] of row.ways) {
			if (reads(formula)) readers.push({name: row.name, gradient: true, formula, isMasked});
		}
	}
	return readers;
}

/** The output to which an element contributes most, and how many outputs read the element. Null if no output
    does. If an output is not a sum with the element, as in a softmax, the output at the place of the element
    wins. */
export function strongestUse({name: result, formula, isMasked}, run, name, gradient, flat) {
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
		const hasElement = term =>
			term.factors.some(x => x.name === name && x.gradient === gradient && x.flat === flat);
		const steps = worked.steps
			.map((step, at) => [at, step.terms.filter(hasElement)])
			.filter(([, terms]) => terms.length);
		if (!steps.length) continue;
		count += 1;
		const [[at, terms]] = steps;
		const term = terms.at(-1);
		const isSummed = !term.text || worked.steps[at].count > 1;
		const scale = steps.length === 1 && isSummed ? scaleOf(formula, worked, at) : null;
		const adds = scale === null ? null : terms.reduce((sum, each) => sum + each.value, 0) * scale;
		const weight =
			adds === null && output === flat && run.shape(name).join() === shapeOf.join()
				? Infinity
				: Math.abs(term.value);
		if (!best || weight > best.weight) best = {output, weight, adds, value: worked.value};
	}
	return best && {...best, count};
}

/** The factor by which the sum of a step enters the value. Null if the value is not a factor times the
    sum. */
function scaleOf(formula, worked, at) {
	const last = formula.steps.length - 1;
	if (at === last) return 1;
	const [{x, f, less}, ...others] = formula.steps[last].t;
	const isSum = factor => factor.step === at && !factor.prefix;
	if (others.length || f || less !== undefined || x.filter(isSum).length !== 1) return null;
	if (!x.every(factor => isSum(factor) || factor.is !== undefined || factor.share !== undefined)) return null;
	return worked.steps[last].terms[0].factors.reduce(
		(scale, {value}, n) => (isSum(x[n]) ? scale : scale * value),
		1
	);
}

/** Return true if the output at `place` may read the element at `index`. Any index may lie in the range of a
    sum. */
function mayRead(formula, place, name, gradient, index, run) {
	const axesOf = spot =>
		typeof spot === "number" ? [spot] : spot.slice(1).flatMap(([axis]) => axesOf(axis));
	const fits = (spot, at) =>
		axesOf(spot).some(axis => axis >= place.length) || spotOf(spot, place, run) === at;
	return formula.steps.some(step =>
		step.t.some(term =>
			term.x.some(
				x => x.of === name && (x.d === 1) === gradient && x.at.every((spot, axis) => fits(spot, index[axis]))
			)
		)
	);
}
