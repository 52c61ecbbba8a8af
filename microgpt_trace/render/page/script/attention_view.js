// The attention weights of all heads as small pictures, and the weights of one head as a large matrix.

import {endOf, planeOf} from "./array_view.js";
import {glance} from "./glance.js";
import {html} from "./dom.js";
import {matrix} from "./matrix.js";

/** The attention section, or null if the page holds no attention weights. */
export function attentionView(context) {
	const {page, run, go, options, set, widget, headButtons} = context;
	const names = page.attention.filter(name => run.of(name, "value"));
	if (!names.length) return null;
	const name = names.includes(context.at?.name)
		? context.at.name
		: (ofTheLayer(page, names, context.at) ?? (names.includes(options.layer) ? options.layer : names[0]));
	const at = {of: "value", name, index: context.at?.name === name ? context.at.index : []};
	const [count] = run.shape(name);
	const head = Math.min(headOf(page, context.at) ?? options.head, count - 1);
	const end = endOf(page, run, at, options.skipFirst);
	const chosen =
		context.at?.name === name && context.at.of === "value" && at.index.length === 3
			? at.index.slice(1)
			: null;
	const large = planeOf({...context, at, head, end, chosen, key: "attention", skipFirst: options.skipFirst});
	const all = glance({
		rows: names.length,
		columns: count,
		chosen: [names.indexOf(name), head],
		length: run.length,
		skipFirst: options.skipFirst,
		weightsOf: row => run.of(names[row], "value"),
		rowLabels: names.map(each => (names.length > 1 ? String(page.row(each).layer) : "")),
		scrolled: options.scrolled ?? [0, 0],
		onscroll: scrolled => set({scrolled}, false),
		isAblated: (row, column) => run.changed?.has(page.headEvents[names[row]][column]) ?? false,
		nameOf: (row, column) =>
			`${names.length > 1 ? `layer ${page.row(names[row]).layer}, ` : ""}head ${column}`,
		onpick: (row, column) => {
			set({head: column, layer: names[row]}, false);
			go({of: "value", name: names[row], index: [column]});
		}
	});
	const skip = html.label(
		html.input({
			type: "checkbox",
			checked: options.skipFirst,
			"data-key": "skip",
			onchange: event => set({skipFirst: event.target.checked})
		}),
		" colour scale without position 0"
	);
	return html.section(
		{class: "attention", "aria-label": "Attention", "data-array": name},
		html.h2("Attention", html.small(" in percent; rows are queries, columns are the keys that they see")),
		html.p({class: "buttons"}, skip, headButtons(name)),
		html.div(
			{class: "heads"},
			widget(all),
			html.div({class: "plane"}, html.h3(large.title), widget(matrix(large)))
		)
	);
}

/** The attention weights of the layer that an array belongs to. */
function ofTheLayer(page, names, at) {
	const layer = at ? page.row(at.name).layer : null;
	return layer === null || layer === undefined
		? undefined
		: names.find(name => page.row(name).layer === layer);
}

/** The head that an element belongs to. */
const headOf = (page, at) => (at && page.row(at.name).axes[0] === "head" ? at.index[0] : undefined);
