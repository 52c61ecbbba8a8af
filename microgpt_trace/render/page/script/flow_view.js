// The list of all arrays, by layer and stage in order of computation, with their L2 norms and warning marks.

import {located} from "./address.js";
import {bar, button, fill, html, keyed} from "./dom.js";
import {addressOf, lastOf, withoutLayer} from "./elements.js";
import {short, statisticsOf} from "./numbers.js";

const TITLES = {embedding: "Embedding", attention: "Attention", mlp: "MLP", head: "Head"};

export function flowView({page, run, at, go, filter, setFilter}) {
	const groups = [];
	for (const event of page.events) {
		const last = groups.at(-1);
		const layer = page.layers > 1 && event.layer !== null ? event.layer : null;
		if (last && last.layer === layer && (layer !== null || last.stages.has(event.stage)))
			last.stages.set(event.stage, [...(last.stages.get(event.stage) ?? []), event]);
		else groups.push({layer, stages: new Map([[event.stage, [event]]])});
	}
	const hits = query => [...page.events, ...page.parameters].filter(({name}) => matches(name, query));
	const search = html.input({
		type: "search",
		id: "search",
		placeholder: "search ( / )",
		"aria-label": "search arrays",
		value: filter,
		"data-key": "search",
		oninput: event => setFilter(event.target.value)
	});
	const list = html.div();
	const shares = sharesOf(page, run);
	const show = query =>
		fill(
			list,
			!hits(query).length && html.p({class: "dim", role: "status"}, "No array name contains this text."),
			groups.map(group => groupView(page, run, at, go, group, query, shares)),
			parametersView(page, run, at, go, query),
			leftOutView(page, run)
		);
	search.addEventListener("input", () => show(search.value));
	search.addEventListener("keydown", event => {
		if (event.key !== "Enter") return;
		const [first] = hits(search.value);
		const typed = located(search.value.trim(), page);
		const match = typed?.index.length ? typed : first && {of: "value", name: first.name, index: []};
		if (!match) return;
		go(match);
		const head = page.row(match.name).axes.length === 3 ? (match.index[0] ?? 0) : null;
		keyed(`${addressOf({...match, index: []})} ${head}`)?.focus({preventScroll: true});
	});
	show(filter);
	const legend = html.p(
		{class: "dim"},
		"numbers: L2 norm",
		shares.length ? "; bars: what attention or MLP adds, relative to the residual stream" : ""
	);
	return html.nav({class: "flow", "aria-label": "Flow"}, search, legend, list);
}

/** Return true if a name contains the search text. An index in the search text is ignored. */
const matches = (name, query) => name.toLowerCase().includes(query.trim().replace(/\[.*/, "").toLowerCase());

/** What each branch adds, relative to the residual stream, with its layer and stage. */
function sharesOf(page, run) {
	const branches = page.events.filter(({stream}) => stream);
	const shares = branches.map(event => ({
		layer: event.layer,
		stage: event.stage,
		share: (run.traced ? page.shares[event.layer]?.[event.stage] : undefined) ?? page.shareOf(run, event)
	}));
	return shares.filter(({share}) => Number.isFinite(share));
}

/** A stage, or a layer with its stages. Has its arrays, a bar for what each branch adds, and a mark for
    anomalies. */
function groupView(page, run, at, go, {layer, stages}, query, shares) {
	const parts = [];
	let chosen = false;
	for (const [stage, events] of stages) {
		const shown = events.filter(event => matches(event.name, query));
		if (!shown.length) continue;
		chosen ||= shown.some(event => event.name === at?.name);
		if (layer !== null) parts.push(html.p({class: "label"}, TITLES[stage] ?? stage));
		parts.push(html.ul(shown.map(event => rowView(page, run, at, go, event.name))));
	}
	if (!parts.length) return null;
	const [stage] = stages.keys();
	const [[first]] = stages.values();
	const branches = shares.filter(
		branch => branch.layer === first.layer && (layer !== null || branch.stage === stage)
	);
	const summary = html.summary(
		layer === null ? (TITLES[stage] ?? stage) : `Layer ${layer}`,
		branches.map(({stage: branch, share}) =>
			html.span(
				{
					class: "share",
					title:
						`${branch} adds ${short(100 * share, 3)} % of the residual stream (median of |write| / ` +
						"|stream| over positions)"
				},
				bar(share)
			)
		),
		page.odd[layer] ? html.span({class: "odd", title: page.odd[layer]}, " ⚠") : null
	);
	return html.details({open: layer === null || query !== "" || chosen, "data-layer": layer}, summary, parts);
}

/** The arrays that the page does not hold in full, and the options that add them. */
function leftOutView(page, run) {
	if (!run.traced) return null;
	const missing = page.events.filter(event => !run.of(event.name, "value"));
	const forms = Object.values(page.pictures).map(({form}) => form);
	if (!missing.length && !forms.length) return null;
	const lasts = forms.filter(form => form === "last").length;
	const [never, rest] = [true, false].map(value => missing.filter(event => Boolean(event.never) === value));
	const all = `of ${page.events.length} arrays`;
	const said = (count, one, many) => (count ? `${count} ${all} ${count === 1 ? one : many}. ` : "");
	const numbers = "with numbers at the last position only";
	const words = [
		said(rest.length, "is not in this page", "are not in this page"),
		said(forms.length - lasts, `is an 8-bit picture, ${numbers}`, `are 8-bit pictures, ${numbers}`),
		said(lasts, "has only the last position", "have only the last position"),
		page.adds && (rest.length || forms.length) ? `Add more with ${page.adds}.` : ""
	];
	return html.details(
		{class: "left-out"},
		html.summary("Not in this page"),
		html.p({class: "dim"}, words),
		countsOf(rest),
		never.length
			? [
					html.p(
						{class: "dim"},
						"These arrays are too large for a page of a production model. Print them with --layer NAME " +
							"--json --values:"
					),
					countsOf(never)
				]
			: null
	);
}

/** A list of event names without layers, each with the number of layers that have such an event. */
function countsOf(events) {
	const counts = new Map();
	for (const {name} of events) counts.set(withoutLayer(name), (counts.get(withoutLayer(name)) ?? 0) + 1);
	return html.ul(Array.from(counts, ([name, count]) => html.li(`${name}: ${count}`)));
}

function parametersView(page, run, at, go, query) {
	const names = page.parameters
		.map(({name}) => name)
		.filter(name => matches(name, query) && run.of(name, "value"));
	if (!names.length) return null;
	return html.details(
		{open: query !== "" || names.includes(at?.name)},
		html.summary("Parameters"),
		html.ul(names.map(name => rowView(page, run, at, go, name)))
	);
}

function rowView(page, run, at, go, name) {
	const values = run.of(name, "value");
	const computed =
		values && !values.exact
			? statisticsOf(values, flat => page.isCounted(name, run.shape(name), flat))
			: null;
	const stats = computed ?? (run.traced ? page.statistics[name] : null);
	const size = stats?.count ? stats.l2 : Number.NaN;
	const chosen = at?.name === name;
	const isChanged = run.changed?.has(name);
	return html.li(
		button(
			[
				html.span(
					page.has(name) ? lastOf(name) : name,
					stats?.others ? html.span({class: "odd", title: "not finite"}, " ⚠") : null,
					isChanged ? " (changed)" : ""
				),
				html.span({class: "n dim"}, Number.isFinite(size) ? short(size, 3) : "–")
			],
			() => go({of: "value", name, index: []}),
			{
				key: `flow ${name}`,
				class: "row",
				"aria-current": chosen ? "true" : "false",
				title: page.row(name).says
			}
		)
	);
}
