// The controls of a page that runs a small model: another text, heads and units to ablate, parameters to
// change.

import {chancesWithChanges, changesInWords, toggled} from "./changes.js";
import {button, html, svg} from "./dom.js";
import {nameOf} from "./elements.js";
import {letterOf} from "./letters.js";
import {short} from "./numbers.js";

/** A field for a name, the changes with a button that undoes all of them, and a button that returns to the
    traced name. */
export function liveView({page, state, set, problem, run}) {
	const field = html.input({
		type: "text",
		id: "text",
		value: state.text ?? page.text,
		maxlength: 64,
		spellcheck: "false",
		autocomplete: "off",
		"aria-label": "name",
		"data-key": "text",
		"aria-describedby": "origin"
	});
	const form = html.form(
		{
			class: "live",
			onsubmit: event => {
				event.preventDefault();
				set({text: field.value});
			}
		},
		html.strong("microGPT"),
		" ",
		html.label({for: "text"}, "reads the name "),
		field
	);
	field.addEventListener("input", event => event.isComposing || set({text: field.value}, "text"));
	field.addEventListener("compositionend", () => set({text: field.value}, "text"));
	const changes = changesInWords(page, state);
	const undo = changes.length
		? html.p(
				{class: "changes"},
				"● ",
				changes.join(", "),
				" ",
				button("undo", () => set({off: [], parameters: {}}), {key: "undo", class: "link"})
			)
		: null;
	const reset =
		state.text === null ? null : button(`back to ${page.text || "the trace"}`, () => set({text: null}));
	const origin = run.traced ? "" : "computed in this page in float64; only the traced run has gradients";
	return html.div(
		{class: "source"},
		form,
		undo,
		reset,
		html.p({id: "origin", class: problem ? "origin bad" : "origin", role: "status"}, problem ?? origin)
	);
}

/** Buttons that ablate the heads of a layer's attention. */
export function headButtons({page, state, set, name}) {
	const buttons = page.headEvents[name].map((event, head) => toggle(state, set, event, `head ${head}`));
	return buttons.length
		? html.span({class: "ablations", role: "group", "aria-label": "ablate heads"}, "ablate ", buttons)
		: null;
}

/** A button that ablates the chosen channel of an array, or all contributions of a head. Null for other
    arrays. */
export function unitButton({page, state, set, at}) {
	if (!page.has(at.name) || at.of !== "value" || page.row(at.name).axes.at(-1) !== "channel") return null;
	const name = page.events.some(({parts}) => parts.includes(at.name))
		? at.name
		: at.index.length === 2
			? `${at.name}[:,${at.index[1]}]`
			: null;
	return html.p(
		{class: "buttons"},
		name
			? ["ablate ", toggle(state, set, name, name)]
			: html.small("To ablate a unit, choose one of its numbers first.")
	);
}

function toggle(state, set, name, words) {
	const isOff = state.off.includes(name);
	return button(words, () => set({off: toggled(state.off, name)}), {
		key: `off ${name}`,
		pressed: isOff,
		title: isOff ? "undo the ablation" : `ablate ${name}`
	});
}

const STEPS = 24; // of the curve over a slider

/** A slider that changes one parameter, under a curve of the chance of the real next letter over the range of
    the slider. The page runs the model again at each move. */
export function parameterSlider({page, state, set, run, position, isDragged}) {
	return (at, flat) => {
		if (isDragged) return html.div({class: "slider"}); // the page keeps the slider that is dragged
		const key = nameOf(at.name, at.index);
		const stored = page.stored.get(at.name)[flat];
		const value = state.parameters[key] ?? stored;
		if (!Number.isFinite(stored)) return null;
		const span = Math.max(1, 3 * Math.abs(stored));
		const shown = html.output({for: "slider"}, short(value));
		const change = to => ({...state.parameters, [key]: to});
		const input = html.input({
			type: "range",
			id: "slider",
			min: -span,
			max: span,
			step: "any",
			value,
			"data-key": "slider",
			oninput: event => {
				shown.textContent = short(Number(event.target.value));
				set({parameters: change(Number(event.target.value))}, "slider");
			}
		});
		const chances = Array.from({length: STEPS + 1}, (_, n) =>
			chancesWithChanges(page, {...state, parameters: change(span * ((2 * n) / STEPS - 1))}, run, position)
		);
		return html.div(
			{class: "slider"},
			curve(chances, run.targets[position]),
			html.p(
				{class: "dim"},
				`chance of ${letterOf(page.vocabulary[run.targets[position]])}, and of the other letters in grey`
			),
			html.label({for: "slider"}, "change the value "),
			shown,
			input
		);
	};
}

/** The chance of each letter as a line, that of `target` on top. */
function curve(chances, target) {
	const top = 1.1 * Math.max(...chances.flat().filter(Number.isFinite));
	const line = token =>
		chances
			.map(
				(row, n) => `${n ? "L" : "M"}${(100 * n) / STEPS} ${(40 - (38 * (row[token] || 0)) / top).toFixed(2)}`
			)
			.join("");
	return svg.svg(
		{class: "curve", viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true"},
		chances[0].map((_, token) => svg.path({d: line(token)})),
		svg.path({class: "real", d: line(target)})
	);
}
