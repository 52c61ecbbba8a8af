// The cards under the picture: the chosen line of attention in two sentences, and the parts that can be taken
// out.

import {likeliest} from "./answer_view.js";
import {button, html, shareBar} from "./dom.js";
import {sharesInWords, sharesOf} from "./head_card.js";
import {inLetters, keyWords, letterOf, placeWords} from "./letters.js";
import {chance, moves, percent, short} from "./numbers.js";

const LEAST = 0.05; // nats; a line that moves log P by less does not stand out

/** The card of the chosen line. `rivals` is the number of lines that were compared with it, or null. */
export function lineCard({page, run, line, chances, rivals, explain, toggle, next, state}) {
	const [query, key] = [placeWords(run, line.query), keyWords(run, line.query, line.key)];
	const layer = page.picture.layers.length > 1 ? `Layer ${line.layer}, head` : "Head";
	const target = run.targets[line.query];
	const isCut = state.off.includes(line.name);
	const real = inLetters(letterOf(page.vocabulary[target]));
	const [now, after] = [chances(line.query)[target], line.p];
	const top = line.after
		? likeliest(page, line.after, null, 5)
				.map(({label}) => letterOf(label))
				.join(" ")
		: "";
	const isKnown = Number.isFinite(now) && Number.isFinite(after);
	const effect = isCut
		? [`The line is cut: its share is 0, and the other shares stay.`]
		: !isKnown
			? ["The chances are not finite."]
			: line.after
				? [
						"Cut this line, and the chance of ",
						real,
						` ${moves(now, after)}; the five likeliest letters become `,
						inLetters(top),
						"."
					]
				: ["This line carries nothing."];
	const stands = !isKnown
		? ""
		: Math.abs(line.effect) < LEAST && rivals
			? "No line stands out: whichever is cut, its letter's chance hardly changes."
			: rivals
				? `Chosen by the page: ${rivals === 1 ? "the other line changes its letter's chance less" : `none of the other ${rivals} lines changes its letter's chance as much`}.`
				: "";
	return html.section(
		{class: "card", "aria-label": "The chosen line"},
		html.h2(
			`${layer} ${line.head} looks from ${query} ${line.key === line.query ? "at itself" : `back to ${key}`}`,
			html.small(` ${page.shortName(line.attention, line.layer)}[${line.head},${line.query},${line.key}]`)
		),
		html.p(
			line.query ? `Reading ${query}` : "At the start",
			`, head ${line.head} takes `,
			html.b(`${short(100 * line.share)} %`),
			` from ${key}. `,
			effect
		),
		run.length > 2 ? html.p(habit(run, line)) : null,
		stands ? html.p({class: "dim"}, stands) : null,
		html.p(
			{class: "buttons"},
			button(`Why ${percent(line.share)} %?`, () => explain(line), {key: "why", class: "primary"}),
			button(isCut ? "Put it back" : "Cut this line", () => toggle(line.name), {key: "cut", pressed: isCut}),
			button("Next line", next, {key: "next line"})
		)
	);
}

/** Where the head of a line looks in the whole name, in sentences. A letter can be in several of these
    places. */
export function habit(run, {attention, head}) {
	const places = {previous: "the letter before", first: "the start", itself: "the letter itself"};
	const shares = sharesOf(run, run.of(attention, "value"), head);
	const [before, start, itself] = sharesInWords(shares, places).map(
		([words, share]) => `${percent(share)} % to ${words}`
	);
	const again =
		shares.repeat === null
			? ""
			: ` For a letter that occurred before, it gives ${percent(shares.repeat)} % to the earlier places ` +
				"of this letter, which may include the letter before.";
	return (
		`In this name, head ${head} gives on average ${before}, ${start} and ${itself}. For the first ` +
		`letter, the letter before is the start.${again}`
	);
}

/** The card with a switch for each part. The bar of a part shows the chance of the real next letter if the
    switch is pressed, and a rule shows the chance now. */
export function partsCard({page, run, position, parts, now, state, toggle}) {
	const target = letterOf(page.vocabulary[run.targets[position]]);
	const most = 1.15 * Math.max(now, ...parts.map(({p}) => p), 1e-9);
	const rows = parts.map(({name, words, p}) => {
		const isOff = state.off.includes(name);
		return html.li(
			button([], () => toggle(name), {
				key: `part ${name}`,
				role: "switch",
				"aria-checked": String(!isOff),
				"aria-label": words,
				title: isOff ? `put ${words} back` : `take ${words} out`
			}),
			html.span(words),
			shareBar(p / most, {rule: now / most}),
			html.span({class: "n"}, chance(p))
		);
	});
	return html.section(
		{class: "card", "aria-label": "Take something out"},
		html.h2("Take something out"),
		html.p({class: "dim"}, "→ chance of ", inLetters(target), ", now ", chance(now)),
		html.ul({class: "parts"}, rows)
	);
}
