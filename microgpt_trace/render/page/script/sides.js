// The values of one event in two runs. A page may hold only one position or one head of an event.

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
function endsOf({at, rows, columns, isMasked, head}) {
	const ends = {sides: 0, d: 0};
	const larger = (end, value) => (Number.isFinite(value) ? Math.max(end, Math.abs(value)) : end);
	for (let row = 0; row < rows; row += 1) {
		for (let column = 0; column < columns; column += 1) {
			if (isMasked?.(row, column)) continue;
			ends.sides = larger(larger(ends.sides, at("a", head, row, column)), at("b", head, row, column));
			ends.d = larger(ends.d, at("d", head, row, column));
		}
	}
	return ends;
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
