// The logit lens at one position: the tokens that the model would predict if it ended after each layer, and
// the probability and rank of a target token, also after each attention.

import {html, tableOf, wide} from "./dom.js";
import {chance, counted} from "./numbers.js";

/** The section of the logit lens, or null if the page has none for this position. */
export function lensView({page, run, position}) {
	const {lens} = page;
	const nth = lens?.positions.indexOf(position) ?? -1;
	if (nth < 0 || !run.traced) return null;
	const candidates = new Map(
		lens.rows.map(([layer, cells]) => [
			layer,
			cells[nth].map(([token, p]) => `${page.vocabulary[token]} ${chance(p)}`).join("  ") || "–"
		])
	);
	const followed = lens.target.filter(([, at]) => at === position);
	const isLast = n =>
		page.row(followed[n][0]).layer !== (followed[n + 1] && page.row(followed[n + 1][0]).layer);
	const rows = followed.length
		? followed.map(([event, , p, rank], n) => [
				event,
				isLast(n) ? candidates.get(page.row(event).layer) : "",
				chance(p),
				rank === null ? "–" : rank.toLocaleString("en")
			])
		: Array.from(candidates, ([layer, words]) => [`layer ${layer}`, words]);
	const numbers = followed.length ? [`P of ${lens.label}`, "rank"] : [];
	const table = tableOf({
		title: "the logit lens, layer by layer",
		heads: [
			"after",
			"the model would predict",
			...numbers.map(words => html.th({scope: "col", class: "n"}, words))
		],
		rows: rows.map(([after, ...cells]) =>
			html.tr(
				html.th({scope: "row"}, after),
				cells.map((words, n) => html.td({class: n ? "n" : "letters"}, words))
			)
		)
	});
	return html.section(
		{class: "lenses", "aria-label": "Logit lens"},
		html.h2(
			"Logit lens",
			html.small(
				` after position ${position} (${run.labels[position]}): what the model would predict if it ` +
					"ended there"
			)
		),
		html.details(html.summary(counted(rows.length, "row")), wide("logit lens", table))
	);
}
