// What a page holds of a run: the plan, arrays by name, and the forward pass that it can run itself.

import { sizesOf } from "./formulas.js";
import { forwardRun } from "./forward.js";
import { unfolded } from "./pictures.js";
import { restored } from "./restoring.js";

const MOST_UNFOLDED = 12; // pictures that are kept as numbers
const PREFIX = { value: "", gradient: "d ", update: "u " };

export class Page {
  constructor(document, arrays) {
    Object.assign(this, document);
    this.stored = arrays;
    this.byName = new Map(this.events.map((event) => [event.name, event]));
    this.parametersByName = new Map(this.parameters.map((own) => [own.name, own]));
    this.instances = new Map();
    this.unfoldings = new Map();
  }

  /** An array of the traced run, or the picture of it that the page holds. */
  held(name) {
    if (this.worked && name in this.worked) return this.workedOut(name);
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

  headWidth(name) {
    return this.row(name)?.dim ?? 0;
  }

  /** How many positions an attention's queries see; null: all. */
  windowOf(name) {
    return this.row(name).window ?? null;
  }

  /** Whether an element belongs to a query and a key that it does not see. */
  isMasked(name, index) {
    if (this.axesOf(name).at(-1) !== "key") return false;
    const back = index.at(-2) - index.at(-1);
    return back < 0 || (this.windowOf(name) !== null && back >= this.windowOf(name));
  }

  /** Whether an event is one of those that add up to another. */
  isPart(name) {
    return this.events.some((event) => event.parts.includes(name));
  }

  /** Why a gradient has no arithmetic here. */
  gradientless(name) {
    return this.replaced.length ? "An intervention changed what it comes by way of." : `The command below works out the gradient of ${name}.`;
  }

  /** What is said of an array that the page does not hold. */
  leftOut(name) {
    return `${name} is not in this page${this.adds ? `; ${this.adds} adds it` : ""}.`;
  }

  shapeOf(name, length) {
    return sizesOf(this.row(name).shape, length);
  }

  /** A formula that layers have alike, with the names of one of them. */
  formula(number, layer) {
    if (number === null || number === undefined) return null;
    const key = `${number} ${layer}`;
    if (!this.instances.has(key)) {
      const text = JSON.stringify(this.formulas[number]).replaceAll('"layer#.', `"layer${layer}.`);
      this.instances.set(key, JSON.parse(text));
    }
    return this.instances.get(key);
  }

  formulaOf(name) {
    const row = this.byName.get(name);
    return row ? this.formula(row.formula, row.layer) : null;
  }

  /** The formulas whose sum a gradient is, each with the row by way of which it comes. */
  waysOf(name) {
    const row = this.row(name);
    return row.ways.map(([number, way, layer]) => [way, this.formula(number, layer)]);
  }

  /** An array that the page works out itself, as the run had it. */
  workedOut(key) {
    if (!this.stored.has(key)) {
      const gradient = key.startsWith(PREFIX.gradient);
      const name = gradient ? key.slice(PREFIX.gradient.length) : key;
      const ways = gradient ? this.waysOf(name).map(([, formula]) => formula) : [this.formulaOf(name)];
      const held = { steps: this.stored.get(`steps ${key}`), numbers: this.stored.get(`numbers ${key}`), total: this.worked[key] };
      this.stored.set(key, restored(ways, this.traced, held));
    }
    return this.stored.get(key);
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

  /** A run of this page: of another text, or with parts taken out and parameters changed. */
  ownRun(tokens, targets, changes) {
    const plan = {
      events: this.events.map((event) => ({
        name: event.name, parts: event.parts,
        formula: this.formula(event.formula, event.layer), ofParts: this.formula(event.ofParts, event.layer),
      })),
      parameter: (name) => this.stored.get(name),
      shapeOf: (name, length) => this.shapeOf(name, length),
    };
    const run = forwardRun(plan, tokens, targets, changes);
    return Object.assign(run, {
      traced: false,
      labels: tokens.map((token) => this.seen[token]),
      of: (name, of) => (of === "value" ? run.array(name) : undefined),
    });
  }

  /** Tokens and targets of a text. Throws RangeError that says what does not fit. */
  read(text) {
    const { letters, bos, most } = this.tokenizer;
    const chars = Array.from(text);
    if (chars.length > most) throw new RangeError(`expected at most ${most} characters, found ${chars.length}`);
    const ids = chars.map((char) => {
      const own = Object.hasOwn(letters, char) ? char : char.toLowerCase();
      if (!Object.hasOwn(letters, own)) throw new RangeError(`${JSON.stringify(char)} is not in the vocabulary: ${this.tokenizer.words}`);
      return letters[own];
    });
    return { tokens: [bos, ...ids], targets: [...ids, bos] };
  }
}
