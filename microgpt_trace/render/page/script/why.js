// Answers to questions that a number may raise, with the figures of the run.

import {keyWords} from "./letters.js";
import {chance, counted, short} from "./numbers.js";

/** A sentence about the element or the array `at`, or null if it raises no question. */
export function whyOf(page, run, at) {
	const {kind, positive} = page.row(at.name);
	if (at.of !== "value" || !page.has(at.name)) return null;
	if (kind === "Softmax") return whyShare(run, at);
	if (kind === "Norm" && run.shape(at.name).length === 2) return whyNorm(run, at);
	if (kind === "Activation" && positive) return whyZero(page, run, at);
	return null;
}

function whyShare(run, {name, index}) {
	const [head, query, key] = index;
	const values = run.of(name, "value");
	if (query === 0 && values[head * run.length * run.length] === 1)
		return "The first place sees only itself. Its shares have to sum to 100 %, so its own share is 100 %.";
	if (index.length < 3 || values.exact) return null;
	const row = Array.from(
		values.slice(
			(head * run.length + query) * run.length,
			(head * run.length + query) * run.length + query + 1
		)
	);
	const larger = row.filter(share => share > row[key]).length;
	if (key > query) return "This place comes later, so the query does not see it.";
	return larger
		? `The shares of the ${row.length} places that this query sees sum to 100 %. ${larger} of them ` +
				`${larger === 1 ? "is" : "are"} larger.`
		: `Of the ${counted(row.length, "place")} that this query sees, head ${head} looks most at ` +
				`${keyWords(run, query, key)}: ${chance(row[key])}.`;
}

/** The root of the mean square of each row is 1 after RMSNorm without a gain, so L2 follows from the size. */
function whyNorm(run, {name}) {
	const values = run.of(name, "value");
	if (!values || values.exact) return null;
	const [rows, width] = run.shape(name);
	const size = Math.hypot(...values);
	const expected = Math.sqrt(rows * width);
	if (Math.abs(size / expected - 1) > 1e-3) return null;
	const all =
		rows === 1 ? "" : `, and all ${rows} rows together have √(${rows}·${width}) = ${short(expected)}`;
	return (
		"A norm divides each row by its own size, so that the mean of its squares is 1. Each row of " +
		`${counted(width, "number")} has an L2 of √${width} = ${short(Math.sqrt(width))}${all}, whatever came ` +
		"before."
	);
}

function whyZero(page, run, {name, index}) {
	const values = run.of(name, "value");
	const [source] = page.row(name).inputs;
	if (!values || values.exact || !run.of(source, "value")) return null;
	const zeros = values.filter(value => value === 0).length;
	if (index.length < 2)
		return `${zeros} of ${counted(values.length, "number")} ${zeros === 1 ? "is" : "are"} 0, because ReLU sets every number below 0 to 0.`;
	const before = run.of(source, "value")[index[0] * run.shape(name)[1] + index[1]];
	return before > 0
		? `The number before ReLU is ${short(before)}, which is above 0, so ReLU passes it on.`
		: `The number before ReLU is ${short(before)}, which is not above 0, so ReLU makes it 0: the unit is ` +
				"off.";
}
