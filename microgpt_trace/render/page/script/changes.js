// What a reader can change in a run (parts that are taken out, and parameters), and what one more change
// would do to a prediction. The page runs the model again for each change.

import {nameOf, parsed, partOf, rowAt} from "./elements.js";
import {flatOf, placeOf} from "./formulas.js";
import {short} from "./numbers.js";

/** The parts of the model that can be taken out, each with its event and its name in words. */
export function partsOf(page) {
	const {layers, places} = page.picture;
	const named = (words, layer) => (layers.length > 1 ? `layer ${layer} ${words}` : words);
	const columns = layers.flatMap(({layer, parts}) =>
		parts.flatMap(({heads = [], writes}) => [
			...heads.map((name, head) => ({name, words: named(`head ${head}`, layer)})),
			...(writes ? [{name: writes, words: named("MLP", layer)}] : [])
		])
	);
	return [...columns, ...places.map(name => ({name, words: "places"}))];
}

/** The changes of a state, each in a few words. */
export function changesInWords(page, state) {
	const words = new Map(partsOf(page).map(part => [part.name, part.words]));
	return [
		...state.off.map(name => `${words.get(name) ?? name} out`),
		...Object.entries(state.parameters).map(([name, value]) => `${name} = ${short(value)}`)
	];
}

/** The parts that are out, after one part changes sides. */
export const toggled = (off, part) =>
	off.includes(part) ? off.filter(other => other !== part) : [...off, part];

/** The ablations and parameter changes of a state, in the form that Page.ownRun takes: functions and
    arrays. */
export function changesOf(page, state) {
	const events = new Map();
	for (const part of state.off) {
		const {name, index} = partOf(part);
		const before = events.get(name);
		events.set(name, (values, shape) => {
			before?.(values, shape);
			values.forEach((_, flat) => {
				const place = placeOf(flat, shape);
				if (index.every((at, axis) => at === null || at === place[axis])) values[flat] = 0;
			});
		});
	}
	const parameters = new Map();
	for (const [element, value] of Object.entries(state.parameters)) {
		const {name, index} = parsed(element, page);
		const values = parameters.get(name) ?? Float64Array.from(page.stored.get(name));
		values[flatOf(index, page.shapeOf(name, 1))] = value;
		parameters.set(name, values);
	}
	return {events, parameters};
}

/** The softmax of logits. */
export function softmax(logits) {
	const largest = Math.max(...logits);
	const powers = logits.map(logit => Math.exp(logit - largest));
	const sum = powers.reduce((a, b) => a + b, 0);
	return powers.map(power => power / sum);
}

/** The probabilities after a position. */
export const chancesAfter = (page, run, position) =>
	softmax(rowAt(run, page.row(page.probabilities).inputs[0], position));

/** The probabilities after a position if the model has the changes of a state. */
export const chancesWithChanges = (page, state, run, position) =>
	chancesAfter(page, page.ownRun(run.tokens, run.targets, changesOf(page, state)), position);

/** The same run after one more change, as far as the logits. Only one row is computed if `row` is given. */
function runWith(page, state, run, off, {event, row}) {
	return page.ownRun(run.tokens, run.targets, changesOf(page, {...state, off}), {
		run,
		event,
		row,
		last: page.row(page.probabilities).inputs[0]
	});
}

/** The probability of the real next token after a position if a part changes sides: taken out, or put back if
    it is out. */
export const chanceWith = (page, state, run, part, position) => chancesWith(page, state, run, part)[position];

/** These probabilities at every position. */
export function chancesWith(page, state, run, part) {
	const changed = runWith(page, state, run, toggled(state.off, part), {event: partOf(part).name, row: null});
	return run.targets.map((target, at) => chancesAfter(page, changed, at)[target]);
}

/** The lines of attention: each query with each key that it sees, in each head. `effect` is the change of log
    P of the token that follows the query if the weight alone becomes 0. The lines with the largest effects
    come first. */
export function linesOf(page, state, run, queries = run.tokens.keys()) {
	const wanted = new Set(queries);
	const lines = [];
	for (const {layer, parts} of page.picture.layers) {
		for (const {attention, heads} of parts.filter(part => part.attention)) {
			const weights = run.of(attention, "value");
			const before = run.targets.map((target, position) => chancesAfter(page, run, position)[target]);
			heads.forEach((_, head) =>
				run.tokens.forEach((__, query) =>
					run.tokens.forEach((___, key) => {
						const share = weights[(head * run.length + query) * run.length + key];
						if (
							!wanted.has(query) ||
							page.isMasked(attention, [head, query, key]) ||
							run.targets[query] === null
						)
							return;
						const name = nameOf(attention, [head, query, key]);
						const after =
							share === 0
								? null
								: chancesAfter(
										page,
										runWith(page, state, run, [...state.off, name], {event: attention, row: query}),
										query
									);
						const p = after ? after[run.targets[query]] : before[query];
						lines.push({
							name,
							attention,
							layer,
							head,
							query,
							key,
							share,
							p,
							after,
							effect: Math.log(p / before[query]) || 0
						});
					})
				)
			);
		}
	}
	return lines.toSorted((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
}
