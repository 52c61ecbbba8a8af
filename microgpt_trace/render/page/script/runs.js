// The data of a page: the plan, the arrays by name, and the forward pass, which the page of a small model can
// run. Of some arrays, the page holds only a picture in bytes, with exact numbers at the last position, or
// only the last position.

import {lastOf, layerOf, withoutLayer} from "./elements.js";
import {isHidden, rowsOf, sizesOf} from "./formulas.js";
import {counted} from "./numbers.js";

const MOST_UNFOLDED = 12; // largest number of pictures that are kept as numbers
const FORMS = {
	shares: unfoldedShares,
	last: (_picture, _bytes, shape) => new Float32Array(shape.reduce((a, b) => a * b))
};
const PREFIX = {value: "", gradient: "d ", update: "u "};

/** A hint with the text without accents, if all its letters are in the vocabulary. Otherwise "". */
function hint(text, letterOf) {
	const plain = Array.from(text.normalize("NFKD").replace(/\p{M}/gu, ""), letterOf);
	return plain.includes(undefined) ? "" : `; try "${plain.join("")}"`;
}

export class Page {
	constructor(document, arrays) {
		Object.assign(this, document);
		this.stored = arrays;
		this.byName = new Map(this.events.map(event => [event.name, event]));
		this.parametersByName = new Map(this.parameters.map(parameter => [parameter.name, parameter]));
		this.unfoldings = new Map();
	}

	/** An array of the traced run, made from its picture if the page does not hold the array in full. */
	held(name) {
		const picture = this.pictures[name];
		if (!picture) return this.stored.get(name);
		if (!this.unfoldings.has(name)) {
			if (this.unfoldings.size >= MOST_UNFOLDED) this.unfoldings.delete(this.unfoldings.keys().next().value);
			const shape = this.shapeOf(name.replace(/^d /, ""), this.tokens.length);
			this.unfoldings.set(
				name,
				unfolded(picture, this.stored.get(`picture ${name}`), this.stored.get(`last ${name}`), shape)
			);
		}
		return this.unfoldings.get(name);
	}

	has(name) {
		return this.byName.has(name);
	}

	/** The event or the parameter with this name, or undefined. */
	row(name) {
		return this.byName.get(name) ?? this.parametersByName.get(name);
	}

	/** Return true if the query of an element does not see its key. */
	isMasked(name, index) {
		if (this.row(name).axes.at(-1) !== "key") return false;
		return isHidden([0, 1, this.row(name).window ?? null], index.slice(-2));
	}

	/** Return true if an element counts in the statistics of its array. Masked elements do not count. */
	isCounted(name, shape, flat) {
		return !this.isMasked(name, [Math.floor(flat / shape.at(-1)) % shape.at(-2), flat % shape.at(-1)]);
	}

	/** The labels of an array's token axis. A table that the model reads by token has BOS. Other arrays have
	    EOS. */
	tokensOf(name) {
		return this.row(name).read && this.seen ? this.seen : this.vocabulary;
	}

	/** The short name of an array in a layer, such as "q", or "attn.norm" if several stages have a norm. An
	    array of another layer has its full name. */
	shortName(name, layer = null) {
		if (this.layers > 1 && layerOf(name) !== null && layerOf(name) !== layer) return name;
		const last = lastOf(name);
		const names = this.events
			.filter(event => lastOf(event.name) === last)
			.map(event => withoutLayer(event.name));
		return new Set(names).size > 1 ? withoutLayer(name) : last;
	}

	/** What a branch adds, relative to the residual stream: the median of |write| / |stream| over the
	    positions. Undefined if the page does not hold both in full. */
	shareOf(run, {name, stream}) {
		const [write, read] = [run.of(name, "value"), run.of(stream, "value")];
		if (!write || !read || write.exact || read.exact) return undefined;
		const width = run.shape(name).at(-1);
		const norms = values =>
			Array.from({length: run.length}, (_, at) =>
				Math.hypot(...values.subarray(at * width, (at + 1) * width))
			);
		const streams = norms(read);
		const shares = norms(write)
			.map((norm, at) => norm / streams[at])
			.toSorted((a, b) => a - b);
		return (shares[(shares.length - 1) >> 1] + shares[shares.length >> 1]) / 2;
	}

	shapeOf(name, length) {
		return sizesOf(this.row(name).shape, length);
	}

	/** The traced run. */
	get traced() {
		const {tokens, targets, labels} = this;
		return {
			traced: true,
			tokens,
			targets,
			labels,
			length: tokens.length,
			shape: name => this.shapeOf(name, tokens.length),
			array: (name, gradient = false) => this.held(PREFIX[gradient ? "gradient" : "value"] + name),
			of: (name, of) => this.held(PREFIX[of] + name)
		};
	}

	/** Run the forward pass in float64 on any tokens. `changes.events` has functions by event name, which
	    change the array of the event in place. `changes.parameters` has arrays by parameter name, which replace
	    the parameters. If `since` is given, the arrays before the event `since.event` are those of the run
	    `since.run`, and the arrays after `since.last` are left out. Only the rows of the position `since.row`
	    are computed, or all rows if it is null. */
	ownRun(tokens, targets, changes = {events: new Map(), parameters: new Map()}, since = null) {
		const arrays = new Map();
		let isBefore = Boolean(since);
		const run = {
			traced: false,
			tokens,
			targets,
			labels: tokens.map(token => this.seen[token]),
			length: tokens.length,
			shape: name => this.shapeOf(name, tokens.length),
			array: (name, gradient = false) =>
				gradient ? undefined : (arrays.get(name) ?? changes.parameters.get(name) ?? this.stored.get(name)),
			of: (name, of) => (of === "value" ? run.array(name) : undefined)
		};
		for (const {name, parts, formula, ofParts} of this.events) {
			isBefore &&= name !== since.event;
			if (isBefore) {
				arrays.set(name, since.run.array(name));
				continue;
			}
			const isChanged = parts.some(part => changes.events.has(part));
			const value = rowsOf(
				isChanged ? ofParts : formula,
				run,
				since && since.row !== null
					? {row: since.row, others: since.run.array(name), shape: run.shape(name)}
					: null
			);
			changes.events.get(name)?.(value, run.shape(name));
			arrays.set(name, value);
			if (name === since?.last) break;
		}
		return run;
	}

	/** The text of tokens that are letters. */
	write(tokens) {
		const letters = Object.entries(this.tokenizer.letters);
		return tokens.map(token => letters.find(([, each]) => each === token)[0]).join("");
	}

	/** Return the tokens and targets of a text. Throws RangeError if the text is too long or has an unknown
	    letter. */
	read(text) {
		const {letters, bos, most} = this.tokenizer;
		const chars = Array.from(text);
		if (chars.length > most)
			throw new RangeError(`expected at most ${counted(most, "character")}, found ${chars.length}`);
		const letterOf = char => [char, char.toLowerCase()].find(letter => Object.hasOwn(letters, letter));
		const ids = chars.map(char => {
			if (letterOf(char) === undefined)
				throw new RangeError(
					`${JSON.stringify(char)} is not in the vocabulary: ${this.tokenizer.words}${hint(text, letterOf)}`
				);
			return letters[letterOf(char)];
		});
		return {tokens: [bos, ...ids], targets: [...ids, bos]};
	}
}

/** The array of a picture. `exact(flat)` is true for the elements of the last position, whose numbers are
    exact. `isLacking` is true if the page holds no other elements. */
function unfolded(picture, bytes, last, shape) {
	const values = FORMS[picture.form](picture, bytes, shape);
	const [length, width] = [shape.at(-2), shape.at(-1)];
	const rows = values.length / width;
	for (let row = length - 1, n = 0; row < rows; row += length, n += 1)
		values.set(last.subarray(n * width, (n + 1) * width), row * width);
	values.exact = flat => Math.floor(flat / width) % length === length - 1;
	values.isLacking = picture.form === "last";
	return values;
}

function unfoldedShares({side, block}, bytes, [heads, length]) {
	const values = new Float32Array(heads * length * length);
	const perHead = (side * (side + 1)) / 2;
	for (let head = 0; head < heads; head += 1) {
		for (let query = 0; query < length; query += 1) {
			const row = Math.floor(query / block);
			const from = head * perHead + (row * (row + 1)) / 2;
			const to = (head * length + query) * length;
			for (let key = 0; key <= query; key += 1) {
				const byte = bytes[from + Math.floor(key / block)];
				values[to + key] = byte === 255 ? Number.NaN : (byte / 254) ** 2;
			}
		}
	}
	return values;
}
