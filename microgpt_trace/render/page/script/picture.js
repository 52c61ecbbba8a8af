// The whole computation as one picture: a lane for each token, in which vectors are strips of cells. In
// attention, lines run from earlier lanes to the lane that reads them.

import {alone, rectangle, svg, textAt} from "./dom.js";
import {letterOf} from "./letters.js";
import {counted, percent} from "./numbers.js";
import {answersOf, bestKey, endsOf, keysOf, lineOf, onOf, stripOf, titleOf} from "./picture_parts.js";

const TOP = 74; // y of the first lane
const [LOW, LANE, CHOSEN] = [24, 63, 122]; // heights of lanes
const HEIGHTS = {table: [12, 21], stream: [26, 42], units: [28, 46]}; // of strips, in the chosen lane last
const MOST_HIGH = 8; // with more lanes, all lanes but the chosen one are low
const GAP = 18;
const LEAST_HEAD = 56; // smallest width of a head
const WIDE = 1100; // pixels; a narrower picture has shorter words

/** The picture of a run. `line` is the chosen line of attention, `candidates(position)` are the likeliest
    tokens after a position, and `select`, `chooseLine` and `open` are functions of a lane, a line and an
    array. */
export function pictureView(context) {
	const {width} = context;
	const layout = layOut(context, width);
	const scene = {...context, layout, ends: endsOf(context.run, layout.columns)};
	const lanes = layout.lanes.map(lane => laneOf(scene, lane));
	return svg.svg(
		{
			class: "picture",
			width,
			height: layout.height,
			viewBox: `0 0 ${width} ${layout.height}`,
			"aria-hidden": "true"
		},
		titlesOf(scene),
		lanes,
		layout.columns.filter(({kind}) => kind === "head").map(column => headOf(scene, column)),
		layout.columns.filter(({kind}) => kind === "layer").map(column => closedOf(scene, column))
	);
}

/** The columns and lanes of the picture in a width. `layer` is the layer that is open. If not all of its
    heads fit, only the first heads of `heads` are shown. */
function layOut({page, run, position, layer, heads}, width) {
	const isLow = run.length > MOST_HIGH;
	let y = TOP;
	const lanes = run.tokens.map((_, at) => {
		const lane = {
			at,
			y,
			height: at === position ? CHOSEN : isLow ? LOW : LANE,
			isLow: isLow && at !== position
		};
		y += lane.height + (isLow ? 3 : 6);
		return lane;
	});
	const {columns, titles} = columnsOf(page, layer, heads, width);
	return {lanes, columns, titles, width, top: TOP, height: y};
}

function columnsOf(page, layer, order, width) {
	const scale = Math.min(1.15, width / 1232);
	const strip = Math.max(40, 82 * scale);
	const gap = Math.max(8, GAP * scale);
	const list = page.picture.tables.map((name, nth, tables) => ({
		kind: "table",
		name,
		nth,
		of: tables.length,
		width: strip,
		isUnder: nth > 0,
		caption: nth ? "+ place" : "letter"
	}));
	list.push({kind: "stream", name: page.picture.first, width: strip, caption: "= one row"});
	for (const {layer: at, parts} of page.picture.layers) {
		if (at !== layer) list.push({kind: "layer", layer: at, width: 48});
		else parts.forEach((part, n) => list.push(...columnsOfPart(part, parts[n - 1], strip, scale)));
	}
	list.push({kind: "answer", width: Math.max(112, 128 * scale)});
	const room = column =>
		column.kind === "head" || column.isUnder ? 0 : column.width + gap + (column.plus ? 12 : 0);
	const fixed = 66 + 12 + list.reduce((sum, column) => sum + room(column), 0);
	const free = width - fixed - gap;
	const shown = new Set(order.slice(0, Math.max(1, Math.floor(free / LEAST_HEAD))));
	const all = list.filter(({kind}) => kind === "head");
	const heads = all.filter(({head}) => shown.has(head));
	for (const head of heads) head.width = free / heads.length;
	const columns = list.filter(column => column.kind !== "head" || heads.includes(column));
	let x = 66 + gap / 2;
	for (const column of columns) {
		if (column.isUnder) {
			column.x = list[0].x;
			continue;
		}
		column.x = x + (column.plus ? 12 : 0);
		x = column.x + column.width + (column.kind === "head" && column !== heads.at(-1) ? 0 : gap);
	}
	const units = columns.find(({kind}) => kind === "units");
	return {
		columns,
		titles: {
			tables: 0,
			heads: heads.length ? {x: heads[0].x, shown: heads.length, count: all.length} : null,
			units,
			answer: list.at(-1).x
		}
	};
}

function columnsOfPart({attention, heads, units, stream}, before, strip, scale) {
	if (attention) return heads.map((event, head) => ({kind: "head", attention, event, head, width: 0}));
	if (units) return [{kind: "units", name: units, width: Math.max(48, 98 * scale)}];
	return [
		{
			kind: "stream",
			name: stream,
			width: strip,
			plus: true,
			caption: before?.units ? "+ what MLP says" : "+ what it took"
		}
	];
}

function titlesOf({layout, page, run}) {
	const {tables, heads, answer, units} = layout.titles;
	const wide = name => run.shape(name).at(-1);
	const isWide = layout.width >= WIDE;
	const parts = page.picture.tables
		.map(name => `${wide(name)} for the ${page.picture.places.includes(name) ? "place" : "letter"}`)
		.join(" + ");
	const back =
		heads &&
		(isWide
			? `Attention: ${heads.count} ${heads.count === 1 ? "head looks" : "heads look"} back`
			: "Attention");
	const which =
		heads &&
		(heads.shown < heads.count
			? `the ${heads.shown === 1 ? "one that moves" : `${heads.shown} that move`} the letter most`
			: isWide
				? "each head mixes earlier letters into this one"
				: counted(heads.count, "head"));
	const list = [
		[
			tables,
			isWide ? "Letters become numbers" : "Letters",
			isWide ? parts : counted(wide(page.picture.first), "number")
		],
		heads && [heads.x, back, which],
		units && [
			units.x,
			isWide ? `MLP: ${wide(units.name)} switches` : "MLP",
			isWide ? "each place by itself" : `${wide(units.name)} units`
		],
		[answer, isWide ? "Next letter" : "Next", `${page.vocabulary.length} chances`]
	].filter(Boolean);
	return list.map(([x, title, words], n) => [
		titleOf(n + 1, x, 12, title),
		textAt("words", x + 23, 33, words)
	]);
}

function laneOf(scene, lane) {
	const {run, layout, select, position} = scene;
	const {at, y, height} = lane;
	const isChosen = at === position;
	const middle = y + height / 2;
	const cells = layout.columns.map(column => columnOf(scene, lane, column));
	const size = Math.min(isChosen ? 38 : 30, height - 4);
	const tile = svg.g(
		{class: "tile"},
		rectangle(null, 12, middle - size / 2 - (lane.isLow ? 0 : 5), size, size, {rx: 5}),
		textAt("letter", 12 + size / 2, middle + 5 - (lane.isLow ? 0 : 5), letterOf(run.labels[at])),
		lane.isLow ? null : textAt("words middle", 12 + size / 2, middle + size / 2 + 9, `place ${at}`)
	);
	return svg.g(
		{class: isChosen ? "lane chosen" : "lane", onclick: () => select(at)},
		rectangle("ground", 0.5, y, layout.width - 1, height, {rx: 8}),
		svg.line({class: "row-line", x1: 66, x2: layout.titles.answer - 4, y1: middle, y2: middle}),
		tile,
		cells
	);
}

/** The part of a lane in a column: a strip, the cells of units, or the likeliest next tokens. */
function columnOf(scene, lane, column) {
	const {run, position} = scene;
	const middle = lane.y + lane.height / 2;
	const isChosen = lane.at === position;
	if (column.kind === "answer") {
		const list = scene.candidates(lane.at, lane.isLow ? 1 : isChosen ? 5 : 2);
		const y = n => middle + (n - (list.length - 1) / 2) * 17.5;
		return answersOf(scene, lane.at, list, {x: column.x, y, width: column.width});
	}
	if (lane.isLow || ["head", "layer"].includes(column.kind)) return null;
	const height = HEIGHTS[column.kind][isChosen ? 1 : 0];
	const top =
		middle - height / 2 + (column.kind === "table" ? (column.nth - (column.of - 1) / 2) * height : 0);
	const plus =
		column.plus &&
		svg.g(
			{class: "plus"},
			svg.circle({cx: column.x - 12, cy: middle, r: 6}),
			svg.path({d: `M${column.x - 15} ${middle}h6m-3 -3v6`})
		);
	const caption =
		isChosen &&
		textAt(
			"words",
			column.x + 1,
			column.kind === "units" || column.nth === 1 ? top + height + 12 : top - 5,
			column.kind === "units"
				? onOf(run, column.name, lane.at)
				: scene.layout.width < WIDE && column.plus
					? ""
					: column.caption
		);
	const box = {x: column.x, y: top, width: column.width, height};
	return stripOf(scene, column.name, column.kind, lane.at, box, plus, caption);
}

/** A head: a box with a line from each key to each query. */
function headOf(scene, column) {
	const {run, layout, position, line, page, off} = scene;
	const weights = run.of(column.attention, "value");
	const share = (query, key) => weights[(column.head * run.length + query) * run.length + key];
	const isOff = off.includes(column.event);
	const isChosen = line?.attention === column.attention && line.head === column.head;
	const y = at => layout.lanes[at].y + layout.lanes[at].height / 2;
	const [from, to] = [column.x + 16, column.x + column.width - 18];
	const keys = keysOf(page, column, position);
	const best = bestKey(keys, key => share(position, key));
	const curve = (query, key) =>
		`M${from} ${y(key)}C${(from + to) / 2} ${y(key)} ${(from + to) / 2} ${y(query)} ${to} ${y(query)}`;
	const others = run.tokens.flatMap((_, query) =>
		query === position
			? []
			: Array.from({length: query + 1}, (__, key) =>
					svg.path({
						class: "hairline",
						d: curve(query, key),
						"stroke-width": Math.max(0.4, 4 * (share(query, key) || 0)).toFixed(1)
					})
				)
	);
	const lines = keys.map(key =>
		lineOf(scene, column, key, {
			share: share(position, key),
			curve: curve(position, key),
			x: from + 14,
			y: y(key) + (layout.lanes[key].isLow ? 4 : key === position && position > 0 ? 20 : -10)
		})
	);
	const starts = run.tokens.map((_, at) =>
		layout.lanes[at].isLow && at > position
			? null
			: svg.g(
					{class: at > position ? "start later" : "start"},
					svg.circle({cx: from - 3, cy: y(at), r: 9}),
					textAt(null, from - 3, y(at) + 4.5, letterOf(run.labels[at]))
				)
	);
	const ends = run.tokens.map((_, at) =>
		svg.circle({
			class: at === position ? "end chosen" : "end",
			cx: to,
			cy: y(at),
			r: at === position ? 6 : 3
		})
	);
	const [top, bottom] = [layout.top - 26, layout.height - 2];
	const cross =
		isOff &&
		svg.path({
			class: "cross",
			d:
				`M${column.x + 4} ${top + 26}L${column.x + column.width - 4} ` +
				`${bottom - 8}M${column.x + column.width - 4} ${top + 26}L${column.x + 4} ${bottom - 8}`
		});
	return svg.g(
		{class: isOff ? "head off" : "head"},
		others,
		lines,
		starts,
		ends,
		cross,
		rectangle(isChosen ? "box chosen" : "box", column.x, top, column.width, bottom - top, {rx: 7}),
		textAt("heading small", column.x + 6, layout.top - 8, `head ${column.head}${isOff ? " · out" : ""}`),
		isOff || column.width < 104
			? null
			: textAt(
					"words end",
					column.x + column.width - 6,
					layout.top - 8,
					`${letterOf(run.labels[best])} ${percent(share(position, best))} %`
				)
	);
}

/** A layer that is closed: a button that opens it. */
function closedOf({layout, openLayer}, column) {
	const top = layout.top - 26;
	return svg.g(
		{class: "layer", onclick: alone(() => openLayer(column.layer))},
		rectangle("box chosen", column.x, top, column.width, layout.height - 2 - top, {rx: 7}),
		textAt("heading small middle", column.x + column.width / 2, layout.top - 8, `layer ${column.layer}`)
	);
}
