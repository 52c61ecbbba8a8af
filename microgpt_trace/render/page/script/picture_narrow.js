// The picture on a narrow screen: only the chosen lane, from top to bottom, and one head at a time.

import {rectangle, svg, textAt} from "./dom.js";
import {letterOf} from "./letters.js";
import {percent} from "./numbers.js";
import {answersOf, bestKey, endsOf, keysOf, lineOf, onOf, stripOf, titleOf} from "./picture_parts.js";

const IN_ROW = 4; // heads
const [TAB, TILE, LINES] = [40, 30, 110]; // heights

/** The picture of the chosen lane, with the same context as pictureView. */
export function narrowView(context) {
	const {page, run, position, width, candidates, open, layer} = context;
	const {first, layers} = page.picture;
	const {parts} = layers.find(each => each.layer === layer);
	const find = kind => parts.find(part => part[kind]);
	const [{attention, heads}, {units}, stream] = [
		find("attention"),
		find("units"),
		parts.findLast(part => part.stream).stream
	];
	const ends = endsOf(run, [
		{kind: "stream", name: first},
		{kind: "stream", name: stream},
		{kind: "units", name: units}
	]);
	const strip = (name, y, kind) =>
		stripOf({run, ends, open}, name, kind, position, {
			x: 1,
			y,
			width: width - 2,
			height: kind === "units" ? 52 : 26
		});
	const label = letterOf(run.labels[position]);
	const tabs = Math.ceil(heads.length / IN_ROW) * (TAB + 6);
	const attended = 92 + tabs;
	const mlp = attended + TILE + LINES + 34;
	const answer = mlp + 96;
	const list = candidates(position, 5);
	return svg.svg(
		{class: "picture narrow chosen", width, height: answer + 24 + 20 * list.length, "aria-hidden": "true"},
		titleOf(1, 0, 12, "Letters become numbers"),
		textAt("words end", width, 17, `${label} at place ${position}`),
		strip(first, 30, "stream"),
		titleOf(2, 0, 76, layers.length > 1 ? `Attention in layer ${layer}` : "Attention"),
		heads.map((event, head) => tabOf(context, {attention, head, event}, width)),
		svg.g({class: "head"}, linesOf(context, attention, attended, width)),
		titleOf(3, 0, mlp, "MLP"),
		svg.g({class: "units"}, textAt("words end", width, mlp + 5, onOf(run, units, position))),
		strip(units, mlp + 18, "units"),
		titleOf(4, 0, answer, "Next letter"),
		answersOf(context, position, list, {x: 4, y: n => answer + 24 + 20 * n, width: width - 4})
	);
}

const shareIn = ({run, position}, {attention, head}, key) =>
	run.of(attention, "value")[(head * run.length + position) * run.length + key];

/** A head as a tab: its strongest line in the chosen lane. */
function tabOf(context, column, width) {
	const {page, run, position, line, chooseLine, off} = context;
	const keys = keysOf(page, column, position);
	const key = bestKey(keys, each => shareIn(context, column, each));
	const [w, n] = [(width + 6) / IN_ROW, column.head];
	const [x, y] = [(n % IN_ROW) * w, 90 + Math.floor(n / IN_ROW) * (TAB + 6)];
	const isChosen = line?.attention === column.attention && line.head === n;
	return svg.g(
		{class: "tab", onclick: () => chooseLine({...column, query: position, key})},
		rectangle(isChosen ? "tab-box chosen" : "tab-box", x + 1, y + 1, w - 8, TAB - 2, {rx: 6}),
		textAt("heading small", x + 8, y + 17, `head ${n}${off.includes(column.event) ? " out" : ""}`),
		textAt(null, x + 8, y + 32, `${letterOf(run.labels[key])} ${percent(shareIn(context, column, key))} %`)
	);
}

/** The lines of the chosen head, from its keys down to the chosen lane. */
function linesOf(context, attention, top, width) {
	const {page, run, position, line, select} = context;
	if (!line || line.attention !== attention) return null;
	const column = {attention, head: line.head};
	const x = at => (width * (at + 0.5)) / run.length;
	const [from, to] = [top + TILE + 22, top + TILE + LINES];
	const size = Math.min(TILE, width / run.length - 4);
	const tiles = run.tokens.map((_, at) =>
		svg.g(
			{class: at === position ? "lane chosen" : "lane", onclick: () => select(at)},
			svg.g(
				{class: "tile"},
				rectangle(null, x(at) - size / 2, top + TILE - size, size, size, {rx: 5}),
				textAt("letter", x(at), top + TILE - size / 2 + 5.5, letterOf(run.labels[at]))
			)
		)
	);
	const isTight = width / run.length < 48; // pixels, in which "55 %" has no room
	const lines = keysOf(page, column, position).map(key =>
		lineOf(context, column, key, {
			share: shareIn(context, column, key),
			curve:
				`M${x(key)} ${from - 14}C${x(key)} ${(from + to) / 2} ${x(position)} ${(from + to) / 2} ` +
				`${x(position)} ${to}`,
			x: Math.min(x(key) + (isTight ? 3 : 6), width - (isTight ? 20 : 34)),
			y: from,
			unit: isTight ? "" : " %"
		})
	);
	return [lines, tiles, svg.circle({class: "end chosen", cx: x(position), cy: to, r: 6})];
}
