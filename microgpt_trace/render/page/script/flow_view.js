// Stages and layers in order, with norms and marks: the way to every array.

import { located } from "./address.js";
import { bar, make } from "./dom.js";
import { addressOf, lastOf, withoutLayer } from "./elements.js";
import { short, statisticsOf } from "./numbers.js";

const TITLES = { embedding: "Embedding", attention: "Attention", mlp: "MLP", head: "Head" };

export function flowView({ page, run, at, go, filter, setFilter }) {
  const groups = [];
  for (const event of page.events) {
    const last = groups.at(-1);
    const own = page.layers > 1 && event.layer !== null ? event.layer : null;
    if (last && last.layer === own && (own !== null || last.stages.has(event.stage))) last.stages.set(event.stage, [...(last.stages.get(event.stage) ?? []), event]);
    else groups.push({ layer: own, stages: new Map([[event.stage, [event]]]) });
  }
  const hits = (wanted) => [...page.events, ...page.parameters].filter((own) => matches(own.name, wanted));
  const search = make("input", { type: "search", id: "search", placeholder: "search ( / )", "aria-label": "search arrays", value: filter, "data-key": "search", oninput: (event) => setFilter(event.target.value) });
  const list = make("div", {});
  const shares = sharesOf(page, run);
  const fill = (wanted) => {
    const nothing = hits(wanted).length ? "" : make("p", { class: "dim", role: "status" }, "No array has this in its name.");
    list.replaceChildren(nothing, ...groups.map((group) => groupView(page, run, at, go, group, wanted, shares)).filter(Boolean), parametersView(page, run, at, go, wanted), leftOutView(page, run) ?? "");
  };
  search.addEventListener("input", () => fill(search.value));
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    const [first] = hits(search.value);
    const typed = located(search.value.trim(), page);
    const found = typed?.index.length ? typed : first && { of: "value", name: first.name, index: [] };
    if (!found) return;
    go(found);
    const head = page.axesOf(found.name).length === 3 ? (found.index[0] ?? 0) : null;
    document.querySelector(`[data-key="${CSS.escape(`${addressOf({ ...found, index: [] })} ${head}`)}"]`)?.focus({ preventScroll: true });
  });
  fill(filter);
  const legend = make("p", { class: "dim" }, "numbers: L2", shares.length ? "; bars: what a branch writes, of its stream" : "");
  return make("nav", { class: "flow", "aria-label": "Flow" }, search, legend, list);
}

/** Whether a name has what was typed, of which an index is no part. */
const matches = (name, wanted) => name.toLowerCase().includes(wanted.trim().replace(/\[.*/, "").toLowerCase());

/** How much of its stream each branch writes, with its layer and stage. */
function sharesOf(page, run) {
  const branches = page.events.filter(({ stream }) => stream);
  const found = branches.map((event) => ({ layer: event.layer, stage: event.stage, share: (run.traced ? page.shares[event.layer]?.[event.stage] : undefined) ?? page.shareOf(run, event) }));
  return found.filter(({ share }) => Number.isFinite(share));
}

/** A stage, or a layer with its stages, the shares of what each writes and a mark where something is odd. */
function groupView(page, run, at, go, { layer, stages }, wanted, shares) {
  const parts = [];
  let chosen = false;
  for (const [stage, events] of stages) {
    const shown = events.filter((event) => matches(event.name, wanted));
    if (!shown.length) continue;
    chosen ||= shown.some((event) => event.name === at?.name);
    if (layer !== null) parts.push(make("p", { class: "label" }, TITLES[stage] ?? stage));
    parts.push(make("ul", {}, shown.map((event) => rowView(page, run, at, go, event.name))));
  }
  if (!parts.length) return null;
  const [stage] = stages.keys();
  const [[first]] = stages.values();
  const own = shares.filter((branch) => branch.layer === first.layer && (layer !== null || branch.stage === stage));
  const summary = make("summary", {}, layer === null ? (TITLES[stage] ?? stage) : `Layer ${layer}`,
    own.map(({ stage: branch, share }) => make("span", { class: "share", title: `${branch} writes ${short(100 * share, 3)} % of its stream (the median of |write| / |stream|)` }, bar(share))),
    page.odd[layer] ? make("span", { class: "odd", title: page.odd[layer] }, " ⚠") : null);
  return make("details", { open: layer === null || wanted !== "" || chosen, "data-layer": layer }, summary, parts);
}

/** What has no array in the page, and how one gets it. */
function leftOutView(page, run) {
  if (!run.traced) return null;
  const missing = page.events.filter((event) => !run.of(event.name, "value"));
  const forms = Object.values(page.pictures).map(({ form }) => form);
  if (!missing.length && !forms.length) return null;
  const lasts = forms.filter((form) => form === "last").length;
  const [never, rest] = [true, false].map((own) => missing.filter((event) => Boolean(event.never) === own));
  const counted = (count, words) => (count ? `${count} of ${page.events.length} arrays ${words}. ` : "");
  const said = [counted(rest.length, "are not in this page"), counted(forms.length - lasts, "are there as pictures of 8 bit, but for the last position"), counted(lasts, "are there of the last position alone"),
    page.adds && (rest.length || forms.length) ? `${page.adds} adds to them.` : ""];
  return make("details", { class: "left-out" }, make("summary", {}, "Not in this page"), make("p", { class: "dim" }, said), kindsOf(rest),
    never.length ? [make("p", { class: "dim" }, "In no page of such a model; --layer NAME --json --values has them:"), kindsOf(never)] : null);
}

/** How many arrays of each kind of name there are. */
function kindsOf(events) {
  const kinds = new Map();
  for (const { name } of events) kinds.set(withoutLayer(name), (kinds.get(withoutLayer(name)) ?? 0) + 1);
  return make("ul", {}, Array.from(kinds, ([kind, count]) => make("li", {}, `${kind}: ${count}`)));
}

function parametersView(page, run, at, go, wanted) {
  const shown = page.parameters.filter((own) => matches(own.name, wanted) && run.of(own.name, "value"));
  if (!shown.length) return make("span", {});
  return make("details", { open: wanted !== "" || shown.some((own) => own.name === at?.name) }, make("summary", {}, "Parameters"), make("ul", {}, shown.map((own) => rowView(page, run, at, go, own.name))));
}

function rowView(page, run, at, go, name) {
  const values = run.of(name, "value");
  const known = values && !values.exact ? statisticsOf(values, (flat) => page.isCounted(name, run.shape(name), flat)) : null;
  const own = known ?? (run.traced ? page.statistics[name] : null);
  const size = own?.count ? own.l2 : Number.NaN;
  const chosen = at?.name === name;
  const isChanged = run.changed?.has(name);
  return make("li", {}, make("button", { type: "button", class: "row", "aria-current": chosen ? "true" : "false", "data-key": `flow ${name}`, onclick: () => go({ of: "value", name, index: [] }) },
    make("span", {}, page.has(name) ? lastOf(name) : name, own?.others ? make("span", { class: "odd", title: "not finite" }, " ⚠") : null, isChanged ? " (changed)" : ""),
    make("span", { class: "n dim" }, Number.isFinite(size) ? short(size, 3) : "–")));
}
