// The controls of a page that runs a small model: another text, heads and units to ablate, parameters to change.

import { make } from "./dom.js";
import { nameOf, parsed, partOf } from "./elements.js";
import { flatOf } from "./formulas.js";
import { full } from "./numbers.js";

/** A field for a text, and buttons that undo each ablation and each change. */
export function liveView({ page, state, set, problem, run }) {
  const field = make("input", { type: "text", id: "text", value: state.text ?? page.text, maxlength: 64, spellcheck: "false", autocomplete: "off", "data-key": "text", "aria-describedby": "origin" });
  const form = make("form", { class: "live", onsubmit: (event) => {
    event.preventDefault();
    set({ text: field.value });
  } }, make("label", { for: "text" }, "text: "), field, make("button", { type: "submit" }, "run"));
  field.addEventListener("input", (event) => event.isComposing || set({ text: field.value }, "text"));
  field.addEventListener("compositionend", () => set({ text: field.value }, "text"));
  const off = state.off.map((name) => make("button", { type: "button", class: "chip", title: "undo the ablation", onclick: () => set({ off: state.off.filter((other) => other !== name) }) }, `${name} ablated ×`));
  const changed = Object.entries(state.parameters).map(([name, value]) => make("button", { type: "button", class: "chip", title: "restore the stored value", onclick: () => set({ parameters: without(state.parameters, name) }) }, `${name} = ${full(value)} ×`));
  const reset = off.length || changed.length || state.text !== null ? make("button", { type: "button", onclick: () => set({ text: null, off: [], parameters: {} }) }, `back to ${page.text || "the trace"}`) : null;
  const origin = run.traced ? `Numbers: traced by ${page.program} in ${page.dtype}.` : "Numbers: computed in this page in float64. Only the traced text has gradients.";
  return make("div", { class: "source" }, form, off, changed, reset, make("p", { id: "origin", class: problem ? "origin bad" : "origin", role: "status" }, problem ?? origin));
}

const without = (object, key) => Object.fromEntries(Object.entries(object).filter(([name]) => name !== key));

/** Buttons that ablate the heads of a layer's attention. */
export function headButtons({ page, state, set, name }) {
  const buttons = page.headEvents[name].map((event, head) => toggle(state, set, event, `head ${head}`));
  return buttons.length ? make("span", { class: "ablations", role: "group", "aria-label": "ablate heads" }, "ablate ", buttons) : null;
}

/** A button that ablates the chosen channel of an array, or all contributions of a head. Null for other arrays. */
export function unitButton({ page, state, set, at }) {
  if (!page.has(at.name) || at.of !== "value" || page.axesOf(at.name).at(-1) !== "channel") return null;
  const name = page.events.some(({ parts }) => parts.includes(at.name)) ? at.name : at.index.length === 2 ? `${at.name}[:,${at.index[1]}]` : null;
  return make("p", { class: "buttons" }, name ? ["ablate ", toggle(state, set, name, name)] : make("small", {}, "To ablate a unit, choose one of its numbers first."));
}

function toggle(state, set, name, words) {
  const isOff = state.off.includes(name);
  const off = isOff ? state.off.filter((other) => other !== name) : [...state.off, name];
  return make("button", { type: "button", "aria-pressed": String(isOff), "data-key": `off ${name}`, title: isOff ? "undo the ablation" : `ablate ${name}`, onclick: () => set({ off }) }, words);
}

/** A slider that changes one parameter. The page runs the model again at each move. */
export function parameterSlider({ state, set, stored }) {
  return (at, flat) => {
    const key = nameOf(at.name, at.index);
    const value = state.parameters[key] ?? stored(at.name)[flat];
    if (!Number.isFinite(stored(at.name)[flat])) return null;
    const span = Math.max(1, 3 * Math.abs(stored(at.name)[flat]));
    const shown = make("output", { for: "slider" }, full(value));
    const input = make("input", { type: "range", id: "slider", min: -span, max: span, step: "any", value, "data-key": "slider", oninput: (event) => {
      shown.textContent = full(Number(event.target.value));
      set({ parameters: { ...state.parameters, [key]: Number(event.target.value) } }, "slider");
    } });
    return make("p", { class: "slider" }, make("label", { for: "slider" }, "change the value "), input, " ", shown);
  };
}

/** The ablations and parameter changes of a state, in the form that Page.ownRun takes: functions and arrays. */
export function changesOf(page, state) {
  const events = new Map();
  for (const part of state.off) {
    const { name, channel } = partOf(part);
    const before = events.get(name);
    events.set(name, (values, shape) => {
      before?.(values, shape);
      values.forEach((_, flat) => {
        if (channel === undefined || flat % shape.at(-1) === channel) values[flat] = 0;
      });
    });
  }
  const parameters = new Map();
  for (const [element, value] of Object.entries(state.parameters)) {
    const { name, index } = parsed(element, page);
    const values = parameters.get(name) ?? Float64Array.from(page.stored.get(name));
    values[flatOf(index, page.shapeOf(name, 1))] = value;
    parameters.set(name, values);
  }
  return { events, parameters };
}
