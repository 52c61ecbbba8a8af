// An array of a run as a heat map with statistics, next to its gradient and its update.

import {button, html} from "./dom.js";
import {addressOf, nameOf, placeInWords} from "./elements.js";
import {flatOf} from "./formulas.js";
import {matrix} from "./matrix.js";
import {exact, largest, percent, short, statisticsOf} from "./numbers.js";
import {withTerms} from "./words.js";
import {whyOf} from "./why.js";

const MOST_NUMBERED = 64; // an axis of at most this length is labelled with its indices

/** The data of a matrix that shows one plane of an array. The plane of [H, T, T] is a head. If the page holds
    only the last position, the plane has one row. */
export function planeOf({page, run, at, head, go, onlook, chosen, end, key, skipFirst = false}) {
	const values = run.of(at.name, at.of);
	const shape = run.shape(at.name);
	const axes = page.row(at.name).axes;
	const [length, columns] = shape.length > 1 ? shape.slice(-2) : [1, shape[0] ?? 1];
	const first = values.isLacking ? length - 1 : 0;
	const before = head === null ? [] : [head];
	const indexOf = (row, column) =>
		shape.length > 1 ? [...before, first + row, column] : shape.length ? [column] : [];
	const valueAt = (row, column) => values[flatOf(indexOf(row, column), shape)];
	const square = axes.at(-1) === "key";
	const isMasked = square ? (row, column) => page.isMasked(at.name, [first + row, column]) : undefined;
	const numberAt = (row, column) => {
		if (isMasked?.(row, column)) return "masked";
		return values.exact && !values.exact(flatOf(indexOf(row, column), shape))
			? "not in this page, which holds only an 8-bit picture of the array"
			: exact(valueAt(row, column));
	};
	const labels = (axis, count) =>
		labelsOf(page, run, at.name, axis) ??
		(count <= MOST_NUMBERED ? Array.from({length: count}, (_, n) => String(n)) : null);
	const last = axes.length - 1;
	return {
		rows: length - first,
		rowHeight: first ? 14 : undefined,
		columns,
		valueAt,
		key,
		isMasked: skipFirst ? (r, c) => c === 0 || isMasked(r, c) : isMasked,
		hatched: skipFirst ? "masked, or position 0" : "masked",
		kind: isSequential(page, at) ? "share" : "signed",
		end,
		rowLabels: (shape.length > 1 && labels(axes[last - 1], length)?.slice(first)) || null,
		columnLabels: columns <= 64 || axes[last] === "key" ? labels(axes[last], columns) : null,
		ruled: axes[last] === "channel" ? page.row(at.name).dim : 0,
		title: nameOf(addressOf({...at, index: []}), before),
		chosen: chosen && chosen[0] >= first ? [chosen[0] - first, chosen[1]] : null,
		brief: values.exact && !values.isLacking ? null : isShare(page, at) ? percent : value => short(value, 2),
		isPicture: Boolean(values.exact) && !values.isLacking,
		describe: (row, column) =>
			`${nameOf(at.name, indexOf(row, column))} ${numberAt(row, column)}, ` +
			`${placeInWords(page, run, at.name, indexOf(row, column))}`,
		numberAt,
		onlook: (row, column) => onlook({...at, index: indexOf(row, column)}, numberAt(row, column)),
		onpick: (row, column) => go({...at, index: indexOf(row, column)}),
		marksRows: !first && ["position", "query"].includes(axes[last - 1]) && page.has(at.name),
		marksColumns: square,
		square
	};
}

const isShare = (page, at) => at.of === "value" && Boolean(page.row(at.name).share);

/** Return true if no number of the array can be negative. */
const isSequential = (page, at) =>
	isShare(page, at) || (at.of === "value" && Boolean(page.row(at.name).positive));

function labelsOf(page, run, name, axis) {
	if (axis === "query" || axis === "key") return run.labels;
	if (axis === "position" && page.has(name)) return run.labels;
	if (axis === "token") return page.tokensOf(name);
	return null;
}

/** The magnitude at which the colours of an array end: its largest, or 1 for attention weights and
    probabilities. */
export function endOf(page, run, at, skipFirst = false) {
	if (isShare(page, at) && !skipFirst) return 1;
	const values = run.of(at.name, at.of);
	const shape = run.shape(at.name);
	const isShown = (_, flat) =>
		page.isCounted(at.name, shape, flat) && !(skipFirst && flat % shape.at(-1) === 0);
	return largest(values.filter(isShown));
}

/** The section of an array: heat maps and statistics of its values, its gradient and its update. */
export function arrayView(context) {
	const {page, run, at, go} = context;
	const of = ["value", "gradient", "update"].filter(each => run.of(at.name, each));
	if (!of.length)
		return html.section(
			{class: "array", "aria-label": at.name},
			html.h2(at.name),
			html.p(`${at.name} is not in this page.${page.adds ? ` Add it with ${page.adds}.` : ""}`)
		);
	const row = page.row(at.name);
	const shape = run.shape(at.name);
	const part = run.of(at.name, "value")?.isLacking ? ", the page holds only the last position" : "";
	const heading = html.h2(at.name, html.small(` [${shape.join(", ")}]${part}`));
	const unit = context.unitButton(at);
	const figures = of.map(each => arrayFigure(context, {...at, of: each}, of.length > 1));
	return html.section(
		{class: "array", "aria-label": at.name, "data-array": at.name},
		heading,
		row.says
			? html.p(
					{class: "says"},
					withTerms(row.says),
					" ",
					whyOf(page, run, {...at, of: "value", index: []}) ?? ""
				)
			: null,
		row.expr ? html.p({class: "expr"}, row.expr) : null,
		neighbours(page, at, go),
		unit,
		html.div({class: "beside"}, figures)
	);
}

function arrayFigure(context, at, titled) {
	const {page, run} = context;
	const shape = run.shape(at.name);
	const end = endOf(page, run, at);
	const of = context.at.of === at.of ? context.at.index : [];
	const heads = shape.length === 3 ? Array.from({length: shape[0]}, (_, head) => head) : [null];
	const planes = heads.map(head => {
		const chosen =
			of.length === shape.length && (head === null || of[0] === head) && of.length
				? [of.at(-2) ?? 0, of.at(-1)]
				: null;
		const data = planeOf({
			...context,
			at,
			head,
			end,
			chosen,
			key: `${addressOf({...at, index: []})} ${head}`
		});
		if (heads.length > 1) Object.assign(data, {legend: head === 0, largest: 24});
		return html.div(
			{class: "plane"},
			head === null ? null : html.p({class: "label"}, `head ${head}`),
			context.widget(matrix(data))
		);
	});
	const isCut = run.of(at.name, at.of).isLacking && !run.of(at.name, "value")?.isLacking;
	const titles = {
		value: "value",
		gradient: `gradient: d ${page.scalar} / d value${isCut ? ", only at the last position" : ""}`,
		update: "update: what one training step added"
	};
	return html.div(
		{class: "figure"},
		titled ? html.h3(titles[at.of]) : null,
		html.div({class: heads.length > 1 ? "planes" : ""}, planes),
		statisticsView(page, run, at)
	);
}

function statisticsView(page, run, at) {
	const shape = run.shape(at.name);
	const values = run.of(at.name, at.of);
	const stats = values.exact
		? page.statistics[(at.of === "gradient" ? "d " : "") + at.name]
		: statisticsOf(values, flat => page.isCounted(at.name, shape, flat));
	const pairs = !stats.count
		? []
		: [
				["L2", short(stats.l2)],
				["mean", short(stats.mean)],
				["std", short(stats.std)],
				["min", short(stats.min)],
				["max", short(stats.max)],
				["zeros", String(stats.zeros)]
			];
	if (stats.others) pairs.push(["not finite", String(stats.others)]);
	return html.dl(
		{class: "statistics"},
		pairs.map(([term, value]) => html.div(html.dt(term), html.dd({class: "n"}, value)))
	);
}

/** Links to the arrays that an array is computed from, and to the arrays that use it. */
function neighbours(page, at, go) {
	const row = page.row(at.name);
	const linkTo = name => button(name, () => go({of: "value", name, index: []}), {class: "link"});
	const list = (title, names) =>
		names?.length ? [`${title} `, ...names.flatMap((name, n) => [n ? ", " : "", linkTo(name)])] : [];
	const parts = [
		...list("computed from", [...(row.inputs ?? []), ...(row.reads ?? [])]),
		...(row.readers?.length && (row.inputs?.length || row.reads?.length) ? [" · "] : []),
		...list("used by", row.readers)
	];
	return html.p({class: "neighbours"}, parts);
}
