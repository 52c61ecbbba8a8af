// The logit lens as a river: a lane for each position, in which a band runs through the layers. A band is as
// thick as the probability of the token that the model would predict after the layer. Lines are the heads
// that moved the answer most. A grid below has the effect of every head and MLP, with the same columns.

import {ordinal} from "./answer_view.js";
import {paintOf} from "./colors.js";
import {alone, rectangle, svg, textAt} from "./dom.js";
import {namedToken} from "./letters.js";
import {chance, counted, percent, short} from "./numbers.js";
import {answerOf, titleOf} from "./picture_parts.js";

const [MOST_LANES, MANY_LANES, MANY_HEADS] = [16, 8, 12];
const NARROW = 700; // pixels
const [TOP, CURVE] = [50, 70]; // pixels above the lanes, and of the curve below the band of the answer
const LETTER = 7.3; // width of a letter in pixels

/** The picture of a recorded run. `part` is the chosen head or MLP, and `top` are the heads with the largest
    effects. */
export function riverView(context) {
	const layout = layOut(context);
	const scene = {...context, layout, paint: paintOf("share")};
	const {width, height, layers} = layout;
	return svg.svg(
		{class: "picture river", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true"},
		headings(scene),
		layout.lanes.map(lane => laneOf(scene, lane)),
		context.part && chosenLayer(scene),
		layers ? gridOf(scene) : null,
		context.lines.map(part => lineOf(scene, part)),
		context.part && labelOf(scene)
	);
}

function layOut({page, width, parts}) {
	const {lens} = page;
	const isNarrow = width < NARROW;
	const from = isNarrow ? 62 : 140;
	const to = width - (isNarrow ? 8 : 250);
	const shown = lens.positions.filter((_, n, all) => n === 0 || n > all.length - MOST_LANES);
	const isLow = shown.length > MANY_LANES;
	let y = TOP;
	const lanes = shown.map(at => {
		const isAnswer = at === page.effects?.position;
		const band = isAnswer ? 46 : isLow ? 24 : 38;
		const lane = {at, y, band, height: band + (isAnswer ? CURVE : 0), isAnswer, isLow: isLow && !isAnswer};
		lane.middle = y + band / 2 + (isAnswer ? 8 : 0);
		y += lane.height + (isLow ? 3 : 6);
		return lane;
	});
	const heads = Math.max(0, ...parts.map(({head}) => (head === null ? -1 : head))) + 1;
	const row = heads > MANY_HEADS ? 8 : 15;
	const grid = {y: y + 28, row, heads, mlp: y + 28 + heads * row + 5};
	return {
		lanes,
		from,
		to,
		step: (to - from) / page.layers,
		isNarrow,
		width,
		layers: parts.length ? page.layers : 0,
		grid,
		bottom: y,
		height: parts.length ? grid.mlp + row + 6 : y + 4
	};
}

function headings({page, run, layout: {from, to, step, isNarrow, lanes}}) {
	const labels = Array.from({length: page.layers}, (_, layer) => layer).filter(
		layer => layer === page.layers - 1 || (layer % 5 === 0 && page.layers - 1 - layer > 1)
	);
	const hidden = run.length - lanes.length;
	const isTail = lanes.slice(1).every(({at}, n, all) => at === run.length - all.length + n);
	const shown =
		isTail && lanes[0].at === 0
			? `first, and last ${lanes.length - 1} of ${run.length}`
			: `${lanes.length} of ${run.length}`;
	return [
		isNarrow ? null : titleOf(1, 0, 12, "Tokens"),
		isNarrow || !hidden ? null : textAt("words", 6, 30, shown),
		titleOf(isNarrow ? 1 : 2, from, 12, `${counted(page.layers, "layer")}, left to right`),
		isNarrow
			? null
			: textAt(
					"words",
					from + 23,
					30,
					"a band is the token that the model would predict if it ended after the layer; the thicker, " +
						"the likelier"
				),
		isNarrow ? null : titleOf(3, to + 14, 12, "Next token"),
		labels.map(layer => textAt("words middle", from + (layer + 0.5) * step, TOP - 5, String(layer)))
	];
}

function laneOf(scene, lane) {
	const {page, run, layout, select, position} = scene;
	const {from, to, isNarrow, width} = layout;
	const {middle} = lane;
	const room = isNarrow ? 54 : 122;
	const tile = svg.g(
		{class: "tile"},
		rectangle(null, 6, middle - Math.min(15, lane.band / 2 - 2), room - 8, Math.min(30, lane.band - 4), {
			rx: 5
		}),
		textAt("token-name", 2 + room / 2, middle + 4.5, cut(run.labels[lane.at], room - 14))
	);
	return svg.g(
		{class: ["lane", lane.at === position ? "chosen" : ""].join(" "), onclick: () => select(lane.at)},
		rectangle("ground", 0.5, lane.y, width - 1, lane.height, {rx: 8}),
		tile,
		bandsOf(scene, lane, middle),
		lane.isAnswer ? curveOf(scene, lane) : null,
		isNarrow ? null : nextOf(page, run, lane, middle, to + 14, width - 12),
		svg.line({class: "row-line", x1: from, x2: from, y1: middle, y2: middle})
	);
}

/** The bands of a lane. A token stands once in neighbouring layers with the same token. Where names would
    overlap, the name of the longer and likelier band stands. */
function bandsOf({page, layout: {from, to, step}, paint}, lane, middle) {
	const nth = page.lens.positions.indexOf(lane.at);
	const cells = page.lens.rows.map(([layer, row]) => ({layer, candidates: row[nth]}));
	const bands = cells.map(({layer, candidates: [first]}, n) => {
		const p = first ? first[1] : 0;
		const height = Math.max(2, (lane.band - 6) * p);
		const listed = cells[n].candidates
			.map(([token, share]) => `${page.vocabulary[token]} ${chance(share)}`)
			.join(", ");
		return svg.g(
			svg.title(`after layer ${layer}: ${listed || "not finite"}`),
			rectangle("touch", from + n * step, lane.y, step, lane.band),
			rectangle(
				null,
				(from + n * step).toFixed(1),
				(middle - height / 2).toFixed(1),
				(step + 0.3).toFixed(1),
				height.toFixed(1),
				{fill: paint(first ? 0.35 + 0.4 * p : Number.NaN)}
			)
		);
	});
	const runs = [];
	for (const [
		n,
		{
			candidates: [first]
		}
	] of cells.entries()) {
		if (!runs.length || runs.at(-1).token !== first?.[0]) runs.push({token: first?.[0], from: n, size: 0});
		runs.at(-1).to = n + 1;
		runs.at(-1).size += first ? first[1] : 0;
	}
	const placed = [];
	for (const each of runs
		.filter(({token}) => token !== undefined)
		.toSorted((a, b) => (b.to === cells.length) - (a.to === cells.length) || b.size - a.size)) {
		const width = page.vocabulary[each.token].length * LETTER;
		const x = Math.max(from, Math.min(to - width, from + ((each.from + each.to) / 2) * step - width / 2));
		if (placed.every(other => x > other.x + other.width + 2 || x + width + 2 < other.x))
			placed.push({x, width, name: page.vocabulary[each.token]});
	}
	return [bands, placed.map(({x, name}) => textAt("band-name", x, middle + 4.5, name))];
}

/** The rank of the answer after each layer, on a logarithmic scale from 1 to its largest rank. */
function curveOf({page, layout: {from, to, step, isNarrow}}, lane) {
	const leaving = page.lens.target
		.filter(([, position]) => position === lane.at)
		.filter(([event], n, all) => page.row(event).layer !== page.row(all[n + 1]?.[0] ?? "")?.layer);
	const ranks = leaving.map(([, , , rank]) => rank);
	if (!ranks.length || ranks.includes(null)) return null;
	const worst = Math.max(2, ...ranks);
	const [top, bottom] = [lane.y + lane.band + 24, lane.y + lane.height - 8];
	const y = rank => top + ((bottom - top) * Math.log(rank)) / Math.log(worst);
	const middle = Math.round(Math.sqrt(worst));
	const rules = [1, ...(middle > 2 ? [middle] : []), worst].map(rank => [
		svg.line({class: "rank-rule", x1: from, x2: to, y1: y(rank), y2: y(rank)}),
		textAt("words end", from - 6, y(rank) + 3.5, isNarrow ? String(rank) : ordinal(rank))
	]);
	const path = ranks
		.map((rank, n) => `${n ? "L" : "M"}${(from + (n + 0.5) * step).toFixed(1)} ${y(rank).toFixed(1)}`)
		.join("");
	return [
		rules,
		svg.path({class: "rank-curve", d: path}),
		textAt(
			"words",
			from + 5,
			top - 4,
			`rank of ${page.effects.label} after each layer, on a logarithmic scale`
		)
	];
}

function nextOf(page, run, lane, middle, x, end) {
	const prediction = page.predictions.find(({position}) => position === lane.at);
	if (!prediction) return null;
	const real = lane.isAnswer ? page.effects.token : run.targets[lane.at];
	const list = prediction.top.slice(0, lane.isAnswer ? 4 : lane.isLow ? 1 : 2);
	const from = lane.isAnswer ? middle + 16 : middle;
	return list.map(([token, p], n) =>
		answerOf(
			{label: cut(page.vocabulary[token], 84), p},
			{x, y: from + (n - (list.length - 1) / 2) * 17, width: end - x, isReal: token === real, named: 84}
		)
	);
}

/** A line from the token that a head looks at most to the answer, as thick as the effect of the head at this
    position. A line from a token without a lane begins between the lanes. */
function lineOf({part: chosen, lines, layout, choose}, part) {
	const {from, step} = layout;
	const place = placeOf(layout, part.key);
	const sizeOf = ({here, effect, p}) => Math.abs(here === undefined ? effect : Math.log(p / here)) || 0;
	const most = Math.max(1e-9, ...lines.map(sizeOf));
	const [x0, x1] = [from + part.layer * step, from + (part.layer + 1) * step];
	const bend = Math.max(16, step);
	const y1 = layout.lanes.find(({isAnswer}) => isAnswer).middle;
	const d = `M${x0} ${place}C${x0 + bend} ${place} ${x1 - bend} ${y1} ${x1} ${y1}`;
	const width = Math.max(1.5, (Math.min(7, step / 2) * sizeOf(part)) / most);
	return svg.g(
		{class: part === chosen ? "moved chosen" : "moved", onclick: alone(() => choose(part))},
		svg.title(part.words),
		svg.path({class: "touch", d}),
		svg.path({class: "casing", d, "stroke-width": width + 3}),
		svg.path({d, "stroke-width": width}),
		svg.circle({cx: x0, cy: place, r: 3.5})
	);
}

/** The height of the lane of a token, or of the gap between the lanes before and after it. */
function placeOf({lanes}, at) {
	const lane = lanes.find(each => each.at >= at) ?? lanes.at(-1);
	return lane.at === at ? lane.middle : lane.y - 1.5;
}

/** What the chosen head looks at, beside its line. */
function labelOf({run, part, lines, layout, page}) {
	if (layout.isNarrow || !lines.includes(part)) return null;
	const isLeft = part.layer > page.layers / 2;
	const x = layout.from + (part.layer + (isLeft ? 0 : 1)) * layout.step + (isLeft ? -8 : 8);
	const words = `${part.words} looks at ${namedToken(run, part.key)} ${percent(part.share)} %`;
	return textAt(`share ${isLeft ? "end" : ""}`, x, layout.lanes.find(({isAnswer}) => isAnswer).y + 13, words);
}

/** The frame of the chosen part's layer, from the lanes to the grid. */
function chosenLayer({part, layout: {from, step, height}}) {
	return rectangle("box chosen", from + part.layer * step, TOP - 18, step, height - TOP + 16, {rx: 5});
}

/** The effect of every part: how much the loss grows without it, or what it adds to the answer. */
function gridOf({page, parts, part: chosen, top, choose, layout: {from, to, step, grid, isNarrow}}) {
	const {isMeasured, label} = page.effects;
	const end = isMeasured ? 0.5 : Math.max(1e-9, ...parts.map(({effect}) => Math.abs(effect) || 0));
	const paint = paintOf("signed", end);
	const cells = parts.map(part => {
		const [x, y] = [from + part.layer * step, part.head === null ? grid.mlp : grid.y + part.head * grid.row];
		const kind = ["part-cell", top.includes(part) ? "large" : "", part === chosen ? "chosen" : ""].join(" ");
		const words = isMeasured ? `${label} without it ${chance(part.without)}` : `adds ${short(part.adds)}`;
		return svg.g(
			{class: kind, onclick: () => choose(part)},
			svg.title(`${part.words}: ${words}`),
			rectangle(null, x + 0.5, y + 0.5, Math.max(1, step - 1.2), grid.row - 1.2, {
				fill: paint(part.effect)
			})
		);
	});
	const names = Array.from({length: grid.heads}, (_, head) => head)
		.filter(head => grid.row > 10 || head % 4 === 0)
		.map(head =>
			textAt(
				"words end",
				from - 6,
				grid.y + (head + 0.5) * grid.row + 3.5,
				isNarrow ? String(head) : `head ${head}`
			)
		);
	const title = isMeasured
		? `What each part does for ${label}`
		: `What each part adds to ${label} over ${page.effects.other}`;
	const strips = Array.from({length: 9}, (_, n) =>
		rectangle(null, to + 20 + n * 20, grid.y + 14, 20, 10, {
			fill: paint(((n - 4) / 4) * end)
		})
	);
	const ends = isMeasured ? ["\u22120.5 better without", "worse +0.5"] : [short(-end), `+${short(end)}`];
	const legend = isNarrow
		? null
		: [
				textAt(
					"words",
					to + 20,
					grid.y + 8,
					isMeasured ? `change of the loss for ${label}` : "difference of the logits"
				),
				strips,
				textAt("words", to + 20, grid.y + 36, ends[0]),
				textAt("words end", to + 200, grid.y + 36, ends[1])
			];
	const subtitle = isMeasured
		? "each taken out alone, at all positions; a column is a layer; frames: the heads listed below"
		: "straight to the logits; a column is a layer; frames: the heads listed below";
	return svg.g(
		textAt(
			"heading small",
			6,
			grid.y - 9,
			title,
			isNarrow ? null : svg.tspan({class: "words plain", dx: 9}, subtitle)
		),
		names,
		textAt("words end", from - 6, grid.mlp + grid.row / 2 + 3.5, "MLP"),
		cells,
		legend
	);
}

/** The beginning of a text that fits into a width in pixels. */
const cut = (text, width) =>
	text.length * LETTER <= width ? text : `${text.slice(0, Math.max(1, Math.floor(width / LETTER) - 1))}…`;
