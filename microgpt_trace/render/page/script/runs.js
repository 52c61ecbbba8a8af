// What a page holds of a run: the plan, arrays by name, and the forward pass that it can run itself.

import { lastOf, layerOf, withoutLayer } from "./elements.js";
import { allOf, isHidden, sizesOf } from "./formulas.js";
import { unfolded } from "./pictures.js";

const MOST_UNFOLDED = 12; // pictures that are kept as numbers
const PREFIX = { value: "", gradient: "d ", update: "u " };

/** The same text without what is over and under its letters, where the model knows that. */
function similar(text, known) {
  const plain = Array.from(text.normalize("NFKD").replace(/\p{M}/gu, ""), known);
  return plain.includes(undefined) ? "" : `; try "${plain.join("")}"`;
}

export class Page {
  constructor(document, arrays) {
    Object.assign(this, document);
    this.stored = arrays;
    this.byName = new Map(this.events.map((event) => [event.name, event]));
    this.parametersByName = new Map(this.parameters.map((own) => [own.name, own]));
    this.unfoldings = new Map();
  }

  /** An array of the traced run, or the picture of it that the page holds. */
  held(name) {
    const picture = this.pictures[name];
    if (!picture) return this.stored.get(name);
    if (!this.unfoldings.has(name)) {
      if (this.unfoldings.size >= MOST_UNFOLDED) this.unfoldings.delete(this.unfoldings.keys().next().value);
      const shape = this.shapeOf(name, this.tokens.length);
      this.unfoldings.set(name, unfolded(picture, this.stored.get(`picture ${name}`), this.stored.get(`last ${name}`), shape));
    }
    return this.unfoldings.get(name);
  }

  has(name) {
    return this.byName.has(name);
  }

  knows(name) {
    return this.byName.has(name) || this.parametersByName.has(name);
  }

  row(name) {
    return this.byName.get(name) ?? this.parametersByName.get(name);
  }

  axesOf(name) {
    return this.row(name).axes;
  }

  /** Whether an element belongs to a query and a key that it does not see. */
  isMasked(name, index) {
    if (this.axesOf(name).at(-1) !== "key") return false;
    return isHidden([0, 1, this.row(name).window ?? null], index.slice(-2));
  }

  /** Whether an element counts in what is said of its array: what the mask hides does not. */
  isCounted(name, shape, flat) {
    return !this.isMasked(name, [Math.floor(flat / shape.at(-1)) % shape.at(-2), flat % shape.at(-1)]);
  }

  /** How the rows of an array that has one for each token name them: as they are read, or as they follow. */
  tokensOf(name) {
    return this.row(name).read && this.seen ? this.seen : this.vocabulary;
  }

  /** The name of an array beside those of a layer, or of none: "q", but "attn.norm" where other stages have
      one too, and the whole name where it is another layer's. */
  shortName(name, layer = null) {
    if (this.layers > 1 && layerOf(name) !== null && layerOf(name) !== layer) return name;
    const last = lastOf(name);
    const alike = this.events.filter((event) => lastOf(event.name) === last).map((event) => withoutLayer(event.name));
    return new Set(alike).size > 1 ? withoutLayer(name) : last;
  }

  /** How much of the stream that a branch is added to it writes: the median of |write| / |stream| over the
      positions; undefined where the page does not hold both. */
  shareOf(run, { name, stream }) {
    const [write, read] = [run.of(name, "value"), run.of(stream, "value")];
    if (!write || !read || write.exact || read.exact) return undefined;
    const width = run.shape(name).at(-1);
    const norms = (values) => Array.from({ length: run.length }, (_, at) => Math.hypot(...values.subarray(at * width, (at + 1) * width)));
    const [own, whole] = [norms(write), norms(read)];
    const shares = own.map((norm, at) => norm / whole[at]).toSorted((a, b) => a - b);
    return (shares[(shares.length - 1) >> 1] + shares[shares.length >> 1]) / 2;
  }

  shapeOf(name, length) {
    return sizesOf(this.row(name).shape, length);
  }

  /** The formulas whose sum a gradient is, each with the row by way of which it comes. */
  waysOf(name) {
    return this.row(name).ways.map(([formula, way]) => [way, formula]);
  }

  /** The run that was traced. */
  get traced() {
    const { tokens, targets, labels } = this;
    return {
      traced: true, tokens, targets, labels, length: tokens.length,
      shape: (name) => this.shapeOf(name, tokens.length),
      array: (name, gradient = false) => this.held(PREFIX[gradient ? "gradient" : "value"] + name),
      of: (name, of) => this.held(PREFIX[of] + name),
    };
  }

  /** The forward pass in float64: of another text, or with changes. Its `events` take a name to a function that
      changes its array in place, `parameters` a name to an array in its place. */
  ownRun(tokens, targets, changes = { events: new Map(), parameters: new Map() }) {
    const arrays = new Map();
    const run = {
      traced: false, tokens, targets, labels: tokens.map((token) => this.seen[token]), length: tokens.length,
      shape: (name) => this.shapeOf(name, tokens.length),
      array: (name, gradient = false) => (gradient ? undefined : arrays.get(name) ?? changes.parameters.get(name) ?? this.stored.get(name)),
      of: (name, of) => (of === "value" ? run.array(name) : undefined),
    };
    for (const { name, parts, formula, ofParts } of this.events) {
      const isChanged = parts.some((part) => changes.events.has(part));
      const value = allOf(isChanged ? ofParts : formula, run);
      changes.events.get(name)?.(value, run.shape(name));
      arrays.set(name, value);
    }
    return run;
  }

  /** Tokens and targets of a text. Throws RangeError that says what does not fit. */
  read(text) {
    const { letters, bos, most } = this.tokenizer;
    const chars = Array.from(text);
    if (chars.length > most) throw new RangeError(`expected at most ${most} characters, found ${chars.length}`);
    const known = (char) => [char, char.toLowerCase()].find((own) => Object.hasOwn(letters, own));
    const ids = chars.map((char) => {
      if (known(char) === undefined) throw new RangeError(`${JSON.stringify(char)} is not in the vocabulary: ${this.tokenizer.words}${similar(text, known)}`);
      return letters[known(char)];
    });
    return { tokens: [bos, ...ids], targets: [...ids, bos] };
  }
}
