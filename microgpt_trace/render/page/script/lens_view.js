// The logit lens: the tokens that the model would predict if it ended after each layer, and the probability of a
// target token after each layer.

import { inkOn, scaleOf } from "./colors.js";
import { make } from "./dom.js";
import { chance } from "./numbers.js";

/** The section of the logit lens, or null if the trace was made without --lens. */
export function lensView({ page, run, position, set }) {
  const { lens } = page;
  if (!lens || !run.traced) return null;
  const head = make("tr", {}, make("th", { scope: "col" }, "layer"), lens.positions.map((at) => make("th", { scope: "col" }, run.labels[at])));
  const rows = lens.rows.map(([layer, cells]) => make("tr", {}, make("th", { scope: "row" }, String(layer)), cells.map((candidates, n) => cellOf(page, candidates, lens.positions[n] === position))));
  const table = make("table", { class: "lens" }, make("caption", { class: "visually-hidden" }, "the most likely token after each layer"), make("thead", {}, head), make("tbody", {}, rows));
  const last = lens.positions.indexOf(position) < 0 ? lens.positions.length - 1 : lens.positions.indexOf(position);
  return make("section", { class: "lenses", "aria-label": "Logit lens" },
    make("h2", {}, "Logit lens", make("small", {}, " the most likely token if the model ended after the layer; the farther a colour is from the background, the higher the probability")),
    make("div", { class: "wide", tabindex: 0, role: "group", "aria-label": "logit lens" }, table),
    candidatesOf(page, lens, last, run, set), target(lens, position));
}

function cellOf(page, [first], isChosen) {
  if (!first) return make("td", {}, "–");
  const [token, p] = first;
  const cell = make("td", { class: isChosen ? "chosen" : "", title: `P = ${chance(p)}` }, page.vocabulary[token]);
  const color = scaleOf("share")(p);
  cell.style.background = `rgb(${color.join(" ")})`;
  cell.style.color = inkOn(color);
  return cell;
}

/** All candidates of a position, or null if each layer has only one candidate. */
function candidatesOf(page, lens, at, run) {
  if (!lens.rows.some(([, cells]) => cells[at].length > 1)) return null;
  const rows = lens.rows.map(([layer, cells]) => make("tr", {}, make("th", { scope: "row" }, String(layer)), make("td", {}, cells[at].map(([token, p]) => `${page.vocabulary[token]} ${chance(p)}`).join("  "))));
  return make("details", {}, make("summary", {}, `candidates after position ${lens.positions[at]} (${run.labels[lens.positions[at]]})`), make("table", {}, make("tbody", {}, rows)));
}

function target(lens, position) {
  const rows = lens.target.filter(([, at]) => at === position);
  if (!rows.length) return lens.target.length ? null : make("p", { class: "dim" }, "Use --target TOKEN to follow a token through the layers.");
  const body = rows.map(([event, , p, rank]) => make("tr", {}, make("th", { scope: "row" }, event), make("td", { class: "n" }, chance(p)), make("td", { class: "n" }, rank === null ? "–" : rank.toLocaleString("en"))));
  return make("table", {}, make("caption", {}, `${lens.label} after position ${position}`), make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "after"), make("th", { scope: "col", class: "n" }, "P"), make("th", { scope: "col", class: "n" }, "rank"))), make("tbody", {}, body));
}
