// Names of tokens for readers who learn: "·" is the start of a name, and "stop" its end.

import {html} from "./dom.js";

const SHOWN = {BOS: "·", EOS: "stop"};

/** The token as it stands in the picture. */
export const letterOf = label => SHOWN[label] ?? label;

/** A text in the font of letters. */
export const inLetters = text => html.b({class: "letters"}, text);

const NTH = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"];

/** A position in words: "the start", "e", or "the first m" if the letter occurs again. */
export function placeWords(run, position) {
	const label = run.labels[position];
	if (label === "BOS") return "the start";
	const places = Array.from(run.labels.keys()).filter(at => run.labels[at] === label);
	return places.length === 1
		? letterOf(label)
		: `the ${NTH[places.indexOf(position)] ?? `${places.indexOf(position) + 1}th`} ${letterOf(label)}`;
}

/** A token, with its position if the token occurs again: "␣D" or "␣D (7)". */
export const namedToken = (run, at) =>
	run.labels[at] +
	(run.labels.indexOf(run.labels[at]) !== run.labels.lastIndexOf(run.labels[at]) ? ` (${at})` : "");

/** A key as its query sees it: "itself", "the start", "the e before it", "the second a". */
export function keyWords(run, query, key) {
	if (key === query) return "itself";
	if (key === query - 1 && key > 0) return `the ${letterOf(run.labels[key])} before it`;
	const words = placeWords(run, key);
	return words.startsWith("the ") ? words : `the ${words}`;
}
