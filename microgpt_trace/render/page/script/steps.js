// The traced steps of a training run: which step to show, and curves over all steps.

/** The index of the step nearest to the requested step, or the last index if the request is not a number. */
export function placeOf(steps, request) {
	const step = Number(request);
	if (request === undefined || request === "" || !Number.isFinite(step)) return steps.length - 1;
	return steps.reduce(
		(best, other, n) => (Math.abs(other - step) < Math.abs(steps[best] - step) ? n : best),
		0
	);
}

/** Read a number from a log. Null stays null, and the texts "NaN" and "Infinity" become numbers. */
export const numberOf = value => (value === null || value === undefined ? null : Number(value));

/** Cut a series into at most `most` parts. Return the middle step of each part and the mean of its finite
    values. */
export function meansOf(steps, values, most) {
	const size = Math.max(1, Math.ceil(values.length / most));
	const means = [];
	for (let from = 0; from < values.length; from += size) {
		const finite = Array.from(values.slice(from, from + size)).filter(Number.isFinite);
		if (finite.length)
			means.push([
				steps[Math.min(values.length - 1, from + (size >> 1))],
				finite.reduce((sum, value) => sum + value, 0) / finite.length
			]);
	}
	return means;
}
