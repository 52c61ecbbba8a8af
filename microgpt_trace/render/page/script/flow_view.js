// Stages and layers in order, with norms and marks: the way to every array.

import { bar, make } from "./dom.js";
import { shortName } from "./elements.js";
import { short, statisticsOf } from "./numbers.js";

const TITLES = { embedding: "Embedding", attention: "Attention", mlp: "MLP", head: "Head" };

export function flowView({ page, run, at, go, filter, setFilter }) {
  const groups = [];
  for (const event of page.events) {
    const last = groups.at(-1);
    if (last && last.stage === event.stage && last.layer === event.layer) last.events.push(event);
    else groups.push({ stage: event.stage, layer: event.layer, events: [event] });
  }
  const search = make("input", { type: "search", id: "search", placeholder: "search ( / )", "aria-label": "search arrays", value: filter, "data-key": "search", oninput: (event) => setFilter(event.target.value) });
  const list = make("div", {});
  const fill = (wanted) => list.replaceChildren(...groups.map((group) => groupView(page, run, at, go, group, wanted)).filter(Boolean), parametersView(page, run, at, go, wanted));
  search.addEventListener("input", () => fill(search.value));
  fill(filter);
  return make("nav", { class: "flow", "aria-label": "Flow" }, search, list);
}

const matches = (name, wanted) => name.toLowerCase().includes(wanted.trim().toLowerCase());

function groupView(page, run, at, go, { stage, layer, events }, wanted) {
  const shown = events.filter((event) => matches(event.name, wanted));
  if (!shown.length) return null;
  const many = page.layers > 1 && layer !== null;
  const title = `${many ? `Layer ${layer} · ` : ""}${TITLES[stage] ?? stage}`;
  const rows = shown.map((event) => rowView(page, run, at, go, event.name));
  const open = !many || wanted !== "" || shown.some((event) => event.name === at?.name);
  const share = page.shares?.[layer]?.[stage];
  const summary = make("summary", {}, title, share === undefined ? null : make("span", { class: "share", title: `|write| / |stream| ${short(share, 3)}` }, bar(share)), page.odd?.[`${layer} ${stage}`] ? make("span", { class: "odd", title: page.odd[`${layer} ${stage}`] }, " ⚠") : null);
  return make("details", { open }, summary, make("ul", {}, rows));
}

function parametersView(page, run, at, go, wanted) {
  const shown = page.parameters.filter((own) => matches(own.name, wanted) && run.of(own.name, "value"));
  if (!shown.length) return make("span", {});
  return make("details", { open: wanted !== "" || shown.some((own) => own.name === at?.name) }, make("summary", {}, "Parameters"), make("ul", {}, shown.map((own) => rowView(page, run, at, go, own.name))));
}

function rowView(page, run, at, go, name) {
  const values = run.of(name, "value");
  const row = page.row(name);
  const found = values ? statisticsOf(values) : row.stats;
  const chosen = at?.name === name;
  const isChanged = run.changed?.has(name);
  return make("li", {}, make("button", { type: "button", class: "row", "aria-current": chosen ? "true" : "false", "data-key": `flow ${name}`, onclick: () => go({ of: "value", name, index: [] }) },
    make("span", {}, page.has(name) ? shortName(name) : name, found?.others ? make("span", { class: "odd", title: "not finite" }, " ⚠") : null, isChanged ? " (changed)" : ""),
    make("span", { class: "n dim" }, found ? short(found.l2, 3) : "–")));
}
