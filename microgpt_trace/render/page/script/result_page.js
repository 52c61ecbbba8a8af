// The page of a result: sections whose names lead to commands, maps, and the views that a command adds.

import { listen, switchTheme } from "./controls.js";
import { copyable, make } from "./dom.js";
import { gridView } from "./grid_view.js";
import { read, split, written } from "./place.js";
import { switchTabs } from "./tabs.js";
import { unpacked } from "./unpacking.js";

const slot = (name) => document.getElementById(name);

/** `viewOf` gives the view of a command from a context, or null; a view has `resized()`, `show(place)` and
    `keys`, what its keys do. */
export function start(viewOf = () => null) {
  const { document: content, arrays } = unpacked(globalThis.microgptContent);
  const [commands, facts] = [mapOf(content.commands), mapOf(content.facts)];
  let place = read(location.hash);
  const trail = [];

  function move(next, how) {
    place = next;
    try {
      history[how](null, "", `#${written(place)}`);
    } catch {
      // a page in a sandboxed frame has no history
    }
    show();
  }
  function go(next, again = false) {
    if (written(next) === written(place)) return;
    if (!again) trail.push(place);
    move(next, again ? "replaceState" : "pushState");
  }
  const back = () => trail.length && move(trail.pop(), "replaceState");

  const choose = (name) => go({ ...place, name });
  const said = (name) => (facts.get(name) ?? []).map(([what, value]) => `, ${what} ${value}`).join("");
  const context = { content, arrays, go, choose, said, place: () => place };
  const views = [viewOf(context), ...gridsOf(context), switchTabs(slot("tabs"), context)].filter(Boolean);

  function show() {
    for (const view of views) view.show(place);
    for (const link of links()) link.toggleAttribute("aria-current", Boolean(place.name) && nameOf(link) === place.name);
    const command = commandOf(commands, place.name);
    const words = command ? [make("strong", {}, place.name), ` ${said(place.name).replace(/^, /, "")} `, copyable(command)] : [HINT[Number(commands.size > 0)]];
    slot("reading").replaceChildren(...words);
  }

  listen(back, views.flatMap((view) => view.keys ?? []));
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || !commandOf(commands, nameOf(link))) return;
    event.preventDefault();
    choose(nameOf(link));
  });
  for (const event of ["popstate", "hashchange"]) {
    window.addEventListener(event, () => {
      if (location.hash === `#${written(place)}`) return;
      place = read(location.hash);
      show();
    });
  }
  window.addEventListener("resize", () => views.forEach((view) => view.resized()));
  for (const line of document.querySelectorAll("p.command code")) line.replaceWith(copyable(line.textContent));
  switchTheme();
  document.body.classList.add("alive", "plain");
  show();
  document.querySelector("a[aria-current]")?.closest("section").scrollIntoView({ block: "nearest" });
  document.body.dataset.ready = "yes";
}

const HINT = ["", "Choose a name or a cell: the command that shows more of it stands here."];
const links = () => document.querySelectorAll('#said a[href^="#"]');
const nameOf = (link) => read(new URL(link.href).hash).name;

/** The command of a name, or of the array that an element is of. */
const commandOf = (commands, name) => commands.get(name) ?? commands.get(split(name)[0]);

/** What names lead to. A plain object also has what every object has, as `constructor`, which an address may name. */
const mapOf = (named) => new Map(Object.entries(named));

/** A picture for each map of the sections, and one for each that a command adds to a section. */
function gridsOf({ content, choose, said }) {
  const tables = [...document.querySelectorAll("table.grid")];
  const inPlace = content.grids.map((grid, n) => gridView(grid, { table: tables[n], key: `map ${n}`, choose, said }));
  const added = content.added.flatMap(({ section, grids }) => {
    const maps = grids.map((grid) => gridView(grid, { key: grid.title, choose, said }));
    slot(section).querySelector("h2").after(make("div", { class: "maps" }, maps));
    return maps;
  });
  const all = [...inPlace, ...added];
  if (all.length) all[0].keys = [["arrow keys, Home, End", "move in a map"], ["Enter", "show the command of a cell"]];
  return all;
}
