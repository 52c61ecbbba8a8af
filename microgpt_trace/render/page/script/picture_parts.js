// The parts of the picture: strips of cells, lines of attention, and bars of the likeliest next tokens.

import {paintOf} from "./colors.js";
import {alone, html, rectangle, svg, textAt} from "./dom.js";
import {rowAt} from "./elements.js";
import {letterOf} from "./letters.js";
import {largest, percent} from "./numbers.js";

const UNITS_IN_ROW = 16;
// largest number of cells of a strip and of units; with more numbers, neighbours share a cell
const [CELLS, UNITS] = [64, 128];
const THICKEST = 10; // pixels of a line of 100 %

/** The box of a picture, which can have the focus. keydown(event) returns true if it used the key. */
export const pictureBox = (keydown, attributes) =>
	html.div({
		class: "figure",
		id: "picture-box",
		tabindex: 0,
		role: "application",
		"aria-roledescription": "picture",
		"data-key": "picture",
		onkeydown: event => {
			if (!keydown(event)) return;
			event.preventDefault();
			event.stopPropagation();
		},
		...attributes
	});

/** The largest magnitude of each family of arrays: the tables, the residual stream, and the units of an
    MLP. */
export function endsOf(run, columns) {
	const ends = {table: 0, stream: 0, units: 0};
	for (const {kind, name} of columns)
		if (kind in ends) ends[kind] = Math.max(ends[kind], largest(run.of(name, "value")));
	return ends;
}

/** The row of an array at a position, for a number of cells: of neighbours, the one with the largest
    magnitude. */
function rowOf(run, name, at, kind) {
	const row = rowAt(run, name, at);
	const step = Math.ceil(row.length / (kind === "units" ? UNITS : CELLS));
	return step === 1
		? row
		: Array.from({length: Math.ceil(row.length / step)}, (_, n) =>
				row.slice(n * step, (n + 1) * step).reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a))
			);
}

/** How many units of an MLP are above 0 at a position, in words. */
export function onOf(run, name, at) {
	const values = rowAt(run, name, at);
	const count = values.filter(value => value > 0).length;
	return `${count} of ${values.length} ${count === 1 ? "is" : "are"} on`;
}

/** A number and a title. */
export const titleOf = (number, x, y, title) => [
	svg.circle({class: "badge", cx: x + 9, cy: y, r: 9}),
	textAt("badge-number", x + 9, y + 4.5, String(number)),
	textAt("heading", x + 23, y + 5, title)
];

/** An array at a position as a strip of cells in a frame, which opens the array, with `more` elements. `ends`
    are the largest magnitudes. */
export function stripOf({run, ends, open}, name, kind, at, {x, y, width, height}, ...more) {
	const row = rowOf(run, name, at, kind);
	const paint = paintOf(kind === "units" ? "share" : "signed", ends[kind]);
	const inRow = kind === "units" ? Math.min(UNITS_IN_ROW, row.length) : row.length;
	const [w, h] = [width / inRow, height / Math.ceil(row.length / inRow)];
	const cells = row.map((value, n) =>
		rectangle(
			null,
			(x + (n % inRow) * w).toFixed(1),
			(y + Math.floor(n / inRow) * h).toFixed(1),
			(w - (w > 3 ? 0.5 : 0)).toFixed(1),
			(h - (inRow < row.length ? 0.5 : 0)).toFixed(1),
			{fill: paint(value)}
		)
	);
	return svg.g(
		{class: `strip ${kind}`, onclick: alone(() => open(name))},
		svg.title(name),
		cells,
		rectangle("frame", x, y, width, height),
		more
	);
}

/** The keys that the chosen lane sees. */
export const keysOf = (page, {attention, head}, position) =>
	Array.from({length: position + 1}, (_, key) => key).filter(
		key => !page.isMasked(attention, [head, position, key])
	);

/** The key with the largest share. */
export const bestKey = (keys, share) => keys.reduce((a, b) => (share(b) > share(a) ? b : a), keys[0]);

/** A line of attention from a key to the chosen lane, with its share in percent. `unit` stands behind the
    share. */
export function lineOf(
	{position, line, chooseLine, off},
	{attention, head},
	key,
	{share, curve, x, y, unit = " %"}
) {
	const name = `${attention}[${head},${position},${key}]`;
	const kind = ["attends", line?.name === name ? "chosen" : "", off.includes(name) ? "cut" : ""].join(" ");
	const size = share || 0; // NaN has no width
	const pick = alone(() => chooseLine({attention, head, query: position, key}));
	return svg.g(
		{class: kind, onclick: pick},
		svg.title(name),
		svg.path({class: "touch", d: curve}),
		svg.path({
			d: curve,
			stroke: paintOf("share")(0.5 + size / 2),
			"stroke-width": Math.max(1, THICKEST * size).toFixed(1)
		}),
		textAt("share", x, y, percent(share) + unit)
	);
}

/** The likeliest next tokens at a position, the nth at the height y(n). */
export const answersOf = ({run, before}, at, list, {x, y, width}) =>
	svg.g(
		{class: "answers"},
		list.map((choice, n) => {
			const [old, isReal] = [before?.(at)[choice.token], choice.token === run.targets[at]];
			return answerOf(choice, {x, y: y(n), width, old, isReal});
		})
	);

/** A token that may come next: its bar, a dashed outline of the bar before the changes, and its chance in
    percent. The name of the token takes `named` pixels. */
export function answerOf({label, p}, {x, y, width, old, isReal, named = 20}) {
	const letter = letterOf(label);
	const [from, room] = [x + named + 6, width - named - 54];
	const [middle, half] = [x + named / 2, Math.min(named / 2, Math.max(10, 3.7 * letter.length))];
	return svg.g(
		{class: isReal ? "real" : ""},
		textAt(letter.length > 1 ? "answer word" : "answer", middle, y + 5, letter),
		isReal
			? svg.line({class: "underline", x1: middle - half, x2: middle + half, y1: y + 8.5, y2: y + 8.5})
			: null,
		rectangle("room", from, y - 4.5, room, 9, {rx: 1.5}),
		rectangle("part", from, y - 4.5, room * (p || 0), 9, {rx: 1.5}),
		old === undefined ? null : rectangle("before", from, y - 4.5, Math.max(1, room * (old || 0)), 9),
		textAt("n", x + width, y + 4.5, (100 * p).toPrecision(3))
	);
}
