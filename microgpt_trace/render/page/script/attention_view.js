// The attention of all heads at a glance, and of one of them large.

import { endOf, planeOf } from "./array_view.js";
import { glance } from "./glance.js";
import { make } from "./dom.js";
import { matrix } from "./matrix.js";

/** The section of attention; null where the page holds none. */
export function attentionView(context) {
  const { page, run, go, options, set, widget, takeHeads } = context;
  const names = page.attention.filter((name) => run.of(name, "value"));
  if (!names.length) return null;
  const name = names.includes(context.at?.name) ? context.at.name : (ofTheLayer(page, names, context.at) ?? (names.includes(options.layer) ? options.layer : names[0]));
  const own = { of: "value", name, index: context.at?.name === name ? context.at.index : [] };
  const [count] = run.shape(own.name);
  const head = Math.min(headOf(page, context.at) ?? options.head, count - 1);
  const end = endOf(page, run, own, options.skipFirst);
  const chosen = context.at?.name === own.name && context.at.of === "value" && own.index.length === 3 ? own.index.slice(1) : null;
  const large = planeOf({ ...context, at: own, head, end, chosen, key: "attention", skipFirst: options.skipFirst });
  const all = glance({
    rows: names.length, columns: count, chosen: [names.indexOf(own.name), head], length: run.length, skipFirst: options.skipFirst,
    weightsOf: (row) => run.of(names[row], "value"),
    rowLabels: names.map((each) => (names.length > 1 ? String(page.row(each).layer) : "")),
    scrolled: options.scrolled ?? [0, 0],
    onscroll: (scrolled) => set({ scrolled }, false),
    isOff: (row, column) => run.changed?.has(page.headEvents[names[row]][column]) ?? false,
    nameOf: (row, column) => `${names.length > 1 ? `layer ${page.row(names[row]).layer}, ` : ""}head ${column}`,
    onpick: (row, column) => {
      set({ head: column, layer: names[row] }, false);
      go({ of: "value", name: names[row], index: [column] });
    },
  });
  const skip = make("label", {}, make("input", { type: "checkbox", checked: options.skipFirst, "data-key": "skip", onchange: (event) => set({ skipFirst: event.target.checked }) }), " without position 0 in the colours");
  return make("section", { class: "attention", "aria-label": "Attention", "data-array": name },
    make("h2", {}, "Attention", make("small", {}, " rows are queries, columns the keys that they look at; in percent")),
    make("p", { class: "buttons" }, skip, takeHeads(name)),
    make("div", { class: "heads" }, widget(all), make("div", { class: "plane" }, make("h3", {}, large.title), widget(matrix(large)))));
}

/** The attention of the layer that an array belongs to. */
function ofTheLayer(page, names, at) {
  const layer = at ? page.row(at.name).layer : null;
  return layer === null || layer === undefined ? undefined : names.find((name) => page.row(name).layer === layer);
}

/** The head that an element belongs to. */
function headOf(page, at) {
  return at && page.axesOf(at.name)[0] === "head" ? at.index[0] : undefined;
}
