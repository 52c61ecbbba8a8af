// The page of a result: sections with names that lead to commands, maps, and the view of its command.

import {listen, switchTheme} from "./controls.js";
import {button, copyable, html} from "./dom.js";
import {matrix} from "./matrix.js";
import {exact} from "./numbers.js";
import {read, split, written} from "./place.js";
import {unpacked} from "./unpacking.js";

const ALL = "all"; // the tab that shows all sections
const slot = name => document.getElementById(name);

/** Start the page. viewOf(context) makes the view of its command, or null. A view has `show(place)`. It may
    have `resized()` and `keys`, which are pairs of a key and what the key does. */
export function start(viewOf = () => null) {
	const {document: content, arrays} = unpacked(globalThis.microgptContent);
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

	const choose = name => go({...place, name});
	const factsOf = name => (facts.get(name) ?? []).map(([what, value]) => `, ${what} ${value}`).join("");
	const context = {content, arrays, go, choose, factsOf, place: () => place};
	const views = [viewOf(context), ...gridsOf(context), switchTabs(slot("tabs"), context)].filter(Boolean);

	function show() {
		for (const view of views) view.show(place);
		for (const link of links())
			link.toggleAttribute("aria-current", Boolean(place.name) && nameOf(link) === place.name);
		const command = commandOf(commands, place.name);
		const words = command
			? [html.strong(place.name), ` ${factsOf(place.name).replace(/^, /, "")} `, copyable(command)]
			: [commands.size ? "Choose a name or a cell to see a command that shows more about it." : ""];
		slot("reading").replaceChildren(...words);
	}

	listen(
		back,
		() => ({}),
		views.flatMap(view => view.keys ?? [])
	);
	document.addEventListener("click", event => {
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
	for (const event of ["resize", "scheme"])
		window.addEventListener(event, () => views.forEach(view => view.resized?.()));
	for (const line of document.querySelectorAll("p.command code"))
		line.replaceWith(copyable(line.textContent));
	switchTheme();
	document.body.classList.add("alive", "plain");
	show();
	document.querySelector("a[aria-current]")?.closest("section").scrollIntoView({block: "nearest"});
	document.body.dataset.ready = "yes";
}

const links = () => document.querySelectorAll('#results a[href^="#"]');
const nameOf = link => read(new URL(link.href).hash).name;

/** The command of a name. An element has the command of its array. */
const commandOf = (commands, name) => commands.get(name) ?? commands.get(split(name)[0]);

/** A Map of the members of an object. A plain object would also have `constructor`, which an address may
    name. */
const mapOf = named => new Map(Object.entries(named));

/** A picture for each map of the sections, and for each map that a command adds to a section. */
function gridsOf({content, choose, factsOf}) {
	const tables = [...document.querySelectorAll("table.grid")];
	const inPlace = content.grids.map((grid, n) =>
		gridView(grid, {table: tables[n], key: `map ${n}`, choose, factsOf})
	);
	const added = content.added.flatMap(({section, grids}) => {
		const maps = grids.map(grid => gridView(grid, {key: grid.title, choose, factsOf}));
		slot(section)
			.querySelector("h2")
			.after(html.div({class: "maps"}, maps));
		return maps;
	});
	const all = [...inPlace, ...added];
	if (all.length)
		all[0].keys = [
			["arrow keys, Home, End", "move in a map"],
			["Enter", "show the command of the cell"]
		];
	return all;
}

/** Turn the links in `list` into tabs, which show sections one at a time. Return null if there is no list. */
function switchTabs(list, {go, place}) {
	if (!list) return null;
	const tabs = [...list.querySelectorAll("a")];
	const parts = tabs.map(link => link.hash.slice(1));
	const buttons = [...parts, ALL].map((part, n) =>
		button(tabs[n]?.textContent ?? ALL, () => go({...place(), settings: {...place().settings, part}}))
	);
	list.replaceChildren(...buttons);
	return {
		show({name, settings}) {
			const request = settings.part ?? (parts.includes(name) ? name : parts.at(-1));
			const chosen = parts.includes(request) ? request : ALL;
			for (const part of parts) document.getElementById(part).hidden = chosen !== ALL && part !== chosen;
			buttons.forEach((each, n) => each.setAttribute("aria-pressed", String((parts[n] ?? ALL) === chosen)));
		}
	};
}

/** A map of shares as a picture in which keys move a cursor. `grid` has a title, labels of rows and columns,
    values (null for no value), the `end` of the colours, and the name of each cell. The picture replaces
    `table`, if it is given, and a link under the picture shows the table. factsOf(name) is text about a
    name. */
function gridView(grid, {table = null, key, choose, factsOf}) {
	const valueAt = (row, column) =>
		grid.values[row][column] === null ? Number.NaN : Number(grid.values[row][column]);
	const looked = html.p({class: "looked n"}, "\u00a0");
	const data = {
		rows: grid.rows.length,
		columns: grid.columns.length,
		key,
		title: grid.title,
		valueAt,
		table: false,
		kind: grid.kind ?? "signed",
		end: grid.end ?? 1,
		isMasked: grid.values.flat().includes(null)
			? (row, column) => grid.values[row][column] === null
			: undefined,
		hatched: "none",
		rowLabels: grid.rows,
		columnLabels: grid.columns,
		chosen: null,
		brief: value => value.toFixed(2),
		largest: 56,
		rowHeight: 20,
		labelRoom: 140,
		describe: (row, column) =>
			`${grid.rows[row]}, ${grid.across[column]}: ` +
			(grid.values[row][column] === null ? "none" : exact(valueAt(row, column))) +
			factsOf(grid.names[row][column]),
		onlook: (row, column) => looked.replaceChildren(data.describe(row, column)),
		onpick: (row, column) => grid.names[row][column] && choose(grid.names[row][column])
	};
	const picture = matrix(data);
	const figure = html.div(
		{class: "figure map"},
		grid.heading ? html.h3(grid.heading) : null,
		picture,
		looked
	);
	if (table) {
		const box = table.closest(".wide");
		box.replaceWith(figure);
		figure.append(html.details({class: "behind"}, html.summary("show as a table"), box));
	}
	figure.resized = () => picture.resized(figure.clientWidth);
	figure.show = ({name}) => {
		data.chosen = null;
		grid.names.forEach((names, row) => {
			if (name && names.includes(name)) data.chosen = [row, names.indexOf(name)];
		});
		picture.resized(figure.clientWidth);
		return data.chosen !== null;
	};
	return figure;
}
