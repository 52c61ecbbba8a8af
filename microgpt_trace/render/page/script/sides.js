// The values of one event in two runs. A page may hold only one position or one head of an event.

import {largest} from "./numbers.js";
import {eachCell} from "./walkable.js";

/** The values of an event by at(side, head, row, column). `side` is "a", "b", or "d" for b - a. Null if the
    page holds no values of the event. */
export function sidesOf(held, name, arrays) {
	if (!held) return null;
	const [a, b] = [arrays.get(`a ${name}`), arrays.get(`b ${name}`)];
	const {shape, heads} = held;
	const [rows, columns] = shape.length > 1 ? shape.slice(-2) : [1, 1];
	const at = (side, head, row, column) => {
		const flat = ((heads ? heads.indexOf(head) : 0) * rows + row) * columns + column;
		return side === "a" ? a[flat] : side === "b" ? b[flat] : b[flat] - a[flat];
	};
	const isMasked = held.causal ? (row, column) => column > held.positions[row] : undefined;
	return {...held, rows, columns, at, isMasked, ends: head => endsOf({at, rows, columns, isMasked, head})};
}

/** The largest finite magnitude in a and b, and the largest finite magnitude of b - a. */
function endsOf({at, head, ...cells}) {
	const endOf = side => {
		const values = [];
		const valueAt = (row, column) => at(side, head, row, column);
		eachCell({...cells, valueAt}, (_row, _column, value) => values.push(value));
		return largest(values);
	};
	return {sides: Math.max(endOf("a"), endOf("b")), d: endOf("d")};
}

/** The head, row and column of an element in the values that a page holds, or null if it does not hold
    them. */
export function placeIn(sides, index) {
	if (!sides || index.length !== sides.shape.length) return null;
	const [head, position, column] = sides.heads ? index : [null, ...(index.length ? index : [undefined, 0])];
	const row = index.length ? sides.positions.indexOf(position) : 0;
	const isHeld = row >= 0 && column < sides.columns && (!sides.heads || sides.heads.includes(head));
	return isHeld ? {head, row, column} : null;
}

/** The index of an element in its array. */
export function indexOf(sides, {head, row, column}) {
	if (!sides.shape.length) return [];
	return sides.heads ? [head, sides.positions[row], column] : [sides.positions[row], column];
}
