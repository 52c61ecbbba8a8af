// The page of a trace. It unpacks its data, and shows its first screen and the element that its address
// names.

import {read, written} from "./address.js";
import {arrayView} from "./array_view.js";
import {attentionView} from "./attention_view.js";
import {changesOf} from "./changes.js";
import {listen, switchTheme} from "./controls.js";
import {button, copyable, fill, html, keyed} from "./dom.js";
import {addressOf, nameOf, placeInWords} from "./elements.js";
import {explainView} from "./explain_view.js";
import {flowView} from "./flow_view.js";
import {lensView} from "./lens_view.js";
import {headButtons, liveView, parameterSlider, unitButton} from "./live_view.js";
import {predictionView} from "./prediction_view.js";
import {exact, short} from "./numbers.js";
import {onOneLine, quoted} from "./printable.js";
import {Page} from "./runs.js";
import {unpacked} from "./unpacking.js";
import {WORDS} from "./words.js";

const FEW = 16; // up to this many tokens, attention and predictions stand side by side

/** Start the page. `overviewOf(page, slot)` makes its first screen, or null if the page lacks the numbers. */
export function start(overviewOf) {
	switchTheme();
	const {document: content, arrays} = unpacked(globalThis.microgptContent);
	const page = new Page(content, arrays);
	const {traced} = page;
	const addressed = () => read(location.hash || `#${page.start ?? ""}`, page);
	let state = addressed();
	let options = {skipFirst: false, head: 0, layer: null, expanded: false, isExact: false};
	let trail = history.state?.trail ?? [];
	let edited = ""; // "text" or "slider" if typing or dragging made the last entry of the history
	let filter = "";
	let widgets = [];

	const title = document.querySelector("h1");
	const [tracedTitle, tracedHead] = [title.textContent, document.title];
	const command = document.querySelector("p.command");
	const tracedCommand = command.textContent;

	const slot = name => document.getElementById(name);
	const overview = overviewOf(page, slot);
	const reading = slot("reading");

	function remember(edits = "") {
		const hash = `#${written(state)}`;
		try {
			if (hash === location.hash) return;
			if (edits && edits === edited) history.replaceState({trail}, "", hash);
			else history.pushState({trail}, "", hash);
			edited = edits;
		} catch {
			// a page in a sandboxed frame has no history
		}
	}
	function move(at) {
		reading.textContent = "";
		state = {...state, at};
		remember();
		show();
		reveal();
		if (document.activeElement.dataset.key === "picture") slot("explained")?.focus({preventScroll: true});
	}
	function go(at) {
		if (state.at && addressOf(state.at) !== addressOf(at)) trail = [...trail, state.at];
		move(at);
	}
	function back() {
		const at = trail.at(-1);
		trail = trail.slice(0, -1);
		if (at) move(at);
	}
	/** Scroll to a view of the chosen array if no such view is visible. */
	function reveal() {
		const views = Array.from(document.querySelectorAll("#views [data-array]")).filter(
			view => view.dataset.array === state.at?.name
		);
		const isSeen = ({top, bottom}) => top < window.innerHeight / 2 && bottom > 60;
		if (!views.some(view => isSeen(view.getBoundingClientRect())))
			views.at(-1)?.scrollIntoView({block: "start"});
	}
	function set(change, edits = "") {
		state = {...state, ...change};
		remember(edits);
		show(edits === "slider");
	}

	/** The run to show, the same run without changes, and the problem with the text if the model cannot read
	    it. */
	function runs() {
		if (!page.tokenizer) return {run: traced};
		const isOther = state.text !== null && state.text !== page.text;
		const isChanged = state.off.length > 0 || Object.keys(state.parameters).length > 0;
		if (!isOther && !isChanged && traced.of(page.probabilities, "value")) return {run: traced};
		try {
			const {tokens, targets} = page.read(state.text ?? page.text);
			const original = isChanged ? page.ownRun(tokens, targets) : null;
			const run = page.ownRun(tokens, targets, changesOf(page, state));
			run.changed = new Set(state.off.map(part => part.replace(/\[.*/, "")));
			run.altered = new Set(Object.keys(state.parameters));
			return {run, original};
		} catch (error) {
			if (!(error instanceof RangeError)) throw error;
			return {run: traced, problem: `${error.message}. The page shows the traced text.`};
		}
	}

	function within(at, run) {
		if (!at) return null;
		const shape = run.shape(at.name);
		return at.index.every((place, axis) => place < shape[axis]) ? at : {...at, index: []};
	}

	/** Show the state. While a slider is dragged, keep its element, because replacing it would end the drag. */
	function show(isDragged = false) {
		const focused = document.activeElement;
		const key = focused.dataset.key;
		const selection = key === "text" ? [focused.selectionStart, focused.selectionEnd] : null;
		const {run, original, problem} = runs();
		const at = within(state.at, run);
		if (state.at?.index.length && !at.index.length)
			reading.textContent = `The run of this text has no ${addressOf(state.at)}.`;
		widgets = [];
		const widget = element => {
			widgets.push(element);
			return element;
		};
		const {position, ...chosen} = overview
			? overview.show({state, run, original, set, go, widget, isDragged})
			: {position: Math.min(state.position ?? run.length - 1, run.length - 1)};
		const onlook = (element, value) => {
			const place = placeInWords(page, run, element.name, element.index);
			reading.textContent = `${addressOf(element)} = ${value} · ${place}`;
		};
		const context = {
			page,
			run,
			original,
			at,
			go,
			set: (change, again = true) => {
				options = {...options, ...change};
				if (again) show();
			},
			options: {...options, ...chosen},
			widget,
			onlook,
			position,
			headButtons: name => (page.tokenizer ? headButtons({page, state, set, name}) : null),
			unitButton: array => (page.tokenizer ? unitButton({page, state, set, at: array}) : null)
		};
		if (!overview) fill(slot("tokens"), tokensView(run, position));
		fill(slot("live"), page.tokenizer ? liveView({page, state, set, problem, run}) : intervened());
		fill(
			slot("flow"),
			flowView({
				...context,
				filter,
				setFilter: text => {
					filter = text;
				}
			})
		);
		const both = html.div(
			{class: run.length > FEW ? "one-by-one" : "side-by-side"},
			attentionView(context),
			predictionView(context)
		);
		fill(slot("views"), both, at && arrayView(context), lensView(context));
		const isElement = at && at.index.length === page.row(at.name).axes.length;
		const slider = page.tokenizer ? parameterSlider({page, state, set, run, position, isDragged}) : null;
		const explained = isElement
			? explainView({
					page,
					run,
					at,
					trail,
					go,
					slider,
					digits: {write: options.isExact ? exact : short, isExact: options.isExact, toggle: toggleExact}
				})
			: hint();
		if (isDragged) replaceAround(slot("slider").parentElement, explained);
		else fill(slot("explain"), explained);
		document.body.classList.toggle("other-run", !run.traced);
		title.textContent = run.traced ? tracedTitle : onOneLine(state.text ?? tracedTitle) || "only BOS";
		document.title = tracedHead.replace(tracedTitle, () => title.textContent);
		const why = page.whyNoCommand(null, run);
		command.replaceChildren(
			run.traced ? copyable(tracedCommand) : (why ?? copyable(page.commandOf(null, run)))
		);
		layOut();
		if (focused.isConnected) return;
		const again =
			keyed(key) ??
			slot("tour-title") ??
			(focused.closest(".tour") && keyed("tour")) ??
			slot("explained") ??
			document.querySelector(".array .matrix, #text");
		again?.focus({preventScroll: true});
		if (selection) again?.setSelectionRange(...selection);
	}

	function toggleExact() {
		options = {...options, isExact: !options.isExact};
		show();
	}

	/** What single keys do now. In the tour, they press its buttons. */
	function keysOf() {
		const press = key => () => document.querySelector(`.tour [data-key="${key}"]`)?.click();
		const tour =
			state.tour === null
				? {}
				: {
						ArrowLeft: press("back"),
						ArrowRight: () => press(document.querySelector('.tour [data-key="show"]') ? "show" : "next")(),
						w: press("explain"),
						1: press("option 0"),
						2: press("option 1"),
						3: press("option 2"),
						Escape: press("leave")
					};
		const leave = document.body.classList.contains("presenting") ? {Escape: present} : {};
		return {
			x: toggleExact,
			...(overview ? {p: present, ...leave} : {}),
			...(overview?.hasTour ? {t: () => set({tour: state.tour === null ? 1 : null}), ...tour} : {})
		};
	}

	/** Show only the answer bar, the picture and one card, in large type, or return to the page. */
	function present() {
		document.body.classList.toggle("presenting");
		layOut();
		slot("picture-box").focus();
		window.scrollTo(0, 0);
	}

	function layOut() {
		document.documentElement.style.setProperty(
			"--bar",
			overview ? `${slot("answer").offsetHeight}px` : "0px"
		);
		for (const element of widgets) element.resized(element.closest(".plane, .figure")?.clientWidth ?? 0);
	}

	function tokensView(run, position) {
		return run.tokens.map((token, n) =>
			button([html.span(run.labels[n]), html.small(String(n))], () => set({position: n}), {
				key: `token ${n}`,
				pressed: n === position,
				class: "token",
				title: `position ${n}, token ${token}`,
				onpointerenter: () => mark(n),
				onpointerleave: () => mark(null),
				onfocus: () => mark(n),
				onblur: () => mark(null)
			})
		);
	}

	function mark(position) {
		for (const element of widgets) element.mark?.(position);
	}

	const intervened = () =>
		page.replaced.length > 0 &&
		html.p(
			{class: "origin"},
			`This run was traced with interventions.${page.seen ? " Its page cannot run other texts." : ""}`
		);

	const hint = () =>
		html.section(
			{class: "explain hint", "aria-label": "Explanation"},
			html.p({class: "dim"}, "Choose a number in a matrix to see its arithmetic.")
		);

	/** Why no command explains the element `at`, or, if `at` is null, why no command shows the run. Null if one
	    does. */
	page.whyNoCommand = (at, run) => {
		if (!run.traced && Object.keys(state.parameters).length)
			return `No command shows this ${at ? "number" : "run"}, because a parameter was changed in the page.`;
		if (!at) return null;
		if (page.replaced.length)
			return (
				"This run has interventions. To print the number, replace --html by --show " +
				`'${nameOf(at.name, at.index)}'.`
			);
		if (at.of === "gradient" && !page.command.gradient)
			return (
				"No command explains this gradient, because the loss is only that of some positions. To print " +
				`it, replace --html by --show '${nameOf(at.name, at.index)}'.`
			);
		return at.of === "update"
			? "No command explains an update. trace --step --json --values prints it in full."
			: null;
	};

	/** The command that shows an element of the run: `explain`, or a trace with the same ablations. If `at` is
	    null, the command that traces the run. */
	page.commandOf = (at, run) => {
		const {before, text, after} = page.command;
		const element = at && nameOf(at.name, at.index);
		const off = run.traced ? [] : state.off;
		const isTrace = !at || off.length > 0;
		const texts = text === null ? [] : [run.traced ? text : (state.text ?? text)];
		const words = [...before, ...(isTrace ? [] : [element]), ...texts];
		const ablations = off.flatMap(part => ["--ablate", quoted(part)]);
		const more = isTrace
			? [...ablations, ...(at ? ["--show", quoted(element)] : [])]
			: at.of === "gradient"
				? page.command.gradient
				: [];
		const dashed = words.some(word => word.startsWith("-"));
		const rest = dashed
			? [...after, ...more, "--", ...words.map(quoted)]
			: [...words.map(quoted), ...after, ...more];
		return ["microgpt", isTrace ? "trace" : "explain", ...rest].join(" ");
	};

	listen(
		back,
		keysOf,
		[
			["arrow keys, Home, End", "move in a matrix"],
			["Enter", "explain the number"],
			...(overview?.keys ?? []),
			["/", "search for an array or an element"],
			["x", "show all digits of numbers, or four"],
			...(overview?.hasTour
				? [
						["t", "start or leave the tour"],
						["← →, 1 2 3, Esc", "in the tour: steps, answers, leave"]
					]
				: []),
			...(overview ? [["p", "present the picture in large type, or return"]] : [])
		],
		{Words: WORDS}
	);
	window.addEventListener("popstate", event => {
		state = addressed();
		trail = event.state?.trail ?? [];
		edited = "";
		show();
		reveal();
	});
	window.addEventListener("resize", layOut);
	window.addEventListener("scheme", () => show());
	document.body.classList.add("alive");
	if (overview) {
		document.body.classList.add("lesson", ...(overview.hasTour ? [] : ["recorded"]));
		title.classList.add("visually-hidden");
		const origin = document.querySelector("header > .dim");
		if (!overview.hasTour) origin.append(" · recorded, does not run here");
		const tour = overview.hasTour
			? button("▶ Tour", () => set({tour: 1}), {key: "tour", class: "primary"})
			: origin;
		title.after(slot("live"), tour, button("Present", present, {key: "present"}));
		slot("numbers").before(
			html.section(
				{id: "all", "aria-label": "All numbers"},
				html.h2("All numbers"),
				command,
				overview.hasTour ? origin : null
			)
		);
	}
	history.scrollRestoration = "manual"; // the browser would scroll before the views exist
	show();
	reveal();
	if (state.unknown)
		reading.textContent = onOneLine(`This page has no ${state.unknown}, which its address names.`);
	document.body.dataset.ready = "yes";
}

/** Replace the siblings of `kept` by the siblings of its copy in `fresh`. */
function replaceAround(kept, fresh) {
	const children = Array.from(fresh.children);
	const at = children.findIndex(child => child.className === kept.className);
	for (const child of Array.from(kept.parentElement.children)) if (child !== kept) child.remove();
	kept.before(...children.slice(0, at));
	kept.after(...children.slice(at + 1));
}
