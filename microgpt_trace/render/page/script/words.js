// A glossary for readers who meet the words of a page for the first time, and tooltips with its meanings.

import {html} from "./dom.js";

export const WORDS = [
	["array, event", "the values that one operation computes: one row per position, one column per channel"],
	[
		"position, token",
		"the text is split into tokens, one at each position; BOS comes before the first token, EOS after " +
			"the last token"
	],
	["L2", "the size of an array: the square root of the sum of its squares"],
	[
		"residual",
		"the residual stream: a row of channels for each position, which every layer reads and adds to"
	],
	["norm", "scales each row to a standard size before a block reads it"],
	["q, k, v", "query, key and value: what a position looks for, what it offers, and what it passes on"],
	["scores", "query times key: how well the query of a position matches each key that it sees"],
	["weights", "the softmax of the scores: shares that sum to 1, by which the values are mixed"],
	["head", "one of several attention operations that run side by side, each on separate channels"],
	["context, out", "the mixed values, and what attention adds to the residual stream"],
	[
		"up, act, down",
		"the MLP: expand to more channels (its units), cut off or dampen what is below 0, and shrink back"
	],
	[
		"logits, probs",
		"a number for each token that may come next, and the softmax of these numbers: the probabilities"
	],
	["mask", "hides later positions from a query, so that the model cannot look ahead"],
	["ReLU", "a function that keeps numbers above 0 and sets all other numbers to 0"],
	["RMSNorm", "divides a row by the root of the mean of its squares, so that all rows have the same size"],
	["MLP", "the part of a layer that works on each position alone, with units that switch on and off"],
	["attention", "the part of a layer that fetches numbers from earlier positions"],
	["wte, wpe", "the tables with the learned numbers of each token and of each position"],
	["temperature", "divides the scores before the softmax: below 1, likely tokens become likelier"],
	["KL", "how far two distributions differ: the mean of log(P / Q) under P"],
	["softmax", "exp of each number, divided by the sum of all these exp"],
	[
		"loss",
		"the mean of -log P over the tokens that really come next; it is 0 if the model is certain of all of them"
	],
	["rank", "the place of a token in the order of probability; the most likely token has rank 1"],
	[
		"gradient",
		"d loss / d value: how much the loss, or the logit whose gradient it is, changes per unit of " +
			"change in the number"
	],
	["update", "what one training step adds to a parameter"]
];

const MEANINGS = new Map(WORDS.flatMap(([terms, words]) => terms.split(", ").map(term => [term, words])));
// also everyday words
const PLAIN = new Set(
	"head scores weights context out up act down norm rank update position array event".split(" ")
);
const LONG = Array.from(MEANINGS.keys())
	.filter(term => term.length > 1 && !PLAIN.has(term))
	.toSorted((a, b) => b.length - a.length);
const PATTERN = new RegExp(
	`\\b(${LONG.map(term => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})(s?)\\b`,
	"gi"
);

/** The parts of a text. The first occurrence of each known term is an element with a tooltip. */
export function withTerms(text) {
	const parts = [];
	const seen = new Set();
	let last = 0;
	for (const match of text.matchAll(PATTERN)) {
		const [whole, term] = match;
		const meaning = MEANINGS.get(term) ?? MEANINGS.get(term.toLowerCase());
		if (seen.has(meaning)) continue;
		seen.add(meaning);
		parts.push(text.slice(last, match.index), html.abbr({title: meaning}, whole));
		last = match.index + whole.length;
	}
	return [...parts, text.slice(last)];
}
