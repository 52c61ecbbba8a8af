// The page of a comparison: a list of events with the differences between two runs, and the values A, B and B
// - A of one event side by side.

import {button, fill, html, keepingFocus} from "./dom.js";
import {nameOf} from "./elements.js";
import {matrix} from "./matrix.js";
import {exact, percent, short} from "./numbers.js";
import {split} from "./place.js";
import {start} from "./result_page.js";
import {indexOf, placeIn, sidesOf} from "./sides.js";

const NAMES = {a: "A", b: "B", d: "B − A"};
const FEW = 64; // up to this many columns, the three pictures stand side by side

/** The view of a comparison, or null if it compared no events. */
function diffView({content, arrays, go, place}) {
	if (!content.events?.length) return null;
	const events = new Map(content.events.map(event => [event.name, event]));
	const shownFirst = content.events.filter(({name}) => content.held[name]);
	const opened =
		content.first ??
		(shownFirst.length ? shownFirst : content.events).reduce((a, b) => (excess(b) > excess(a) ? b : a)).name;
	const list = listOf(content, name => go({...place(), name: nameOf(name, events.get(name).index)}));
	const shown = html.div({class: "sides"});
	let pictures = [];
	document
		.getElementById("views")
		.append(
			html.section(
				{"aria-label": "A and B side by side"},
				html.h2("A and B side by side", html.small(` A is ${content.sides[0]}, B is ${content.sides[1]}`)),
				html.div({class: "compared"}, list.element, shown)
			)
		);

	function show({name}) {
		const [array, index] = split(name);
		const event = events.get(array) ?? events.get(opened);
		const sides = sidesOf(content.held[event.name], event.name, arrays);
		const at =
			placeIn(sides, events.has(array) && index.length ? index : event.index) ??
			(sides && {head: sides.heads?.[0] ?? null, row: 0, column: 0});
		list.mark(event.name);
		const pick = (row, column) =>
			go({...place(), name: nameOf(event.name, indexOf(sides, {...at, row, column}))});
		const parts = sides
			? bothSides({content, event, sides, at, pick})
			: {pictures: [], elements: [html.p(leftOut(content, event))]};
		pictures = parts.pictures;
		const heads =
			sides?.heads?.length > 1
				? headsOf(sides, at, head =>
						go({...place(), name: nameOf(event.name, indexOf(sides, {...at, head}))})
					)
				: null;
		keepingFocus(() => fill(shown, headingOf(event), heads, parts.elements));
		resized();
		pictures.forEach(picture => picture.reveal());
	}
	function resized() {
		for (const picture of pictures) picture.resized(picture.parentElement.clientWidth);
	}
	return {
		show,
		resized,
		keys: [
			["arrow keys, Home, End", "move in a matrix"],
			["Enter", "choose the number"],
			["/", "search for an event"]
		]
	};
}

const excess = ({comparable, relative, tolerance}) =>
	!comparable ? -1 : Number(relative) / Number(tolerance) || 0;

function leftOut(content, event) {
	if (content.ofStatistics) return "One side has only statistics, so there are no values to show.";
	if (!event.comparable)
		return "No value is finite, and A and B are equal in every value, so there is nothing to compare.";
	return (
		"This page has no room for the values of this event. It holds the values of the first event beyond " +
		"its band, of the inputs and the layer of that event, and of the events farthest beyond their bands. " +
		"The command below compares only this event. Add --html to make a page of it."
	);
}

function headingOf(event) {
	const where = event.index.length
		? `; ${event.holds ? "worst row" : "first row beyond the band"} at [${event.index.join(", ")}]`
		: "";
	const off = event.comparable
		? "relative difference " +
			`${short(Number(event.relative), 3)}${event.measured ? ` (${event.measured})` : ""}, band ` +
			`${short(Number(event.tolerance), 2)}${where}`
		: "not compared";
	return [
		html.h3(event.name, html.small(` [${event.shape.join(", ")}]`)),
		event.expr ? html.p({class: "expr"}, event.expr) : null,
		html.p(
			{class: event.holds ? "" : "bad"},
			`${event.holds ? "within its band" : "✗ beyond its band"}: ${off}`
		)
	];
}

function headsOf(sides, at, choose) {
	return html.p(
		{class: "buttons"},
		"head ",
		sides.heads.map(head =>
			button(String(head), () => choose(head), {key: `head ${head}`, pressed: head === at.head})
		)
	);
}

/** The three pictures, and a line with the numbers under the cursor in all digits. */
function bothSides({content, event, sides, at, pick}) {
	const ends = sides.ends(at.head);
	const line = html.p({class: "looked n"});
	const numbers = (row, column) =>
		["a", "b", "d"].map(side => `${NAMES[side]} ${exact(sides.at(side, at.head, row, column))}`).join(" · ");
	const named = (row, column) =>
		`${nameOf("", indexOf(sides, {...at, row, column}))} ${positionIn(content, sides, row)}`;
	const say = (row, column) =>
		line.replaceChildren(
			sides.isMasked?.(row, column)
				? `${named(row, column)}: masked, not compared`
				: `${named(row, column)}: ${numbers(row, column)}`
		);
	const labels = sides.positions.map(position => content.labels[position] ?? String(position));
	const pictures = [];
	const point = cell => pictures.forEach(picture => picture.point(cell));
	for (const side of ["a", "b", "d"]) {
		const isShare = sides.share && side !== "d";
		pictures.push(
			matrix({
				rows: sides.rows,
				columns: sides.columns,
				key: side,
				title: `${event.name}, ${NAMES[side]}`,
				valueAt: (row, column) => sides.at(side, at.head, row, column),
				isMasked: sides.isMasked,
				kind: isShare ? "share" : "signed",
				end: isShare ? 1 : side === "d" ? ends.d : ends.sides,
				rowLabels: sides.shape.length > 1 ? labels : null,
				columnLabels: sides.heads ? content.labels.slice(0, sides.columns) : null,
				chosen: [at.row, at.column],
				smallest: sides.columns > 4096 ? 1 : 2,
				square: Boolean(sides.heads),
				brief: isShare ? percent : value => short(value, 2),
				describe: (row, column) => `${named(row, column)}: ${numbers(row, column)}`,
				onlook: (row, column) => {
					say(row, column);
					point([row, column]);
				},
				onpick: pick
			})
		);
	}
	say(at.row, at.column);
	const boxes = pictures.map(picture => picture.querySelector(".matrix"));
	for (const box of boxes) {
		box.addEventListener("scroll", () =>
			boxes.forEach(other => {
				other.scrollLeft = box.scrollLeft;
			})
		);
	}
	const figures = pictures.map((picture, n) =>
		html.div({class: "plane"}, html.h4(Object.values(NAMES)[n]), picture)
	);
	const notes = [
		sides.rounded ? "the page rounds these values to float32" : "",
		sides.positions.length < (event.shape.at(-2) ?? 0)
			? "the page has room for only one position: the first position beyond its band, or else the worst " +
				"position"
			: "",
		sides.heads && sides.heads.length < event.shape[0]
			? "the page has room for only one head: the head of the first row beyond its band, or else of the " +
				"worst row"
			: ""
	].filter(Boolean);
	return {
		pictures,
		elements: [
			line,
			html.div({class: sides.columns > FEW ? "stacked" : "planes"}, figures),
			notes.length ? html.p({class: "dim"}, notes.join("; ")) : null
		]
	};
}

const positionIn = (content, sides, row) =>
	sides.shape.length > 1
		? `at position ${sides.positions[row]} (${content.labels[sides.positions[row]] ?? "?"})`
		: "";

/** A list of all events in order of computation, with a search field that filters it. */
function listOf(content, choose) {
	const rows = new Map(
		content.events.map(event => [
			event.name,
			button(
				[
					html.span(
						{class: event.holds ? (content.held[event.name] ? "" : "dim") : "bad"},
						`${event.holds ? "" : "✗ "}${event.name}`
					),
					html.span({class: "n dim"}, event.comparable ? short(Number(event.relative), 2) : "–")
				],
				() => choose(event.name),
				{key: `event ${event.name}`, class: "row"}
			)
		])
	);
	const items = new Map([...rows].map(([name, row]) => [name, html.li(row)]));
	const search = html.input({
		type: "search",
		placeholder: "search events",
		"aria-label": "search events",
		oninput: () => {
			for (const [name, item] of items) item.hidden = !name.includes(search.value.trim());
		}
	});
	const scrolled = html.ul([...items.values()]);
	const legend = html.p(
		{class: "dim"},
		html.small("number: relative difference of the worst row; ✗: beyond its band")
	);
	return {
		element: html.nav({class: "flow", "aria-label": "Events"}, search, legend, scrolled),
		mark(name) {
			for (const [event, row] of rows) row.setAttribute("aria-current", String(event === name));
			const row = rows.get(name);
			scrolled.scrollTop +=
				row.getBoundingClientRect().top - scrolled.getBoundingClientRect().top - scrolled.clientHeight / 2;
		}
	};
}

start(diffView);
