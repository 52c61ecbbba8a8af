// The attention of all heads at a glance, and of one of them large.

import { endOf, planeOf } from "./array_view.js";
import { glance } from "./glance.js";
import { make } from "./dom.js";
import { matrix } from "./matrix.js";

/** The section of attention; null where the page holds none. */
export function attentionView(context) {
  const { page, run, go, options, set, widget } = context;
  const names = page.attention.filter((name) => run.of(name, "value"));
  if (!names.length) return null;
  const at = names.includes(context.at?.name) ? context.at : { of: "value", name: names.includes(options.layer) ? options.layer : names[0], index: [] };
  const own = { ...at, of: "value" };
  const [count] = run.shape(own.name);
  const head = Math.min(own.index[0] ?? options.head, count - 1);
  const end = endOf(page, run, own, options.skipFirst);
  const chosen = context.at?.name === own.name && context.at.of === "value" && own.index.length === 3 ? own.index.slice(1) : null;
  const large = planeOf({ ...context, at: own, head, end, chosen, key: "attention", skipFirst: options.skipFirst });
  const all = glance({
    rows: names.length, columns: count, chosen: [names.indexOf(own.name), head], length: run.length, skipFirst: options.skipFirst,
    weightsOf: (row) => run.of(names[row], "value"),
    isOff: (row, column) => run.changed?.has(page.headEvents[names[row]][column]) ?? false,
    nameOf: (row, column) => `${names.length > 1 ? `layer ${page.row(names[row]).layer}, ` : ""}head ${column}`,
    onpick: (row, column) => {
      set({ head: column, layer: names[row] }, false);
      go({ of: "value", name: names[row], index: [column] });
    },
  });
  const skip = make("label", {}, make("input", { type: "checkbox", checked: options.skipFirst, "data-key": "skip", onchange: (event) => set({ skipFirst: event.target.checked }) }), " without position 0");
  return make("section", { class: "attention", "aria-label": "Attention" },
    make("h2", {}, "Attention", make("small", {}, " rows are queries, columns the keys that they look at; in percent")),
    make("p", { class: "buttons" }, skip),
    make("div", { class: "heads" }, widget(all), make("div", { class: "plane" }, make("h3", {}, large.title), widget(matrix(large)))));
}
