// The place that a page shows, written as the part of its address after #, so that a link shows the same
// place.

const UNESCAPED = ["[", "]", ",", ":", "@", "/"]; // characters that an address need not escape

/** Escape text for an address. A space becomes +. */
export const escaped = text =>
	UNESCAPED.reduce(
		(result, char) => result.replaceAll(encodeURIComponent(char), char),
		encodeURIComponent(text)
	).replaceAll("%20", "+");

function decoded(text) {
	try {
		return decodeURIComponent(text.replace(/\+/g, " "));
	} catch {
		return text;
	}
}

/** The address of a place, such as layer0.attn.q[3,5]&step=250: a name, and settings with their keys. */
export function written({name, settings = {}}) {
	return [
		escaped(name),
		...Object.entries(settings).map(([key, value]) => `${escaped(key)}=${escaped(String(value))}`)
	]
		.filter(Boolean)
		.join("&");
}

/** The name in an address, which is its first part without "=", and its pairs of a key and a value, in
    order. */
export function partsOf(hash) {
	const parts = hash
		.replace(/^#/, "")
		.split("&")
		.map(part => [part, part.indexOf("=")]);
	const pairs = parts
		.filter(([, at]) => at >= 0)
		.map(([part, at]) => [decoded(part.slice(0, at)), decoded(part.slice(at + 1))]);
	return {name: decoded(parts.find(([part, at]) => part && at < 0)?.[0] ?? ""), pairs};
}

/** The place of an address. */
export function read(hash) {
	const {name, pairs} = partsOf(hash);
	return {name, settings: Object.fromEntries(pairs)};
}

/** Split a name into array and index: "layer0.attn.q[3,5]" becomes ["layer0.attn.q", [3, 5]]. */
export function split(name) {
	const [, array, index] = /^(.*)\[(\d+(?:,\d+)*)\]$/.exec(name) ?? [];
	return array === undefined ? [name, []] : [array, index.split(",").map(Number)];
}
