// What a reader can change in a run: parts that are taken out, and parameters.

import { parsed, partOf } from "./elements.js";
import { flatOf, placeOf } from "./formulas.js";
import { short } from "./numbers.js";

/** The parts of the model that can be taken out, each with its event and its name in words. */
export function partsOf(page) {
  const { layers, places } = page.picture;
  const named = (words, layer) => (layers.length > 1 ? `layer ${layer} ${words}` : words);
  const columns = layers.flatMap(({ layer, parts }) => parts.flatMap(({ heads = [], writes }) =>
    [...heads.map((name, head) => ({ name, words: named(`head ${head}`, layer) })), ...(writes ? [{ name: writes, words: named("MLP", layer) }] : [])]));
  return [...columns, ...places.map((name) => ({ name, words: "places" }))];
}

/** The changes of a state, each in a few words. */
export function changesInWords(page, state) {
  const words = new Map(partsOf(page).map((part) => [part.name, part.words]));
  return [...state.off.map((name) => `${words.get(name) ?? name} out`), ...Object.entries(state.parameters).map(([name, value]) => `${name} = ${short(value)}`)];
}

/** The ablations and parameter changes of a state, in the form that Page.ownRun takes: functions and arrays. */
export function changesOf(page, state) {
  const events = new Map();
  for (const part of state.off) {
    const { name, index } = partOf(part);
    const before = events.get(name);
    events.set(name, (values, shape) => {
      before?.(values, shape);
      values.forEach((_, flat) => {
        const place = placeOf(flat, shape);
        if (index.every((at, axis) => at === null || at === place[axis])) values[flat] = 0;
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
