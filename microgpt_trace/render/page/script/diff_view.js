// The page of a comparison: a list of events with how far two runs lie apart in each, and A, B and B - A of one of
// them side by side.

import { make } from "./dom.js";
import { nameOf } from "./elements.js";
import { matrix } from "./matrix.js";
import { full, percent, short } from "./numbers.js";
import { split } from "./place.js";
import { start } from "./result_page.js";
import { indexOf, placeIn, sidesOf } from "./sides.js";

const NAMES = { a: "A", b: "B", d: "B − A" };
const FEW = 64; // columns up to which three pictures stand side by side

/** The view of a comparison; null where it compared no events. */
function diffView({ content, arrays, go, place }) {
  if (!content.events?.length) return null;
  const events = new Map(content.events.map((event) => [event.name, event]));
  const shownFirst = content.events.filter(({ name }) => content.held[name]);
  const opened = content.first ?? (shownFirst.length ? shownFirst : content.events).reduce((a, b) => (excess(b) > excess(a) ? b : a)).name;
  const list = listOf(content, (name) => go({ ...place(), name: nameOf(name, events.get(name).index) }));
  const shown = make("div", { class: "sides" });
  let pictures = [];
  document.getElementById("views").append(make("section", { "aria-label": "Both sides" },
    make("h2", {}, "Both sides", make("small", {}, ` A is ${content.sides[0]}, B is ${content.sides[1]}`)), make("div", { class: "compared" }, list.element, shown)));

  function show({ name }) {
    const [asked, index] = split(name);
    const event = events.get(asked) ?? events.get(opened);
    const found = sidesOf(content.held[event.name], event.name, arrays);
    const at = placeIn(found, events.has(asked) && index.length ? index : event.index) ?? (found && { head: found.heads?.[0] ?? null, row: 0, column: 0 });
    const focused = document.activeElement?.dataset?.key;
    list.mark(event.name);
    const pick = (row, column) => go({ ...place(), name: nameOf(event.name, indexOf(found, { ...at, row, column })) });
    const parts = found ? bothSides({ content, event, found, at, pick }) : { pictures: [], elements: [make("p", {}, leftOut(content, event))] };
    pictures = parts.pictures;
    const heads = found?.heads?.length > 1 ? headsOf(found, at, (head) => go({ ...place(), name: nameOf(event.name, indexOf(found, { ...at, head })) })) : null;
    shown.replaceChildren(...[...headingOf(event), heads, ...parts.elements].filter(Boolean));
    resized();
    document.querySelector(`[data-key="${CSS.escape(focused ?? "")}"]`)?.focus({ preventScroll: true });
    pictures.forEach((picture) => picture.reveal());
  }
  function resized() {
    for (const picture of pictures) picture.resized(picture.parentElement.clientWidth);
  }
  return { show, resized, keys: [["arrow keys, Home, End", "move in a matrix"], ["Enter", "choose the number"], ["/", "search an event"]] };
}

const excess = ({ told, relative, tolerance }) => (!told ? -1 : Number(relative) / Number(tolerance) || 0);

function leftOut(content, event) {
  if (content.ofStatistics) return "One side has statistics alone: there are no values to show.";
  if (!event.told) return "Not finite on both sides in all places alike: there is nothing to compare.";
  return "This page has no room for its values: it holds those of the first event that parts, of what that reads, of its layer, and of those farthest from their bands. The command below compares this event alone; with --html it makes a page of it.";
}

function headingOf(event) {
  const where = event.index.length ? `at [${event.index.join(", ")}], ` : "";
  const off = event.told ? `${where}off by ${short(Number(event.relative), 3)}${event.measured ? ` (${event.measured})` : ""}, allowed ${short(Number(event.tolerance), 2)}` : "not compared";
  return [
    make("h3", {}, event.name, make("small", {}, ` [${event.shape.join(", ")}]`)),
    event.expr ? make("p", { class: "expr" }, event.expr) : null,
    make("p", { class: event.holds ? "" : "bad" }, `${event.holds ? "within its band" : "✗ beyond its band"}: ${off}`),
  ];
}

function headsOf(found, at, choose) {
  return make("p", { class: "buttons" }, "head ", found.heads.map((head) => make("button", { type: "button", "data-key": `head ${head}`, "aria-pressed": String(head === at.head), onclick: () => choose(head) }, String(head))));
}

/** The three pictures, and the line that has the numbers under the cursor in full. */
function bothSides({ content, event, found, at, pick }) {
  const ends = found.ends(at.head);
  const line = make("p", { class: "looked n" });
  const told = (row, column) => ["a", "b", "d"].map((side) => `${NAMES[side]} ${full(found.at(side, at.head, row, column))}`).join(" · ");
  const named = (row, column) => `${nameOf("", indexOf(found, { ...at, row, column }))} ${positionIn(content, found, row)}`;
  const say = (row, column) => line.replaceChildren(found.isMasked?.(row, column) ? `${named(row, column)}: masked, not compared` : `${named(row, column)}: ${told(row, column)}`);
  const labels = found.positions.map((position) => content.labels[position] ?? String(position));
  const pictures = [];
  const point = (cell) => pictures.forEach((picture) => picture.point(cell));
  for (const side of ["a", "b", "d"]) {
    const isShare = found.share && side !== "d";
    pictures.push(matrix({
      rows: found.rows, columns: found.columns, key: side, title: `${event.name}, ${NAMES[side]}`,
      valueAt: (row, column) => found.at(side, at.head, row, column), isMasked: found.isMasked,
      kind: isShare ? "share" : "signed", end: isShare ? 1 : side === "d" ? ends.d : ends.sides,
      rowLabels: found.shape.length > 1 ? labels : null, columnLabels: found.heads ? content.labels.slice(0, found.columns) : null,
      chosen: [at.row, at.column], smallest: found.columns > 4096 ? 1 : 2, square: Boolean(found.heads),
      brief: isShare ? percent : (value) => short(value, 2),
      describe: (row, column) => `${named(row, column)}: ${told(row, column)}`, numberAt: (row, column) => (found.isMasked?.(row, column) ? "masked" : full(found.at(side, at.head, row, column))),
      onlook: (row, column) => {
        say(row, column);
        point([row, column]);
      },
      onpick: pick,
    }));
  }
  say(at.row, at.column);
  const boxes = pictures.map((picture) => picture.querySelector(".matrix"));
  for (const box of boxes) {
    box.addEventListener("scroll", () => boxes.forEach((other) => { other.scrollLeft = box.scrollLeft; }));
  }
  const figures = pictures.map((picture, n) => make("div", { class: "plane" }, make("h4", {}, Object.values(NAMES)[n]), picture));
  const notes = [
    found.rounded ? "rounded to float32 from what a side has" : "", found.positions.length < (event.shape.at(-2) ?? 0) ? "this page has room for the position where they part alone" : "",
    found.heads && found.heads.length < event.shape[0] ? "this page has room for the head where they part alone" : "",
  ].filter(Boolean);
  return { pictures, elements: [line, make("div", { class: found.columns > FEW ? "stacked" : "planes" }, figures), notes.length ? make("p", { class: "dim" }, notes.join("; ")) : null] };
}

const positionIn = (content, found, row) => (found.shape.length > 1 ? `at position ${found.positions[row]} (${content.labels[found.positions[row]] ?? "?"})` : "");

/** All events in order of computation; what was searched for alone. */
function listOf(content, choose) {
  const rows = new Map(content.events.map((event) => [event.name, make("button", { type: "button", class: "row", "data-key": `event ${event.name}`, onclick: () => choose(event.name) },
    make("span", { class: event.holds ? (content.held[event.name] ? "" : "dim") : "bad" }, `${event.holds ? "" : "✗ "}${event.name}`), make("span", { class: "n dim" }, event.told ? short(Number(event.relative), 2) : "–"))]));
  const items = new Map([...rows].map(([name, row]) => [name, make("li", {}, row)]));
  const search = make("input", { type: "search", placeholder: "search events", "aria-label": "search events", oninput: () => {
    for (const [name, item] of items) item.hidden = !name.includes(search.value.trim());
  } });
  const scrolled = make("ul", {}, [...items.values()]);
  const legend = make("p", { class: "dim" }, make("small", {}, "how far apart, as a share of the worst row; ✗: beyond its band"));
  return {
    element: make("nav", { class: "flow", "aria-label": "Events" }, search, legend, scrolled),
    mark(name) {
      for (const [own, row] of rows) row.setAttribute("aria-current", String(own === name));
      const row = rows.get(name);
      scrolled.scrollTop += row.getBoundingClientRect().top - scrolled.getBoundingClientRect().top - scrolled.clientHeight / 2;
    },
  };
}

start(diffView);
