// What the model predicts after a position: all candidates as bars, beside an untouched run where there is one.

import { bar, make } from "./dom.js";
import { probability, short } from "./numbers.js";

const FIRST = 10; // bars that are shown at once

export function predictionView({ page, run, untouched, position, go, set, options: { expanded } }) {
  const found = candidatesOf(page, run, position);
  const heading = (more) => make("h2", {}, "Prediction", make("small", {}, ` after position ${position} (${run.labels[position]})${more}`));
  const none = (words) => make("section", { class: "prediction", "aria-label": "Prediction" }, heading(""), make("p", { class: "dim" }, words));
  if (!found) return page.predictions.length ? none("The trace was asked for other positions: --positions has this one too.") : null;
  if (found.order.some((token) => Number.isNaN(found.p[token]))) return none("Nothing is predicted: the probabilities are not finite.");
  const before = untouched && candidatesOf(page, untouched, position);
  const target = run.targets[position];
  const leads = run.of(page.probabilities, "value") ? page.probabilities : page.row(page.probabilities).inputs[0];
  const rows = found.order.map((token) => make("tr", { class: token === target ? "target" : "" },
    make("th", { scope: "row" }, make("button", { type: "button", class: "link", onclick: () => go({ of: "value", name: leads, index: [position, token] }) }, page.vocabulary[token])),
    make("td", { class: "n" }, probability(found.p[token])),
    make("td", {}, bar(found.p[token], before?.p[token])),
    before ? make("td", { class: "n dim" }, probability(before.p[token])) : null));
  const follows = target === null ? "" : `; what follows is ${page.vocabulary[target]}, rank ${found.rank ?? found.order.indexOf(target) + 1}`;
  const head = before ? make("thead", {}, make("tr", {}, make("td", {}), make("th", { scope: "col" }, "P"), make("td", {}), make("th", { scope: "col" }, "untouched"))) : null;
  const table = (shown, title) => make("table", { class: "bars" }, make("caption", { class: "visually-hidden" }, title), head?.cloneNode(true), make("tbody", {}, shown));
  const more = make("details", { open: expanded, ontoggle: (event) => set({ expanded: event.target.open }, false) }, make("summary", {}, `${rows.length - FIRST} more`), table(rows.slice(FIRST), "other candidates"));
  const loss = lossOf(page, run, untouched);
  return make("section", { class: "prediction", "aria-label": "Prediction" },
    heading(follows),
    table(rows.slice(0, FIRST), "candidates"), rows.length > FIRST ? more : null, loss);
}

/** The mean loss of all positions, beside that of an untouched run. */
function lossOf(page, run, untouched) {
  const loss = page.events.at(-1);
  if (loss.axes.length || !run.of(loss.name, "value")) return null;
  const said = (own) => short(own.of(loss.name, "value")[0], 5);
  return make("p", {}, "mean loss ", make("strong", {}, said(run)), untouched ? `, untouched ${said(untouched)}` : "");
}

/** The probabilities after a position and the tokens from the likeliest on, as far as the page has them; null
    where it has none. */
function candidatesOf(page, run, position) {
  const whole = page.probabilities && run.of(page.probabilities, "value");
  if (!whole) return listed(page.predictions.find((own) => own.position === position));
  const size = run.shape(page.probabilities)[1];
  const p = whole.slice(position * size, (position + 1) * size);
  const order = Array.from(p.keys()).toSorted((a, b) => p[b] - p[a] || a - b);
  return { p, order };
}

function listed(prediction) {
  if (!prediction) return null;
  const p = Object.fromEntries(prediction.top);
  const order = prediction.top.map(([token]) => token);
  const [target, chance, rank] = prediction.target ?? [];
  if (target !== undefined && !order.includes(target)) {
    order.push(target);
    p[target] = chance;
  }
  return { p, order, rank };
}
