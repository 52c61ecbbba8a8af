// What a small model does with another text, with heads or units taken out, with a parameter changed: the page
// runs the forward pass itself.

import { make } from "./dom.js";
import { nameOf, parsed, partOf } from "./elements.js";
import { flatOf } from "./formulas.js";
import { full } from "./numbers.js";

/** A field for a text, and what is taken out. */
export function liveView({ page, state, set, problem, run }) {
  const field = make("input", { type: "text", id: "text", value: state.text ?? page.text, maxlength: 64, spellcheck: "false", autocomplete: "off", "data-key": "text", "aria-describedby": "origin" });
  const form = make("form", { class: "live", onsubmit: (event) => {
    event.preventDefault();
    set({ text: field.value });
  } }, make("label", { for: "text" }, "another text "), field, make("button", { type: "submit" }, "run"));
  field.addEventListener("input", (event) => event.isComposing || set({ text: field.value }, "text"));
  field.addEventListener("compositionend", () => set({ text: field.value }, "text"));
  const off = [...state.off].map((own) => make("button", { type: "button", class: "chip", title: "put it back", onclick: () => set({ off: state.off.filter((other) => other !== own) }) }, `${own} taken out ×`));
  const changed = Object.entries(state.parameters).map(([own, value]) => make("button", { type: "button", class: "chip", title: "as it was", onclick: () => set({ parameters: without(state.parameters, own) }) }, `${own} = ${full(value)} ×`));
  const reset = off.length || changed.length || state.text !== null ? make("button", { type: "button", onclick: () => set({ text: null, off: [], parameters: {} }) }, `back to ${page.text || "the trace"}`) : null;
  const origin = run.traced ? `Numbers: traced by ${page.program}, ${page.dtype}.` : "Numbers: run in this page, float64. Gradients belong to the traced text.";
  return make("div", { class: "source" }, form, off, changed, reset, make("p", { id: "origin", class: problem ? "origin bad" : "origin", role: "status" }, problem ?? origin));
}

const without = (object, key) => Object.fromEntries(Object.entries(object).filter(([own]) => own !== key));

/** Buttons that take the heads of an attention out of the run. */
export function takeHeads({ page, state, set, name }) {
  const buttons = page.headEvents[name].map((own, head) => toggle(state, set, own, `head ${head}`));
  return buttons.length ? make("span", { class: "taken", role: "group", "aria-label": "heads taken out" }, "take out ", buttons) : null;
}

/** A button that takes a channel out of the run, or what writes it: null where nothing is to be had. */
export function takeUnit({ page, state, set, at }) {
  if (!page.has(at.name) || at.of !== "value" || page.axesOf(at.name).at(-1) !== "channel") return null;
  const own = page.events.some(({ parts }) => parts.includes(at.name)) ? at.name : at.index.length === 2 ? `${at.name}[:,${at.index[1]}]` : null;
  return make("p", { class: "buttons" }, own ? ["take out ", toggle(state, set, own, own)] : make("small", {}, "A unit can be taken out when one of its numbers is chosen."));
}

function toggle(state, set, own, words) {
  const isOff = state.off.includes(own);
  const off = isOff ? state.off.filter((other) => other !== own) : [...state.off, own];
  return make("button", { type: "button", "aria-pressed": String(isOff), "data-key": `off ${own}`, title: isOff ? "put it back" : `take ${own} out`, onclick: () => set({ off }) }, words);
}

/** A slider that changes one parameter, and the run with it. */
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
    return make("p", { class: "slider" }, make("label", { for: "slider" }, "change it "), input, " ", shown);
  };
}

/** The changes of a run from what is taken out and changed. */
export function changesOf(page, state) {
  const events = new Map();
  for (const own of state.off) {
    const { name, channel } = partOf(own);
    const before = events.get(name);
    events.set(name, (values, shape) => {
      before?.(values, shape);
      values.forEach((_, flat) => {
        if (channel === undefined || flat % shape.at(-1) === channel) values[flat] = 0;
      });
    });
  }
  const parameters = new Map();
  for (const [own, value] of Object.entries(state.parameters)) {
    const { name, index } = parsed(own, page);
    const values = parameters.get(name) ?? Float64Array.from(page.stored.get(name));
    values[flatOf(index, page.shapeOf(name, 1))] = value;
    parameters.set(name, values);
  }
  return { events, parameters };
}
