// The tour: a card under the picture that asks a question before it shows the numbers. The rest of the
// picture is dimmed. A step has a title, a text, a question with options and their numbers, and what the
// numbers show. All numbers and all options are computed from the run.

import {likeliest} from "./answer_view.js";
import {chancesAfter, chanceWith, changesOf, partsOf} from "./changes.js";
import {button, html} from "./dom.js";
import {rowAt} from "./elements.js";
import {keyWords, letterOf, placeWords} from "./letters.js";
import {chance, counted, percent, short} from "./numbers.js";
import {withTerms} from "./words.js";
import {heated} from "./write_view.js";

const SAME = 1.25; // a chance within this factor counts as about the same
const COUNTS = ["", "", "two", "three", "four", "five", "six", "seven", "eight"];

/** The card of a step, the part of the picture that the step is about, and whether the numbers are hidden.
    `answer` is the number of the chosen option, -1 if only the numbers are shown, or null. */
export function tourCard(context, {step, answer, move, choose, leave, explain}) {
	const steps = stepsOf(context);
	const at = Math.min(step, steps.length) - 1;
	const {part, title, text, question, options, after, why} = steps[at];
	const isOpen = answer !== null || !question;
	const guess = options[answer];
	const verdict = !guess
		? ""
		: guess.isBest
			? "Right. "
			: `A fair guess; it is ${options
					.filter(({isBest}) => isBest)
					.map(({words}) => words)
					.join(" or ")}. `;
	const dots = html.span(
		{class: "dots-of", "aria-hidden": "true"},
		steps.map((_, n) => html.span({class: n === at ? "now" : n < at ? "done" : ""}))
	);
	const choices = question
		? options.map(({words, shown, isBest}, n) =>
				button(
					[
						html.small({"aria-hidden": "true"}, `${n + 1} `),
						words,
						isOpen && shown ? html.b(` · ${shown}`) : ""
					],
					() => choose(n),
					{key: `option ${n}`, pressed: answer === n, class: isOpen && isBest ? "best" : ""}
				)
			)
		: [];
	const control = (key, words, act, kind) => button(words, act, {key, class: kind});
	const card = html.section(
		{class: "tour", "aria-label": "Tour"},
		html.p(
			{class: "tour-head"},
			dots,
			html.span({class: "dim"}, `step ${at + 1} of ${steps.length}`),
			control("leave", "×", leave, "shut-tour")
		),
		html.h2({id: "tour-title", tabindex: -1}, title),
		html.p(withTerms(text)),
		question
			? html.div(
					{class: "ask"},
					html.p(html.b(question)),
					html.p({class: "buttons", role: "group", "aria-label": "answers"}, choices),
					html.p({role: "status"}, isOpen ? [html.b(verdict), after] : "")
				)
			: html.p(after),
		html.p(
			{class: "buttons"},
			at > 0 ? control("back", "‹ Back", () => move(at)) : null,
			isOpen
				? at + 1 < steps.length
					? control("next", "Next ›", () => move(at + 2), "primary")
					: control("end", "Done", leave, "primary")
				: control("show", "Show the numbers", () => choose(-1), "primary"),
			isOpen && why ? control("explain", "Why?", () => explain(why)) : null,
			html.small({class: "dim"}, "← back, → on, 1 2 3 answers, w why, esc leaves")
		)
	);
	return {card, part, isMasked: !isOpen};
}

/** The steps for a lane and its chosen line of attention. An element of a step's `why` is explained on
    request. */
function stepsOf(context) {
	const {page, run, position, line} = context;
	const chances = chancesAfter(page, run, position);
	const target = run.targets[position];
	const read = run.labels.slice(1, position + 1).join("") || "the start";
	if (!chances.every(Number.isFinite))
		return [
			{
				part: "answer",
				title: "No tour",
				text: "The chances of this run are not finite, so there is nothing to ask.",
				options: [],
				after: ""
			}
		];
	const of = page.picture.layers.length > 1 ? ` of layer ${line?.layer ?? 0}` : "";
	const facts = {
		...context,
		chances,
		target,
		read,
		of,
		word: token => letterOf(page.vocabulary[token]),
		here: placeWords(run, position)
	};
	const steps = [
		taskOf(facts),
		lettersOf(facts),
		placesOf(facts),
		...(line ? [lookingOf(facts), scoresOf(facts), matterOf(facts)] : []),
		unitsOf(facts),
		answerOf(facts),
		writingOf(facts)
	];
	return steps.filter(
		step => step && (!step.question || step.options.filter(({isBest}) => isBest).length === 1)
	);
}

/** Options with their numbers. The right one is the option with the largest value of `best`. */
const optionsOf = (list, best) =>
	list.map(option => ({...option, isBest: best(option) === Math.max(...list.map(best))}));

/** Options for a factor, in order: the right one with the words `shown`, and two of the wrong ones. */
function factorsOf(right, wrong, shown) {
	const texts = wrong
		.filter(Number.isFinite)
		.map(factor => short(factor, 3))
		.filter(text => text !== short(right, 3) && text !== "0" && !text.includes("e"));
	return [short(right, 3), ...new Set(texts)]
		.slice(0, 3)
		.map((text, n) => ({words: `${text} times`, shown: n ? "" : shown, isBest: n === 0}))
		.toSorted((a, b) => Number.parseFloat(a.words) - Number.parseFloat(b.words));
}

/** The heads of the chosen line's attention. */
const headsOf = ({page, line}) =>
	page.picture.layers[line.layer].parts.find(part => part.attention === line.attention).heads;

function taskOf({page, position, chances, target, read, word}) {
	const top = likeliest(page, chances, target, 3)
		.map(({token, p}) => ({words: word(token), p, shown: chance(p)}))
		.toSorted((a, b) => a.words.localeCompare(b.words));
	const [first] = likeliest(page, chances, null, 1);
	return {
		part: "answer",
		title: "The task",
		why: [page.probabilities, "chance"],
		text:
			"A name is read letter by letter. After each letter, the model gives every possible next letter a " +
			`chance. ${counted(page.vocabulary.length - 1, "letter")} and "stop" share 100 %. The model has read ` +
			`${position ? read : "nothing yet"}.`,
		question: "Which letter would you bet on?",
		options: optionsOf(top, ({p}) => p),
		after:
			first.token === target
				? `${word(target)}, which really follows, is the likeliest letter with ${chance(first.p)}.`
				: `${word(first.token)} is the likeliest letter with ${chance(first.p)}. ${word(target)}, which ` +
					`really follows, has ${chance(chances[target])}.`
	};
}

function lettersOf({page, run, position, isTrained}) {
	const [table] = page.picture.tables;
	const {
		reads: [name]
	} = page.row(table);
	const [count, width] = page.shapeOf(name, 1);
	const values = run.of(name, "value");
	const row = token => Array.from(values.slice(token * width, (token + 1) * width));
	const dot = (a, b) => a.reduce((sum, value, n) => sum + value * b[n], 0);
	const own = row(run.tokens[position]);
	const others = Array.from({length: count}, (_, token) => token)
		.filter(token => token !== run.tokens[position] && page.seen[token] !== "BOS")
		.map(token => ({token, cosine: dot(own, row(token)) / Math.hypot(...own) / Math.hypot(...row(token))}))
		.toSorted((a, b) => b.cosine - a.cosine);
	if (others.length < 3) return null;
	const list = [others[0], others[others.length >> 1], others.at(-1)]
		.map(({token, cosine}) => ({words: letterOf(page.seen[token]), cosine, shown: short(cosine, 2)}))
		.toSorted((a, b) => a.words.localeCompare(b.words));
	const label = letterOf(run.labels[position]);
	return {
		part: "table",
		title: "Letters",
		why: [table, null],
		text:
			`A letter has no size, so the model keeps ${counted(width, "number")} for each letter. ` +
			(isTrained
				? "Nobody chose these numbers: training did. Letters that are used alike come to have similar " +
					"numbers. "
				: "No training of this model is recorded, so its numbers may be random. ") +
			"Blue is below zero, orange above.",
		question: `Whose numbers are most like those of ${label === "·" ? "the start" : label}?`,
		options: optionsOf(list, ({cosine}) => cosine),
		after:
			"The cosine measures likeness: 1 means the same direction, 0 nothing in common. " +
			`${letterOf(page.seen[others[0].token])} comes nearest with ${short(others[0].cosine, 2)}.`
	};
}

function placesOf({page, state, run, position, line, chances, target, read, word}) {
	const [place] = page.picture.places;
	if (!place || state.off.includes(place)) return null;
	const now = chances[target];
	const p = chanceWith(page, state, run, place, position);
	const label = letterOf(run.labels[position]);
	const isTwice = run.labels.filter(each => each === run.labels[position]).length > 1;
	const kind = p < now / SAME ? 0 : p > now * SAME ? 2 : 1;
	const options = ["lower", "about the same", "higher"].map((words, n) => ({
		words,
		shown: n === kind ? `${chance(now)} → ${chance(p)}` : "",
		isBest: n === kind
	}));
	return {
		part: "table",
		title: "Places",
		why: [place, null],
		text: isTwice
			? `Every ${label} starts from the same numbers. So that order counts, numbers for the place are ` +
				`added. Only the sum tells ${placeWords(run, position)} from the ` +
				`other${run.labels.filter(each => each === run.labels[position]).length > 2 ? "s" : ""}.`
			: `The numbers of ${label === "·" ? "the start" : label} are the same wherever it stands. So that ` +
				"order counts, numbers for the place are added.",
		question: `Without the places, what becomes of the chance of ${word(target)} after ${read}?`,
		options,
		after:
			`It goes from ${chance(now)} to ` +
			`${chance(p)}.${withoutPlaces({page, state, run, position, line, place})}`
	};
}

/** What becomes of the chosen line of attention without the places. */
function withoutPlaces({page, state, run, position, line, place}) {
	if (!line || position === 0) return "";
	const other = page.ownRun(
		run.tokens,
		run.targets,
		changesOf(page, {...state, off: [...state.off, place]}),
		{run, event: place, row: null, last: line.attention}
	);
	const share = each =>
		each.of(line.attention, "value")[(line.head * run.length + position) * run.length + line.key];
	return (
		` Without places, head ${line.head} takes ${percent(share(other))} % from ` +
		`${keyWords(run, position, line.key)}, with places ${percent(share(run))} %.`
	);
}

/** The shares of the chosen head in the chosen lane, the largest first. */
function sharesOf({run, position, line}, head = line.head) {
	const weights = run.of(line.attention, "value");
	return Array.from({length: position + 1}, (_, key) => ({
		key,
		share: weights[(head * run.length + position) * run.length + key]
	})).toSorted((a, b) => b.share - a.share);
}

function lookingOf(facts) {
	const {run, position, line, here, of} = facts;
	const heads = headsOf(facts);
	const [best] = sharesOf(facts);
	const keys = sharesOf(facts)
		.slice(0, 3)
		.toSorted((a, b) => a.key - b.key);
	const other = heads
		.map((_, head) => head)
		.find(head => head !== line.head && sharesOf(facts, head)[0].key !== best.key);
	const more =
		other === undefined
			? ""
			: ` Not every head does so: head ${other}${of} looks most at ` +
				`${keyWords(run, position, sharesOf(facts, other)[0].key)}.`;
	const isAlone = keys.length < 2;
	return {
		part: "head",
		title: "Looking back",
		why: [line.attention, [line.head, position, best.key]],
		text:
			(position
				? `At ${here}, the model cannot know from the letter alone what came before. Attention fetches that. `
				: "At the start, nothing came before, so attention sees only the start itself. ") +
			`${heads.length === 1 ? "The head" : `Each of the ${COUNTS[heads.length] ?? heads.length} heads`} splits 100 % of ` +
			"its attention over the letters so far. A thick line fetches much.",
		question: isAlone ? null : `Where does head ${line.head}${of} look most, reading ${here}?`,
		options: optionsOf(
			keys.map(({key, share}) => ({
				words: keyWords(run, position, key),
				share,
				shown: `${percent(share)} %`
			})),
			({share}) => share
		),
		after: `${percent(best.share)} % comes from ${keyWords(run, position, best.key)}.${more}`
	};
}

function scoresOf(facts) {
	const {page, run, position, line} = facts;
	const [scoreName] = page.row(line.attention).inputs;
	const scores = run.of(scoreName, "value");
	const [best, second] = sharesOf(facts).map(({key}) => ({
		key,
		score: scores[(line.head * run.length + position) * run.length + key]
	}));
	if (!second) return null;
	const ratio = Math.exp(best.score - second.score);
	const wrong = [Math.abs(best.score / second.score), best.score - second.score, 3 * ratio, ratio / 3];
	const words = key => (key === position ? placeWords(run, key) : keyWords(run, position, key));
	const {dim} = page.row(page.row(scoreName).inputs[0]);
	return {
		part: "head",
		title: "Why there?",
		why: [scoreName, [line.head, position, best.key]],
		text:
			`In each head, every letter asks with ${counted(dim, "number")} and offers ${counted(dim, "number")}. Pairs are ` +
			"multiplied and added: this gives a score. Scores become shares. One point more makes a share 2.7 " +
			"times as large compared with any other share.",
		question:
			`Here ${words(best.key)} scores ${short(best.score)}, and ${words(second.key)} scores ` +
			`${short(second.score)}. How many times as large is the first share as the second?`,
		options: factorsOf(ratio, wrong, "e to the difference"),
		after:
			`The difference is ${short(best.score - second.score)}, and 2.718 to this power is ` +
			`${short(ratio, 3)}.`
	};
}

function matterOf({page, state, run, position, line, chances, target, word}) {
	const parts = partsOf(page).filter(
		({name}) =>
			!state.off.includes(name) &&
			page.picture.layers[line.layer].parts.some(({heads = []}) => heads.includes(name))
	);
	if (parts.length < 2) return null;
	const now = chances[target];
	const list = parts.map(({name, words}) => {
		const p = chanceWith(page, state, run, name, position);
		return {words, change: Math.abs(Math.log(p / now)), shown: chance(p)};
	});
	const ordered = list.toSorted((a, b) => b.change - a.change);
	const two = list.filter(part => part === ordered[0] || part === ordered.at(-1));
	return {
		part: "head",
		title: "Does it matter?",
		why: [headsOf({page, line})[line.head], null],
		text: "Looking is not yet mattering. The test is to take a head out and to watch the answer.",
		question: `Which of these heads moves the chance of ${word(target)} more when it is taken out?`,
		options: optionsOf(two, ({change}) => change),
		after:
			`Now the chance is ${chance(now)}. ` +
			`${list.map(({words, shown}) => `Without ${words}, it is ${shown}`).join(". ")}.`
	};
}

function unitsOf({page, run, position, line, here, of}) {
	const {units} = page.picture.layers[line?.layer ?? 0].parts.find(part => part.units) ?? {};
	if (!units) return null;
	const size = run.shape(units).at(-1);
	const on = at => rowAt(run, units, at).filter(value => value > 0).length;
	const count = on(position);
	const total = Array.from({length: run.length}, (_, at) => on(at)).reduce((a, b) => a + b, 0);
	const others = [0.3, 0.6, 0.1, 0.9]
		.map(share => Math.round(share * size))
		.filter(each => Math.abs(each - count) > size / 16)
		.slice(0, 2);
	const list = [count, ...others]
		.toSorted((a, b) => a - b)
		.map(each => ({words: String(each), shown: "", isBest: each === count}));
	return {
		part: "units",
		title: "The MLP",
		why: [units, null],
		text:
			`Now every lane works alone. ${size} units put a question to the row, and a no is set to 0. The ` +
			"units that stay on add what they have to say.",
		question: `How many of the ${size} units${of} are on at ${here}?`,
		options: list,
		after:
			`${count} of ${size} ${count === 1 ? "is" : "are"} on here. Over all places, ${percent(1 - total / (size * run.length))} % ` +
			`of the units${of} are off.`
	};
}

function answerOf({page, run, position, chances, target, word}) {
	const logits = page.row(page.probabilities).inputs[0];
	const size = run.shape(logits)[1];
	const score = token => run.of(logits, "value")[position * size + token];
	const [first, second] = likeliest(page, chances, null, 2).map(({token}) => token);
	const other = first === target ? second : target;
	const ratio = chances[first] / chances[other];
	const wrong = [3 * ratio, Math.abs(score(first) / score(other)), 1 + ratio];
	return {
		part: "answer",
		title: "The answer",
		why: [logits, [position, first]],
		text:
			`Each letter also has ${counted(run.shape(page.picture.first).at(-1), "number")} in the output matrix. They ` +
			`are multiplied with the final row and added: this gives a score. A softmax turns the ${size} ` +
			"scores into chances.",
		question:
			`${word(first)} has a score of ${short(score(first))}, ${word(other)} of ${short(score(other))}. ` +
			`How many times as likely is ${word(first)}?`,
		options: factorsOf(ratio, wrong, `${chance(chances[first])} and ${chance(chances[other])}`),
		after:
			`The difference of the scores is ${short(score(first) - score(other))}, and 2.718 to this power is ` +
			`${short(ratio, 3)}.`
	};
}

function writingOf({page, run, word}) {
	const last = run.length - 1;
	const chances = chancesAfter(page, run, last);
	const [{token, p}] = likeliest(page, chances, null, 1);
	const sharp = heated(chances, 0.5)[token];
	return {
		part: "write",
		title: "Writing",
		text:
			"Draw a letter by these chances, add it to the name, and read again: that is all there is to " +
			"writing. Temperature makes the chances sharper or flatter before the draw.",
		question:
			`After ${run.labels.slice(1).join("") || "the start"}, ${word(token)} has ${chance(p)}. Is its ` +
			"chance larger at temperature 0.5?",
		options: [
			{words: "larger", shown: chance(sharp), isBest: sharp > p * 1.0005},
			{words: "smaller", shown: "", isBest: sharp < p / 1.0005}
		],
		after: `At temperature 0.5 it is ${chance(sharp)}. The likeliest letter gains when the model is cautious.`
	};
}
