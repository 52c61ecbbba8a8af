// The prediction of the model after a position: all candidates as bars. If the run has changes, each
// candidate also has its original probability.

import {bar, button, html, tableOf} from "./dom.js";
import {rowAt} from "./elements.js";
import {chance, counted, likeliestFirst, short} from "./numbers.js";

const FIRST = 10; // number of candidates that are shown at first

export function predictionView({page, run, original, position, go, set, options: {expanded}}) {
	const candidates = candidatesOf(page, run, position);
	const heading = more =>
		html.h2("Prediction", html.small(` after position ${position} (${run.labels[position]})${more}`));
	const none = words =>
		html.section(
			{class: "prediction", "aria-label": "Prediction"},
			heading(""),
			html.p({class: "dim"}, words)
		);
	if (!candidates)
		return page.predictions.length
			? none("The trace has no prediction for this position. Add it with --positions.")
			: null;
	if (candidates.order.some(token => Number.isNaN(candidates.p[token])))
		return none("There is no prediction, because the probabilities are not finite.");
	const before = original && candidatesOf(page, original, position);
	const target = run.targets[position];
	const leads = run.of(page.probabilities, "value")
		? page.probabilities
		: page.row(page.probabilities).inputs[0];
	const rows = candidates.order.map(token =>
		chanceRow(
			token === target,
			button(page.vocabulary[token], () => go({of: "value", name: leads, index: [position, token]}), {
				class: "link"
			}),
			chance(candidates.p[token]),
			bar(candidates.p[token], before?.p[token]),
			before && html.td({class: "n dim"}, chance(before.p[token]))
		)
	);
	const follows =
		target === null
			? ""
			: `; the next token is ${page.vocabulary[target]}, rank ` +
				`${candidates.rank ?? candidates.order.indexOf(target) + 1}`;
	const heads = before && [null, "P", null, "original"];
	const more = html.details(
		{open: expanded, ontoggle: event => set({expanded: event.target.open}, false)},
		html.summary(counted(rows.length - FIRST, "more token")),
		tableOf({kind: "bars", title: "other candidates", heads, rows: rows.slice(FIRST)})
	);
	return html.section(
		{class: "prediction", "aria-label": "Prediction"},
		heading(follows),
		tableOf({kind: "bars", title: "candidates", heads, rows: rows.slice(0, FIRST)}),
		rows.length > FIRST && more,
		lossOf(page, run, original)
	);
}

/** A row of a table of tokens: the name of a token, its probability and a bar. */
export const chanceRow = (isTarget, name, p, picture, more = null) =>
	html.tr(
		{class: isTarget && "target"},
		html.th({scope: "row"}, name),
		html.td({class: "n"}, p),
		html.td(picture),
		more
	);

/** The mean loss over all positions, and the mean loss of the original run if the run has changes. */
function lossOf(page, run, original) {
	const loss = page.events.at(-1);
	if (loss.axes.length || !run.of(loss.name, "value")) return null;
	const lossIn = each => short(each.of(loss.name, "value")[0], 5);
	return html.p("mean loss ", html.strong(lossIn(run)), original ? `, original ${lossIn(original)}` : "");
}

/** The probabilities after a position, and its tokens, the most likely first. The page may hold only some of
    the tokens. Null if it holds none. */
function candidatesOf(page, run, position) {
	if (!page.probabilities || !run.of(page.probabilities, "value"))
		return listed(page.predictions.find(prediction => prediction.position === position));
	const p = rowAt(run, page.probabilities, position);
	return {p, order: likeliestFirst(p)};
}

function listed(prediction) {
	if (!prediction) return null;
	const p = Object.fromEntries(prediction.top);
	const order = prediction.top.map(([token]) => token);
	const [target, likelihood, rank] = prediction.target ?? [];
	if (target !== undefined && !order.includes(target)) {
		order.push(target);
		p[target] = likelihood;
	}
	return {p, order, rank};
}
