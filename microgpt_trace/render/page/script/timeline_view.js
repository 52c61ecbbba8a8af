// The page of a timeline: a slider over the traced steps of a training run, and the values of the chosen
// step.

import {isTaken} from "./controls.js";
import {bar, button, fill, html, keepingFocus, svg, tableOf} from "./dom.js";
import {matrix} from "./matrix.js";
import {exact, percent, chance, short} from "./numbers.js";
import {chanceRow} from "./prediction_view.js";
import {onOneLine} from "./printable.js";
import {start} from "./result_page.js";
import {numberOf, meansOf, placeOf} from "./steps.js";

const DOTS = 400;
const PAUSE = 350; // milliseconds per step while the steps are played

function timelineView({content, arrays, go, place}) {
	const {steps} = content;
	const shown = html.div();
	const label = html.output({class: "at-step", "aria-live": "off"});
	const curve = lossCurve(content, arrays.get("loss"));
	let pictures = [];
	let playing = null;

	const at = () => placeOf(steps, place().settings.step);
	const set = change => go({...place(), settings: {...place().settings, ...change}}, true);
	const move = n => set({step: steps[Math.max(0, Math.min(steps.length - 1, n))]});
	const slider = html.input({
		type: "range",
		min: 0,
		max: steps.length - 1,
		step: 1,
		"aria-label": "traced step",
		oninput: () => move(Number(slider.value))
	});
	const control = (sign, words, act) => button(sign, act, {"aria-label": words, title: words});
	const play = control("▶ play", "play the steps", () => (playing ? stop() : run()));
	const still = window.matchMedia("(prefers-reduced-motion: reduce)");
	document.getElementById("views").append(
		html.section(
			{"aria-label": "One step"},
			html.h2("One step", html.small(` the model's values for "${content.watched}" after this step`)),
			html.p(
				{class: "stepper"},
				control("‹", "previous step", () => move(at() - 1)),
				slider,
				control("›", "next step", () => move(at() + 1)),
				play,
				label
			),
			steps.length < content.traced
				? html.p(
						{class: "dim"},
						`This page has ${steps.length} of the ${content.traced.toLocaleString("en")} traced steps ` +
							"in the log. timeline --json prints all of them."
					)
				: null,
			curve.element,
			shown
		)
	);

	function run() {
		if (at() === steps.length - 1) move(0);
		playing = setInterval(() => (at() < steps.length - 1 ? move(at() + 1) : stop()), PAUSE);
		play.textContent = "⏸ stop";
	}
	function stop() {
		clearInterval(playing);
		playing = null;
		play.textContent = "▶ play";
	}

	function show({settings}) {
		const n = at();
		slider.value = String(n);
		slider.setAttribute("aria-valuetext", `step ${steps[n]}`);
		play.hidden = still.matches || steps.length < 2;
		label.textContent =
			`step ${steps[n].toLocaleString("en")} of ` +
			`${content.planned.toLocaleString("en")}${curve.mark(steps[n])}`;
		const position = placeOf([...content.positions.keys()], settings.position);
		pictures = [];
		const views = [
			predictions(content, n, position, other => set({position: other})),
			attention(content, n, pictures)
		];
		keepingFocus(() => fill(shown, html.div({class: "side-by-side"}, views), dead(content, n)));
		resized();
	}
	function resized() {
		for (const picture of pictures) picture.resized(picture.parentElement.clientWidth);
	}
	document.addEventListener("keydown", event => {
		const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
		if (!step || isTaken(event) || event.target.closest?.("input, [role=application], .wide, dialog")) return;
		move(at() + step);
		event.preventDefault();
	});
	return {show, resized, keys: [["← →", "previous or next step; in a matrix, move the cursor"]]};
}

/** The probability of the target after each position, and the most likely tokens after the chosen
    position. */
function predictions(content, n, chosen, choose) {
	if (!content.positions.length) return null;
	const rows = content.positions.map((position, at) =>
		chanceRow(
			at === chosen,
			button(`${position.seen} → ${position.target}`, () => choose(at), {
				key: `position ${at}`,
				pressed: at === chosen,
				class: "link"
			}),
			position.p[n] === null ? "–" : chance(numberOf(position.p[n])),
			bar(numberOf(position.p[n]) ?? 0),
			html.td({class: "n"}, position.rank[n] === null ? "" : `rank ${position.rank[n]}`)
		)
	);
	const {top, seen, target} = content.positions[chosen];
	const likeliest = top[n]?.map(([label, p]) =>
		chanceRow(label === target, label, chance(numberOf(p)), bar(numberOf(p)))
	);
	return html.div(
		{class: "prediction"},
		html.h3("P(target)"),
		tableOf({kind: "bars", rows}),
		likeliest ? [html.h4(`most likely tokens after ${seen}`), tableOf({kind: "bars", rows: likeliest})] : null
	);
}

/** The attention weights of every head. */
function attention(content, n, pictures) {
	const layers = content.attention.filter(({weights}) => weights[n] !== null);
	if (!layers.length) return null;
	const labels = ["BOS", ...content.watched].map(onOneLine);
	const planes = layers.flatMap(({name, weights}) =>
		weights[n].map((rows, head) => {
			const valueAt = (row, column) => numberOf(rows[row][column]);
			const where = (row, column) =>
				`${onOneLine(name)}[${head},${row},${column}], query ${labels[row]}, key ${labels[column]}: ` +
				`${exact(valueAt(row, column))}`;
			const picture = matrix({
				rows: rows.length,
				columns: rows.length,
				key: `${name} ${head}`,
				title: `${name}[${head}]`,
				valueAt,
				isMasked: (row, column) => column > row,
				kind: "share",
				end: 1,
				rowLabels: labels.slice(0, rows.length),
				columnLabels: labels.slice(0, rows.length),
				square: true,
				largest: 30,
				brief: percent,
				legend: pictures.length === 0,
				describe: (row, column) => (column > row ? "masked" : where(row, column)),
				onlook: (row, column) => line.replaceChildren(column > row ? "masked" : where(row, column))
			});
			pictures.push(picture);
			return html.div(
				{class: "plane"},
				html.h4(layers.length > 1 ? `${name}, head ${head}` : `head ${head}`),
				picture
			);
		})
	);
	const line = html.p({class: "looked n"}, "\u00a0");
	return html.div(
		{class: "attention"},
		html.h3("Attention", html.small(" in percent; rows are queries, columns are keys")),
		html.div({class: "planes"}, planes),
		line
	);
}

function dead(content, n) {
	const measured = content.dead.filter(({count}) => count[n] !== null);
	if (!measured.some(({count}) => count.some(Boolean))) return null;
	return html.p(
		"dead ReLU units: ",
		measured.map(({layer, units, count}) => `${count[n]} of ${units} in layer ${layer}`).join(", ")
	);
}

/** The loss over training as dots, with a line at the step that is shown. */
function lossCurve(content, losses) {
	const {logged} = content;
	const means = meansOf(logged, losses ?? [], DOTS);
	if (means.length < 2) return {element: null, mark: () => ""};
	const [first, last] = [
		Math.min(content.steps[0], logged[0]),
		Math.max(content.steps.at(-1), logged.at(-1))
	];
	const values = means.map(([, mean]) => mean);
	const [low, high] = [Math.min(...values), Math.max(...values)];
	const x = step => 60 + (560 * (step - first)) / (last - first || 1);
	const line = svg.line({class: "marker", y1: 5, y2: 115});
	const text = (label, px, py, anchor) => svg.text({x: px, y: py, "text-anchor": anchor}, label);
	const picture = svg.svg(
		{
			class: "dots",
			viewBox: "0 0 640 135",
			role: "img",
			"aria-label": `training loss, ${short(low, 3)} to ${short(high, 3)}`
		},
		means.map(([step, mean]) =>
			svg.circle({
				cx: x(step).toFixed(1),
				cy: (110 - (100 * (mean - low)) / (high - low || 1)).toFixed(1),
				r: 1.7
			})
		),
		line,
		text(short(high, 3), 54, 14, "end"),
		text(short(low, 3), 54, 114, "end"),
		text(first.toLocaleString("en"), 60, 130, "start"),
		text(last.toLocaleString("en"), 620, 130, "end")
	);
	const mark = step => {
		line.setAttribute("x1", x(step));
		line.setAttribute("x2", x(step));
		const at = logged.indexOf(step);
		return at < 0 ? "" : ` · batch loss ${short(losses[at])}`;
	};
	return {element: html.figure(picture), mark};
}

start(timelineView);
