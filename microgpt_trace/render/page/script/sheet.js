// The table and the questions of the printed sheet: the chance of the real next letter at every place, now
// and with each part out.

import {ordinal, rankOf} from "./answer_view.js";
import {chancesAfter, chancesWith, partsOf} from "./changes.js";
import {html, tableOf} from "./dom.js";
import {letterOf} from "./letters.js";
import {chance} from "./numbers.js";

/** The sheet of a run, with questions about the chosen lane and its line. */
export function sheetOf({page, state, run, position, line}) {
	const parts = partsOf(page).map(({name, words}) => ({
		words,
		isOut: state.off.includes(name),
		chances: chancesWith(page, state, run, name)
	}));
	const percent = p => (100 * p).toPrecision(3);
	const rows = run.tokens.map((_, at) => {
		const all = chancesAfter(page, run, at);
		const p = all[run.targets[at]];
		const cells = [
			percent(p),
			ordinal(rankOf(all, run.targets[at])),
			...parts.map(({chances}) => percent(chances[at]))
		];
		return html.tr(
			{class: at === position ? "total" : ""},
			html.td(run.labels.slice(1, at + 1).join("") || "·"),
			html.td(letterOf(page.vocabulary[run.targets[at]])),
			cells.map(text => html.td({class: "n"}, text))
		);
	});
	const heads = [
		"read",
		"next",
		"chance",
		"rank",
		...parts.map(({words, isOut}) => `${isOut ? "with" : "no"} ${words}`)
	];
	return html.section(
		{class: "sheet"},
		html.h2("Chance of the real next letter in %, and with one part out"),
		tableOf({heads, rows}),
		html.h2("Questions to discuss"),
		html.ul(questionsOf({page, run, position, line, parts}).map(question => html.li(question)))
	);
}

function questionsOf({page, run, position, line, parts}) {
	const now = chancesAfter(page, run, position)[run.targets[position]];
	const size = ({chances}) => Math.abs(Math.log(chances[position] / now));
	const most = parts.reduce((a, b) => (size(b) > size(a) ? b : a));
	const letter = letterOf(page.vocabulary[run.targets[position]]);
	const first =
		`${most.isOut ? "With" : "Without"} ${most.words}, the chance of ${letter} goes from ${chance(now)} ` +
		`to ${chance(most.chances[position])}. Why?`;
	return [
		first,
		line
			? `Head ${line.head} looks most at one place. Which other head looks there too, and does the ` +
				"answer need both?"
			: "Which part matters least here, and why?"
	];
}
