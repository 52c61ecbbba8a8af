// Write the next letter: the chances at a temperature, and letters that a seeded random number picks by these
// chances.

import {chancesAfter, softmax} from "./changes.js";
import {button, html} from "./dom.js";
import {inLetters, letterOf} from "./letters.js";
import {chance} from "./numbers.js";

const [COLDEST, HOTTEST] = [0.2, 2];
const LEAST_WIDTH = 0.035; // share of the width of the bar that a segment needs for its letter

/** The softmax of logits divided by a temperature, from the probabilities at temperature 1. */
export const heated = (chances, temperature) => softmax(chances.map(p => Math.log(p) / temperature));

/** A number from 0 to 1 that depends only on a seed and on how many letters were written before it. The
    generator is mulberry32, which mixes the bits of a counter. */
export function randomAt(seed, count) {
	let bits = (seed * 0x9e3779b1 + count * 0x6d2b79f5) | 0;
	bits = Math.imul(bits ^ (bits >>> 15), bits | 1);
	bits ^= bits + Math.imul(bits ^ (bits >>> 7), bits | 61);
	return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
}

/** The token whose segment of the bar from 0 to 1 contains a number. */
export function tokenAt(chances, number) {
	let end = 0;
	const token = chances.findIndex(p => {
		end += p;
		return number < end;
	});
	return token < 0 ? chances.length - 1 : token;
}

/** The card. `runOf(text)` runs the model with the changes of the reader. */
export function writeCard({page, state, set, text, runOf}) {
	const temperature = state.temperature ?? 1;
	const seed = state.seed ?? 1;
	const end = page.tokenizer.bos;
	const chancesOf = each => {
		const run = runOf(each);
		return chancesAfter(page, run, run.length - 1);
	};
	const drawn = each => tokenAt(heated(chancesOf(each), temperature), randomAt(seed, each.length));
	const write = most => {
		let name = text;
		for (let n = 0; n < most && name.length < page.tokenizer.most; n += 1) {
			const token = drawn(name);
			if (token === end) break;
			name += page.write([token]);
		}
		set({text: name, position: name.length, line: null, seed, temperature});
	};
	const now = chancesOf(text);
	const number = randomAt(seed, text.length);
	const isOver = text.length >= page.tokenizer.most || drawn(text) === end;
	const picked = heat => {
		const chances = heated(now, heat);
		const token = tokenAt(chances, number);
		const what =
			token === end
				? ["stop: the name ends here. Stop"]
				: [inLetters(letterOf(page.vocabulary[token])), ", which"];
		return [
			html.p(
				{class: "dim"},
				`temperature ${heat.toFixed(1)}: ` +
					(heat === 1 ? "as the model thinks" : `${heat < 1 ? "likely" : "unlikely"} letters are likelier`)
			),
			barOf(page, chances, number),
			html.p(
				"After ",
				inLetters(text || "the start"),
				`, seed ${seed} picks `,
				what,
				` has a chance of ${chance(chances[token])}.`
			)
		];
	};
	const pick = html.div(picked(temperature));
	const slider = html.input({
		type: "range",
		min: COLDEST,
		max: HOTTEST,
		step: 0.1,
		value: temperature,
		"aria-label": "temperature",
		"data-key": "temperature",
		oninput: event => pick.replaceChildren(...picked(Number(event.target.value))),
		onchange: event => set({temperature: Number(event.target.value)})
	});
	return html.section(
		{class: "card write", "aria-label": "Write the next letter"},
		html.h2("Write the next letter"),
		html.p({class: "heat"}, "cautious ", slider, " wild"),
		pick,
		html.p(
			{class: "buttons"},
			button("One letter", () => write(1), {key: "write one", class: "primary", disabled: isOver}),
			button("To the end", () => write(page.tokenizer.most), {key: "write all", disabled: isOver}),
			button("Another seed", () => set({seed: seed + 1, temperature}), {key: "seed"}),
			button("From nothing", () => set({text: "", position: 0, line: null, seed, temperature}), {
				key: "empty"
			})
		)
	);
}

/** All chances side by side as one bar of 100 %, with a marker where the random number falls. */
function barOf(page, chances, number) {
	const segments = chances.map((p, token) => {
		const letter = letterOf(page.vocabulary[token]);
		return html.span(
			{title: `${letter} ${chance(p)}`, style: {width: `${100 * p}%`}},
			p >= LEAST_WIDTH ? letter : ""
		);
	});
	return html.div(
		{
			class: "segments",
			role: "img",
			"aria-label": "all chances side by side; the marker shows where the random number falls"
		},
		segments,
		html.span({class: "marker", style: {left: `${100 * number}%`}})
	);
}
