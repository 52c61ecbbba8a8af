// The page of a small model, which it can run, and its first screen: the answer bar, the picture of the
// computation, and the cards under it.

import {answerView, likeliest} from "./answer_view.js";
import {lineCard, partsCard} from "./cards.js";
import {chancesAfter, chanceWith, changesOf, linesOf, partsOf, toggled} from "./changes.js";
import {fill, html} from "./dom.js";
import {nameOf, parsed} from "./elements.js";
import {pictureView} from "./picture.js";
import {pictureBox} from "./picture_parts.js";
import {narrowView} from "./picture_narrow.js";
import {sheetOf} from "./sheet.js";
import {tourCard} from "./tour.js";
import {start} from "./trace_page.js";
import {writeCard} from "./write_view.js";

const [NARROW, PRESENTED] = [700, 1232]; // pixels; a presented picture is drawn in this width and enlarged
const MANY = 9; // with more lanes, the printed picture is lower, because the table under it is longer

/** The first screen: `show` shows it for a state, keeps the effects of changes until the run changes, and
    returns the chosen position, layer and head. Null if the page lacks the numbers. */
function overviewOf(page, slot) {
	if (!page.tokenizer || !page.picture.tables.length) return null;
	let guesses = new Map(); // the answers of the tour, by step
	let known = {key: null, lines: new Map(), parts: new Map(), run: null};

	/** The effects for a run, which are computed when they are first needed. */
	function effectsOf(state, run) {
		const key = JSON.stringify([state.text, state.off, state.parameters]);
		if (known.key !== key)
			known = {
				key,
				lines: new Map(),
				parts: new Map(),
				run: run.traced ? page.ownRun(run.tokens, run.targets) : run
			};
		const once = (map, at, compute) => map.get(at) ?? map.set(at, compute()).get(at);
		return {
			lines: lane =>
				once(known.lines, lane, () => linesOf(page, state, known.run, lane === "all" ? undefined : [lane])),
			parts: lane =>
				once(known.parts, lane, () =>
					partsOf(page).map(({name, words}) => ({
						name,
						words,
						p: chanceWith(page, state, known.run, name, lane)
					}))
				)
		};
	}

	/** The lane and the line to show: those of the state, or else the line whose removal moves its letter
	    most. */
	function chosenIn(state, run, effects) {
		const isStart = state.position === null && !state.line && state.text === null && state.off.length === 0;
		const fits =
			state.line &&
			state.line.index.length === 3 &&
			state.line.index.every(at => at < run.length || at < 64) &&
			state.line.index[1] < run.length;
		const lane = fits ? state.line.index[1] : Math.min(state.position ?? run.length - 1, run.length - 1);
		const lines = effects.lines(isStart ? "all" : lane);
		// The tour explains how a letter is fetched, so it begins where earlier letters can be fetched.
		const first =
			(isStart && state.tour !== null && lines.find(({query, key}) => query > 1 && key < query)) || lines[0];
		const line =
			(fits && lines.find(({name}) => name === nameOf(state.line.name, state.line.index))) || first;
		return {line, position: isStart && line ? line.query : lane, rivals: isStart ? lines.length - 1 : null};
	}

	/** A run of a text, with the changes of a state. */
	function runOf(text, state) {
		const {tokens, targets} = page.read(text);
		return page.ownRun(tokens, targets, changesOf(page, state));
	}

	/** The tour at its step, or null if it is not open. */
	function tourOf(context, set, go) {
		const {state, run} = context;
		if (state.tour === null) return null;
		const key = JSON.stringify([
			run.tokens,
			state.off,
			state.parameters,
			state.tour,
			context.position,
			context.line?.name
		]);
		const pinned = {position: context.position, line: context.line && parsed(context.line.name, page)};
		const answer = guesses.get(key) ?? null;
		const explain = ([name, index]) =>
			go({
				of: "value",
				name,
				index: index === "chance" ? [context.position, run.targets[context.position]] : (index ?? [])
			});
		return tourCard(context, {
			step: state.tour,
			answer,
			explain,
			leave: () => set({tour: null}),
			move: step => {
				set({...pinned, tour: step});
				window.scrollTo(0, 0);
			},
			choose: option => {
				guesses = new Map(guesses).set(key, option);
				set({...pinned});
			}
		});
	}

	const isEnlarged = () => ["presenting", "printing"].some(name => document.body.classList.contains(name));
	window.addEventListener("beforeprint", () => {
		document.body.classList.add("printing");
		known.print?.();
	});
	window.addEventListener("afterprint", () => document.body.classList.remove("printing"));

	function show({state, run, original, set, go, widget, isDragged}) {
		const effects = effectsOf(isDragged ? {...state, ...known.state} : state, run);
		const {line, position, rivals} = chosenIn(state, run, effects);
		const at = each => ({of: "value", ...each});
		const pinned = {position, line: line ? parsed(line.name, page) : null};
		const select = lane => set({position: lane, line: null});
		const chooseLine = ({attention, head, query, key}) =>
			set({position: query, line: at({name: attention, index: [head, query, key]})});
		const toggle = name => set({...pinned, off: toggled(state.off, name)});
		const chances = lane => chancesAfter(page, run, lane);
		const before = original ? lane => chancesAfter(page, original, lane) : null;
		const answers = {chances: chances(position), before: before?.(position)};
		fill(slot("answer"), answerView({page, run, original, position, select, ...answers}));
		const picture = pictureBox(keydown, run.length > MANY ? {class: "figure many"} : {});
		picture.resized = width =>
			picture.replaceChildren(
				(width < NARROW ? narrowView : pictureView)({
					page,
					run,
					position,
					line,
					width: isEnlarged() ? PRESENTED : width || 1000,
					select,
					chooseLine,
					off: state.off,
					layer: line?.layer ?? 0,
					heads: headsOf(effects.lines(position), line),
					candidates: (lane, count) => likeliest(page, chances(lane), run.targets[lane], count),
					before,
					open: name => go(at({name, index: []})),
					openLayer: layer => chooseLine(effects.lines(position).find(each => each.layer === layer))
				})
			);
		const next = () => {
			const all = effects.lines(position);
			chooseLine(all[(all.findIndex(({name}) => name === line.name) + 1) % all.length]);
		};
		const explain = ({attention, head, query, key}) => go(at({name: attention, index: [head, query, key]}));
		function keydown(event) {
			const lanes = {ArrowUp: position - 1, ArrowDown: position + 1};
			const heads =
				line && state.tour === null
					? {
							ArrowLeft: line.head - 1,
							ArrowRight: line.head + 1,
							...Object.fromEntries(Array.from({length: 10}, (_, n) => [String(n), n]))
						}
					: {};
			if (event.key in lanes) {
				if (lanes[event.key] >= 0 && lanes[event.key] < run.length) select(lanes[event.key]);
			} else if (event.key in heads) {
				const other = effects
					.lines(position)
					.filter(({layer, head}) => layer === line.layer && head === heads[event.key])
					.toSorted((a, b) => b.share - a.share)[0];
				if (other) chooseLine(other);
			} else if (event.key === "Enter" && line) explain(line);
			else if (event.key === "o" && line) toggle(line.name);
			else return false;
			return true;
		}
		fill(slot("picture"), html.div({class: "plane"}, widget(picture)));
		const tour = tourOf({page, state, run: known.run, position, line, isTrained: page.trained}, set, go);
		Object.assign(picture.dataset, {tour: tour?.part ?? "", masked: tour?.isMasked ? "yes" : ""});
		picture.setAttribute("aria-label", spoken(run, position, tour?.isMasked ? null : line));
		slot("numbers").hidden = Boolean(tour?.isMasked);
		slot("answer").classList.toggle("masked", Boolean(tour?.isMasked && tour.part === "answer"));
		fill(slot("tour"), tour?.card);
		slot("cards").hidden = tour !== null && tour.part !== "write";
		const [parts, now] = [effects.parts(position), chances(position)[run.targets[position]]];
		fill(
			slot("cards"),
			line && lineCard({page, run, line, chances, rivals, explain, toggle, next, state}),
			partsCard({page, run, position, parts, now, state, toggle}),
			writeCard({page, state, set, text: page.write(run.tokens.slice(1)), runOf: text => runOf(text, state)})
		);
		fill(slot("sheet"));
		known.print = () => {
			Object.assign(picture.dataset, {tour: "", masked: ""}); // paper shows everything, also during the tour
			slot("answer").classList.remove("masked");
			slot("cards").hidden = false;
			picture.resized(PRESENTED);
			fill(slot("sheet"), sheetOf({page, state, run: known.run, position, line}));
		};
		return line ? {position, layer: line.attention, head: line.head} : {position};
	}
	return {
		show,
		hasTour: true,
		keys: [["↑ ↓ ← →, 0 to 9, o", "in the picture (Tab goes there): lane, head, take the line out"]]
	};
}

/** The heads of the layer of a line: the head of the line, then those whose lines move the letter most. */
const headsOf = (lines, line) => [
	...new Set([line, ...lines.filter(({layer}) => layer === line.layer)].map(({head}) => head))
];

/** The chosen lane and line in words, for a screen reader. */
function spoken(run, position, line) {
	const lane = `Lane ${position + 1} of ${run.length}, ${run.labels[position]} at place ${position}.`;
	return line
		? `${lane} Head ${line.head} looks at ${run.labels[line.key]}, ${Math.round(100 * line.share)} %. ` +
				"Arrow keys choose a lane or a head, Enter explains the line, o takes it out."
		: lane;
}

start(overviewOf);
