// The answer bar, which stays in sight: the tokens, the likeliest next tokens, and the probability of the
// real next token, before and after the changes of the reader.

import {button, html, shareBar} from "./dom.js";
import {letterOf} from "./letters.js";
import {chance, likeliestFirst, short} from "./numbers.js";

const TOP = 5;

/** The likeliest `count` tokens, the real next token always among them, with their probabilities. */
export function likeliest(page, chances, target, count) {
	const top = likeliestFirst(chances).slice(0, count);
	if (target !== null && !top.includes(target)) top[count - 1] = target;
	return top.map(token => ({token, label: page.vocabulary[token], p: chances[token]}));
}

const ORDINALS = ["th", "st", "nd", "rd"];

/** A rank such as "1st", "12th" or "23rd". */
export const ordinal = rank =>
	`${rank.toLocaleString("en")}${ORDINALS[rank % 100 > 10 && rank % 100 < 14 ? 0 : rank % 10] ?? "th"}`;

/** The rank of a token. */
export const rankOf = (chances, token) => 1 + chances.filter(p => p > chances[token]).length;

/** The bar of a run of this page. `before` are the probabilities without changes, or null if nothing was
    changed. */
export function answerView({page, run, original, position, chances, before, select}) {
	const target = run.targets[position];
	const read = run.labels.slice(1, position + 1).join("");
	const now = chances[target];
	const was = before?.[target];
	const moved =
		was === undefined ? "" : ` · ${was > now ? "÷" : "×"} ${short(was > now ? was / now : now / was, 3)}`;
	const rank =
		was === undefined
			? ordinal(rankOf(chances, target))
			: `${ordinal(rankOf(before, target))} → ${ordinal(rankOf(chances, target))}`;
	const lossOf = each => short(each.of(page.events.at(-1).name, "value")[0]);
	const loss = original ? `${lossOf(original)} → ${lossOf(run)}` : lossOf(run);
	return answerBar({
		run,
		position,
		select,
		question: read ? ["After ", html.b({class: "letters"}, read), ", what comes next?"] : "What comes first?",
		choices: likeliest(page, chances, target, TOP).map(({token, label, p}) => ({
			label,
			p,
			before: before?.[token],
			isReal: token === target
		})),
		value: was === undefined ? chance(now) : `${chance(was).replace(/ %$/, "")} → ${chance(now)}`,
		words: [
			"chance of ",
			html.b({class: "letters"}, letterOf(page.vocabulary[target])),
			`, which really follows${moved}`,
			html.br(),
			Number.isFinite(now) ? `${rank} of ${chances.length} · ` : "",
			`mean loss ${loss}`
		]
	});
}

/** The elements of a bar: the tokens, the question, the choices with their probabilities, and the `value`
    with its words. */
export function answerBar({run, position, select, question, choices, value, words}) {
	const tiles = run.tokens.map((token, at) =>
		button(letterOf(run.labels[at]), () => select(at), {
			key: `token ${at}`,
			pressed: at === position,
			class: "token",
			title: `position ${at}, token ${token}, ${run.labels[at]}`
		})
	);
	const bars = choices.map(({label, p, before, isReal}) =>
		html.div(
			{class: isReal ? "choice real" : "choice"},
			html.span({class: "letter"}, letterOf(label)),
			html.span({class: "n"}, (100 * p).toPrecision(3)),
			shareBar(p, {before})
		)
	);
	return [
		html.div({class: "tiles", id: "tokens", role: "group", "aria-label": "tokens"}, tiles),
		html.div({class: "asked"}, html.p({class: "question"}, question), html.div({class: "choices"}, bars)),
		html.div({class: "verdicts"}, html.output({id: "chance"}, value), html.p({class: "dim"}, words))
	];
}
