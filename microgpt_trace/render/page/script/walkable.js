// A picture of cells with a cursor that follows the pointer and the keys.

import {html} from "./dom.js";

const STEPS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};

/** Put a canvas into a box of class `kind`, which can have the focus. `view` has `data` (rows, columns,
    chosen, onpick) and `cursor`, a cell or null. cellAt(event) is the cell under the pointer. look(at, aloud)
    moves the cursor. */
export function walkable(canvas, view, {kind, description, key, label, cellAt, look}) {
	const {data} = view;
	const here = () => view.cursor ?? [0, 0];
	const keydown = event => {
		const at = moved(event.key, here(), data);
		if (event.key === "Enter") data.onpick?.(...here());
		else if (at) look(at, true);
		else return;
		event.preventDefault();
		event.stopPropagation();
	};
	return html.div(
		{
			class: kind,
			tabindex: 0,
			role: "application",
			"aria-roledescription": description,
			"data-key": key,
			"aria-label": label,
			onpointermove: event => String(cellAt(event)) !== String(view.cursor) && look(cellAt(event), false),
			onpointerleave: () => look(data.chosen ?? null, false),
			onclick: event => cellAt(event) && data.onpick?.(...cellAt(event)),
			onfocus: () => look(here(), true),
			onkeydown: keydown
		},
		canvas
	);
}

function moved(key, [row, column], {rows, columns}) {
	const ends = {Home: [row, 0], End: [row, columns - 1], PageUp: [0, column], PageDown: [rows - 1, column]};
	if (!(key in STEPS)) return ends[key] ?? null;
	const bounded = (at, size) => Math.max(0, Math.min(size - 1, at));
	return [bounded(row + STEPS[key][0], rows), bounded(column + STEPS[key][1], columns)];
}

/** Call act(row, column, value) for each cell that is not masked. */
export function eachCell({rows, columns, isMasked, valueAt}, act) {
	for (let row = 0; row < rows; row += 1) {
		for (let column = 0; column < columns; column += 1)
			if (!isMasked?.(row, column)) act(row, column, valueAt(row, column));
	}
}
