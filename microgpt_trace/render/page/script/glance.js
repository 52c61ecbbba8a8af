// Small pictures of the attention weights of all heads, in a row per layer. A reader can choose a head.

import {scaleOf} from "./colors.js";
import {html} from "./dom.js";
import {counted} from "./numbers.js";
import {walkable} from "./walkable.js";

// Sizes in pixels.
const ROOM = 300;
const LARGEST = 72;
const SMALLEST = 22;
const GAP = 4;
const RULED = 44; // taken by the labels, which do not scroll
const NOT_FINITE = [179, 38, 30]; // a red that is not in the colour scale

/** The pictures of `data`: `rows`, `columns`, `weightsOf(row)` as [columns, length, length], `rowLabels`,
    the `chosen` picture, isAblated(row, column), nameOf(row, column), the `scrolled` offset, onpick and
    onscroll. */
export function glance(data) {
	const size = Math.max(SMALLEST, Math.min(LARGEST, Math.floor(ROOM / Math.min(data.columns, 12)) - GAP));
	const canvas = html.canvas();
	const live = html.output({class: "visually-hidden", "aria-live": "polite"});
	const label = html.p({class: "dim", "aria-hidden": "true"});
	const view = {data, cursor: data.chosen};
	let painted = null;
	const look = (at, aloud) => {
		if (!at) return;
		view.cursor = at;
		label.textContent = data.nameOf(...at);
		if (aloud) live.textContent = label.textContent;
		if (aloud) reveal();
		paint();
	};
	/** Scroll to the cursor if it is not visible. */
	const reveal = () => {
		const scrolled = (at, from, room) => (at >= from && at + size <= from + room ? from : at - room / 2);
		element.scrollTop = scrolled(
			view.cursor[0] * (size + GAP),
			element.scrollTop,
			element.clientHeight - RULED
		);
		element.scrollLeft = scrolled(
			view.cursor[1] * (size + GAP),
			element.scrollLeft,
			element.clientWidth - RULED
		);
	};
	const cellAt = event => {
		const bounds = canvas.getBoundingClientRect();
		const at = [event.clientY - bounds.top, event.clientX - bounds.left].map(place =>
			Math.floor(place / (size + GAP))
		);
		return at[0] >= 0 && at[1] >= 0 && at[0] < data.rows && at[1] < data.columns ? at : null;
	};
	const box = walkable(canvas, view, {
		kind: "glance",
		description: "heads",
		key: "glance",
		cellAt,
		look,
		label:
			`${counted(data.rows * data.columns, "head")}, ${data.nameOf(...data.chosen)} is shown. Arrow keys move the ` +
			"cursor, Enter shows a head."
	});

	function paint() {
		if (!painted) return;
		const context = canvas.getContext("2d");
		context.setTransform(1, 0, 0, 1, 0, 0);
		context.clearRect(0, 0, canvas.width, canvas.height);
		context.drawImage(painted, 0, 0);
		const style = getComputedStyle(canvas);
		// hide the hatching of the canvas between the pictures
		context.fillStyle = style.getPropertyValue("--card");
		for (let n = 0; n <= data.columns; n += 1)
			context.fillRect(n * (size + GAP) - GAP + 1, 0, n === data.columns ? GAP + 2 : GAP, canvas.height);
		for (let n = 0; n <= data.rows; n += 1)
			context.fillRect(0, n * (size + GAP) - GAP + 1, canvas.width, n === data.rows ? GAP + 2 : GAP);
		const outlined = (at, color, width) => {
			context.strokeStyle = color;
			context.lineWidth = width;
			context.strokeRect(at[1] * (size + GAP) + 1, at[0] * (size + GAP) + 1, size, size);
		};
		if (String(view.cursor) !== String(data.chosen)) outlined(view.cursor, style.color, 1);
		outlined(data.chosen, style.color, 2);
	}
	const note = html.p({class: "dim"});
	const ruler = (side, labels) =>
		html.div(
			{class: side, "aria-hidden": "true"},
			labels.map(text => html.span(text))
		);
	const heads = Array.from({length: data.columns}, (_, n) => String(n));
	const element = html.div(
		{class: "glances", onscroll: () => data.onscroll([element.scrollLeft, element.scrollTop])},
		ruler("across", heads),
		ruler("down", data.rowLabels),
		box,
		label,
		note,
		live
	);
	element.style.setProperty("--cell", `${size + GAP}px`);
	element.resized = () => {
		canvas.width = data.columns * (size + GAP) + 2;
		canvas.height = data.rows * (size + GAP) + 2;
		const isFirst = !painted;
		painted ??= pictures(data, size, () => {
			note.textContent = "red: not finite";
		});
		look(view.cursor, false);
		if (!isFirst) return;
		element.scrollTo(...data.scrolled);
		reveal();
	};
	return element;
}

/** Draw all pictures on one canvas. If several weights share a pixel, its colour is that of the largest
    weight. */
function pictures(data, size, onNotFinite) {
	const canvas = html.canvas({
		width: data.columns * (size + GAP) + 2,
		height: data.rows * (size + GAP) + 2
	});
	const context = canvas.getContext("2d");
	const side = Math.min(size, data.length);
	const small = html.canvas({width: side, height: side});
	for (let row = 0; row < data.rows; row += 1) {
		const weights = data.weightsOf(row);
		for (let column = 0; column < data.columns; column += 1) {
			small.getContext("2d").putImageData(pictureOf(weights, column, data, side, onNotFinite), 0, 0);
			context.imageSmoothingEnabled = false;
			context.globalAlpha = data.isAblated(row, column) ? 0.25 : 1;
			context.drawImage(small, column * (size + GAP) + 1, row * (size + GAP) + 1, size, size);
			context.globalAlpha = 1;
		}
	}
	return canvas;
}

function pictureOf(weights, head, {length, skipFirst}, side, onNotFinite) {
	const largest = new Float32Array(side * side);
	let end = skipFirst ? 0 : 1;
	for (let query = 0; query < length; query += 1) {
		const from = (head * length + query) * length;
		const to = Math.floor((query * side) / length) * side;
		for (let key = skipFirst ? 1 : 0; key <= query; key += 1) {
			const at = to + Math.floor((key * side) / length);
			const weight = weights[from + key];
			if (!(weight <= largest[at])) largest[at] = weight; // keeps a NaN
			if (weight > end) end = weight;
		}
	}
	if (largest.some(Number.isNaN)) onNotFinite();
	const colorOf = scaleOf("share", end);
	const image = new ImageData(side, side);
	for (let row = 0; row < side; row += 1) {
		for (let column = skipFirst ? 1 : 0; column <= row; column += 1) {
			const at = 4 * (row * side + column);
			image.data.set(Number.isNaN(largest[at / 4]) ? NOT_FINITE : colorOf(largest[at / 4]), at);
			image.data[at + 3] = 255;
		}
	}
	return image;
}
