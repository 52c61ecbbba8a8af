// Names of elements as on the command line, such as layer0.attn.q[3,4], and their places in words.

import {counted} from "./numbers.js";

/** The name of an element, or of its array if there is no index. */
export const nameOf = (name, index = []) => (index.length ? `${name}[${index.join(",")}]` : name);

/** The last part of a name, such as "q" of "layer0.attn.q". */
export const lastOf = name => name.slice(name.lastIndexOf(".") + 1);

/** The array and the index of a part that can be ablated, such as layer0.attn.head1, layer0.mlp.act[:,7] or
    layer0.attn.weights[0,2,1]. A ":" in the index becomes null. */
export function partOf(text) {
	const [, name, index] = /^(.*?)(?:\[((?:\d+|:)(?:,\d+)*)\])?$/s.exec(text);
	return {name, index: index ? index.split(",").map(at => (at === ":" ? null : Number(at))) : []};
}

/** The layer of an array, or null if it belongs to no layer. */
export const layerOf = name => (/^layer\d+\./.test(name) ? Number.parseInt(name.slice(5), 10) : null);

/** The name of an array without its layer, such as "attn.q". */
export const withoutLayer = name => name.replace(/^layer\d+\./, "");

/** The parts of an address: the array, the index, and `of`, which is "value", "gradient" or "update". Null if
    the page has no such array. */
export function parsed(address, page) {
	const [, of = "value", name, index] =
		/^(?:(gradient|update) )?([^[\]]+?)(?:\[([0-9, ]*)\])?$/.exec(address) ?? [];
	if (name === undefined || !page.row(name)) return null;
	return {of, name, index: index ? index.split(",").map(Number) : []};
}

/** The address of an element. */
export const addressOf = ({of, name, index}) => (of === "value" ? "" : `${of} `) + nameOf(name, index);

/** The last axis of an array at a place along the axis before. */
export function rowAt(run, name, at) {
	const size = run.shape(name).at(-1);
	return Array.from(run.of(name, "value").subarray(at * size, (at + 1) * size));
}

/** A position with its token, such as "position 3 (m)". */
export const positionOf = (run, position) => `position ${position} (${run.labels[position]})`;

/** The place of an element in words, such as "position 3 (m), channel 2". */
export function placeInWords(page, run, name, index) {
	const words = page.row(name).axes.map((axis, n) => {
		const at = index[n];
		if (axis === "query" || axis === "key") return `${axis} at ${positionOf(run, at)}`;
		if (axis === "position") return page.has(name) ? positionOf(run, at) : `position ${at}`;
		if (axis === "token") return `token ${page.tokensOf(name)[at] ?? `#${at}`}`;
		return `${axis} ${at}${axis === "channel" ? inHead(page, name, at) : ""}`;
	});
	const known = run.targets.filter(target => target !== null).length;
	return words.join(", ") || `the mean over ${counted(known, "prediction")}`;
}

function inHead(page, name, channel) {
	const {dim} = page.row(name);
	return dim ? ` (channel ${channel % dim} of head ${Math.floor(channel / dim)})` : "";
}
