// The state of a trace page, written as the part of its address after #, so that a link restores the state.

import {addressOf, parsed, partOf} from "./elements.js";
import {escaped, partsOf} from "./place.js";

/** The address of a state:
    layer0.attn.scores[1,3,2]&text=olivia&off=layer0.attn.head2&set=wte[1,2]=0.5&position=3 */
export function written(state) {
	const parts = [state.at ? escaped(addressOf(state.at)) : ""];
	if (state.text !== null) parts.push(`text=${encodeURIComponent(state.text)}`);
	for (const name of state.off) parts.push(`off=${escaped(name)}`);
	for (const [name, value] of Object.entries(state.parameters)) parts.push(`set=${escaped(name)}=${value}`);
	if (state.line) parts.push(`line=${escaped(addressOf(state.line))}`);
	for (const key of ["tour", "seed", "temperature"])
		if (state[key] !== null) parts.push(`${key}=${state[key]}`);
	if (state.position !== null) parts.push(`position=${state.position}`);
	return parts.join("&");
}

/** The state of an address. `unknown` is the last name in the address that the page does not have, or
    null. */
export function read(hash, page) {
	const state = {
		at: null,
		text: null,
		off: [],
		parameters: {},
		position: null,
		line: null,
		seed: null,
		temperature: null,
		tour: null,
		unknown: null
	};
	const {name, pairs} = partsOf(hash);
	if (name) {
		state.at = located(name, page);
		if (!state.at || state.at.index.length !== parsed(name, page).index.length) state.unknown = name;
	}
	for (const [key, value] of pairs) {
		if (key === "text") state.text = value;
		if (key === "off" && !state.off.includes(value)) {
			if (canBeAblated(value, page)) state.off.push(value);
			else state.unknown = value;
		}
		if (key === "tour" && /^[1-9]$/.test(value)) state.tour = Number(value);
		if (key === "seed" && /^\d{1,9}$/.test(value)) state.seed = Number(value);
		if (key === "temperature" && Number(value) >= 0.2 && Number(value) <= 2)
			state.temperature = Number(value);
		if (key === "line") state.line = located(value, page);
		if (key === "position" && /^\d+$/.test(value)) state.position = Number(value);
		const changed = key === "set" && /^(.+\])=([-\d.e]+)$/.exec(value);
		const parameter = changed && located(changed[1], page);
		if (
			parameter &&
			parameter.index.length === page.row(parameter.name).axes.length &&
			!page.has(parameter.name) &&
			Number.isFinite(Number(changed[2]))
		)
			state.parameters[changed[1]] = Number(changed[2]);
		else if (key === "set") state.unknown = value;
	}
	return state;
}

/** Return true if the text names an array of the page, or a part of an array. */
function canBeAblated(text, page) {
	const {name, index} = partOf(text);
	if (!page.has(name)) return false;
	const shape = page.shapeOf(name, Infinity);
	return (
		index.length === 0 ||
		(index.length === shape.length && index.every((at, axis) => at === null || at < shape[axis]))
	);
}

/** The element that a text names, or only its array if the array has no such index. Null without such an
    array. */
export function located(text, page) {
	const at = parsed(text, page);
	if (!at) return null;
	const shape = page.shapeOf(at.name, Infinity);
	const fits =
		at.index.length <= shape.length &&
		at.index.every((place, axis) => Number.isInteger(place) && place >= 0 && place < shape[axis]);
	return fits ? at : {...at, index: []};
}
