// A matrix of numbers as a picture in which keys move a cursor. A link under it shows a table of the numbers.

import {gradientOf, inkOn, scaleOf} from "./colors.js";
import {html, tableOf, wide} from "./dom.js";
import {counted, exact, short} from "./numbers.js";
import {eachCell, walkable} from "./walkable.js";

const LARGEST_CELL = 34; // pixels
const WITH_NUMBERS = 30; // a cell of at least this many pixels shows its number
const MOST_IN_TABLE = 4096; // elements

/** The picture of `data`. It has `rows`, `columns`, valueAt(row, column) and isMasked(row, column). The scale
    has the `kind` "share" or "signed" and its `end`. There are `rowLabels` and `columnLabels`, and a rule
    after every `ruled` columns. describe(row, column), brief(value) and, for the table, numberAt(row, column)
    write numbers. `chosen` is a cell, and `onlook` and `onpick` are functions of a cell. `key` is the name of
    this matrix, which is unique in the page. */
export function matrix(data) {
	const canvas = html.canvas();
	const live = html.output({class: "visually-hidden", "aria-live": "polite"});
	const view = {data, canvas, cursor: data.chosen ?? null, marked: null};
	const look = (at, aloud) => {
		view.cursor = at;
		paint(view);
		if (at) data.onlook?.(...at);
		if (aloud) live.textContent = data.describe(...at);
	};
	const box = walkable(canvas, view, {
		kind: "matrix",
		description: "matrix",
		key: data.key,
		cellAt: event => cellAt(view, event),
		look,
		label:
			`${data.title}: ${counted(data.rows, "row")}, ${counted(data.columns, "column")}. Arrow keys move the cursor, Enter ` +
			"chooses a number."
	});
	const shown = html.figure(
		box,
		data.legend === false ? null : legend(data),
		live,
		data.table === false ? null : tableBehind(data)
	);
	shown.mark = position => {
		view.marked = position;
		paint(view);
	};
	shown.point = at => {
		view.cursor = at;
		paint(view);
	};
	shown.reveal = () => {
		if (data.chosen) box.scrollLeft = view.left + (data.chosen[1] + 0.5) * view.cell - box.clientWidth / 2;
	};
	shown.resized = width => {
		layOut(view, width);
		paint(view);
	};
	return shown;
}

function layOut(view, width) {
	const {data, canvas} = view;
	const context = canvas.getContext("2d");
	const font = size => `${size}px ui-monospace, Menlo, Consolas, monospace`;
	context.font = font(12);
	const widest = labels =>
		Math.max(
			0,
			...(labels ?? []).map(label => Math.min(data.labelRoom ?? 90, context.measureText(label).width))
		);
	const left = data.rowLabels ? Math.ceil(widest(data.rowLabels)) + 8 : 0;
	const room = width - left - 2;
	const cell = Math.max(
		data.smallest ?? 3,
		Math.min(data.largest ?? LARGEST_CELL, Math.floor(room / data.columns))
	);
	const height = data.rowHeight ?? (data.square ? cell : Math.max(cell, data.rowLabels ? 14 : cell));
	const labelWidth = widest(data.columnLabels);
	const upright = labelWidth > cell - 2;
	const top = data.columnLabels ? (upright ? Math.ceil(Math.min(90, labelWidth)) + 6 : 18) : 0;
	Object.assign(view, {left, top, cell, height, upright, font});
	const ratio = window.devicePixelRatio || 1;
	const [w, h] = [left + cell * data.columns + 1, top + height * data.rows + 1];
	canvas.width = Math.round(w * ratio);
	canvas.height = Math.round(h * ratio);
	canvas.style.width = `${w}px`;
	canvas.style.height = `${h}px`;
	view.ratio = ratio;
	[view.picture, view.allFinite] = pictureOf(data);
}

/** A canvas with one pixel per cell, and true if all values that are not masked are finite. */
function pictureOf(data) {
	const picture = html.canvas({width: data.columns, height: data.rows});
	const context = picture.getContext("2d");
	const image = context.createImageData(data.columns, data.rows);
	const colorOf = scaleOf(data.kind, data.end);
	let allFinite = true;
	eachCell(data, (row, column, value) => {
		const at = 4 * (row * data.columns + column);
		allFinite &&= Number.isFinite(value);
		if (Number.isFinite(value)) image.data.set([...colorOf(value), 255], at);
	});
	context.putImageData(image, 0, 0);
	return [picture, allFinite];
}

function paint(view) {
	if (!view.picture) return;
	const {data, canvas, left, top, cell, height, ratio} = view;
	const style = getComputedStyle(canvas);
	const ink = style.color;
	const context = canvas.getContext("2d");
	context.setTransform(ratio, 0, 0, ratio, 0, 0);
	context.clearRect(0, 0, canvas.width, canvas.height);
	context.imageSmoothingEnabled = false;
	if (data.isMasked) hatch(context, left, top, cell * data.columns, height * data.rows, ink);
	context.drawImage(view.picture, left, top, cell * data.columns, height * data.rows);
	for (let column = data.ruled; column && column < data.columns; column += data.ruled)
		context.clearRect(left + column * cell - 1, top, 2, height * data.rows);
	paintLabels(view, context, ink);
	paintCells(view, context, ink, style.getPropertyValue("--card"));
	outline(view, context, data.chosen, ink, 2);
	if (String(view.cursor) !== String(data.chosen)) outline(view, context, view.cursor, ink, 1);
	if (view.marked === null) return;
	context.strokeStyle = ink;
	context.lineWidth = 2;
	if (data.marksRows) context.strokeRect(left, top + view.marked * height, cell * data.columns, height);
	if (data.marksColumns) context.strokeRect(left + view.marked * cell, top, cell, height * data.rows);
}

function paintLabels(view, context, ink) {
	const {data, left, top, cell, height, upright, font} = view;
	context.fillStyle = ink;
	context.font = font(12);
	context.textBaseline = "middle";
	context.textAlign = "right";
	const rowStep = Math.max(1, Math.ceil(12 / height));
	(data.rowLabels ?? []).forEach((label, row) => {
		if (row % rowStep === 0) context.fillText(label, left - 4, top + (row + 0.5) * height, left - 6);
	});
	const columnStep = Math.max(1, Math.ceil((upright ? 12 : 0) / cell));
	(data.columnLabels ?? []).forEach((label, column) => {
		if (column % columnStep !== 0) return;
		const x = left + (column + 0.5) * cell;
		context.save();
		context.translate(x, top - 4);
		context.textAlign = upright ? "left" : "center";
		context.textBaseline = upright ? "middle" : "alphabetic";
		if (upright) context.rotate(-Math.PI / 2);
		context.fillText(label, 0, 0, upright ? 90 : cell);
		context.restore();
	});
}

/** Write numbers into the cells if they have room, and mark the cells that are not finite. */
function paintCells({data, left, top, cell, height, font, allFinite}, context, ink, paper) {
	const numbered = cell >= WITH_NUMBERS && height >= 14 && data.brief;
	const colorOf = scaleOf(data.kind, data.end);
	if (allFinite && !numbered) return;
	context.textAlign = "center";
	context.textBaseline = "middle";
	context.font = font(11);
	eachCell(data, (row, column, value) => {
		const finite = Number.isFinite(value);
		if (finite && !numbered) return;
		if (!finite) {
			context.fillStyle = paper; // cover the hatching, which means masked
			context.fillRect(left + column * cell, top + row * height, cell, height);
		}
		context.fillStyle = finite ? inkOn(colorOf(value)) : ink;
		const text = finite ? data.brief(value) : cell > 24 ? exact(value) : "!";
		context.fillText(text, left + (column + 0.5) * cell, top + (row + 0.5) * height, cell - 2);
	});
}

function outline({left, top, cell, height}, context, at, ink, width) {
	if (!at) return;
	for (const [color, line] of [
		[ink, width + 2],
		["#fff", 1]
	]) {
		context.strokeStyle = color;
		context.lineWidth = line;
		context.strokeRect(left + at[1] * cell, top + at[0] * height, cell, height);
	}
}

function hatch(context, x, y, width, height, ink) {
	context.save();
	context.beginPath();
	context.rect(x, y, width, height);
	context.clip();
	context.strokeStyle = ink;
	context.globalAlpha = 0.22;
	context.lineWidth = 1;
	context.beginPath();
	for (let at = -height; at < width; at += 6) {
		context.moveTo(x + at, y + height);
		context.lineTo(x + at + height, y);
	}
	context.stroke();
	context.restore();
}

function cellAt({data, canvas, left, top, cell, height}, event) {
	const box = canvas.getBoundingClientRect();
	const column = Math.floor((event.clientX - box.left - left) / cell);
	const row = Math.floor((event.clientY - box.top - top) / height);
	return row >= 0 && column >= 0 && row < data.rows && column < data.columns ? [row, column] : null;
}

function legend(data) {
	const ends = data.kind === "share" ? ["0", short(data.end)] : [short(-data.end), short(data.end)];
	return html.figcaption(
		ends[0],
		html.span({class: "strip", "aria-hidden": "true", style: {background: gradientOf(data.kind)}}),
		ends[1],
		html.span(
			{class: "dim"},
			data.isMasked ? `hatched: ${data.hatched ?? "masked"}` : "",
			data.isPicture ? " 8-bit picture" : ""
		)
	);
}

function tableBehind(data) {
	const details = html.details({class: "behind"}, html.summary("show as a table"));
	details.addEventListener("toggle", () => {
		if (!details.open || details.children.length > 1) return;
		const count = data.rows * data.columns;
		details.append(
			count > MOST_IN_TABLE
				? html.p(`${count.toLocaleString("en")} elements are too many for a table.`)
				: wide(`${data.title} as a table`, tableOfNumbers(data))
		);
	});
	return details;
}

function tableOfNumbers(data) {
	const {title, rowLabels, columnLabels, isMasked, valueAt} = data;
	const numbers = n => Array.from({length: n}, (_, at) => String(at));
	const numberAt =
		data.numberAt ?? ((row, column) => (isMasked?.(row, column) ? "masked" : exact(valueAt(row, column))));
	const rows = numbers(data.rows).map((label, row) =>
		html.tr(
			html.th({scope: "row"}, rowLabels?.[row] ?? label),
			numbers(data.columns).map((_, column) => html.td({class: "n"}, numberAt(row, column)))
		)
	);
	return tableOf({title, heads: [null, ...(columnLabels ?? numbers(data.columns))], rows});
}
