// The first screen of a production model's page: the answer bar, the logit lens as a river with the heads
// that moved the answer, the effect of every head and MLP, and cards for the chosen part.

import {answerBar, ordinal} from "./answer_view.js";
import {parsed} from "./elements.js";
import {button, fill, html, shareBar} from "./dom.js";
import {headCard} from "./head_card.js";
import {inLetters, namedToken} from "./letters.js";
import {chance, counted, moves, percent, short} from "./numbers.js";
import {pictureBox} from "./picture_parts.js";
import {riverView} from "./river_view.js";
import {start} from "./trace_page.js";

const TOP = 5; // bars of the answer bar, and parts of the ranking
// pixels; a presented or printed picture is drawn in the width PRESENTED and enlarged
const [LEAST, PRESENTED] = [280, 1232];

/** The first screen, or null if the page has no logit lens. */
function modelOverviewOf(page, slot) {
	if (!page.lens?.rows.length) return null;
	const parts = partsOf(page);
	let print = () => {};
	window.addEventListener("beforeprint", () => print());
	const ranked = parts.filter(({head}) => head !== null).toSorted((a, b) => sizeOf(b) - sizeOf(a));

	function show({state, run, set, go, widget}) {
		const last = page.lens.positions.at(-1);
		const position = Math.min(state.position ?? page.effects?.position ?? last, run.length - 1);
		const part = parts.find(({name}) => name === state.line?.name) ?? ranked[0] ?? null;
		const select = at => set({position: at});
		const choose = ({name}) => set({position, line: parsed(name, page)});
		fill(slot("answer"), answerOf({page, run, position, select}));
		const context = {
			page,
			run,
			position,
			part,
			parts,
			ranked,
			top: ranked.slice(0, TOP),
			lines: linesOf(page, ranked, part),
			select,
			choose,
			go,
			next: () => choose(ranked[(ranked.indexOf(part) + 1) % ranked.length])
		};
		const picture = pictureBox(event => moved(event, context), {"aria-label": spoken(context)});
		picture.resized = width =>
			picture.replaceChildren(
				riverView({
					...context,
					width: document.body.classList.contains("presenting") ? PRESENTED : Math.max(LEAST, width)
				})
			);
		print = () => picture.resized(PRESENTED);
		fill(slot("picture"), html.div({class: "plane"}, widget(picture)));
		fill(
			slot("cards"),
			part && [
				partCard(context),
				rankedCard(context),
				headCard({page, run, weights: part.weights, head: part.head, position})
			]
		);
		return part?.weights ? {position, layer: part.weights, head: part.head} : {position};
	}
	return {
		show,
		hasTour: false,
		keys: [["← →, ↑ ↓, Enter", "in the picture (Tab goes there): layer, head or MLP, explain"]]
	};
}

/** The heads and MLPs, with their effects on the answer. `without` is the probability of the answer without
    the part, or null. `here` is this probability if the part is removed only at the position of the answer,
    for a few heads. `effect` is the growth of the loss without the part, or what the part adds to the
    answer. */
function partsOf(page) {
	if (!page.effects) return [];
	const {p, parts, isMeasured, here} = page.effects;
	const describe = (name, words, rest) => {
		const [without, adds, key, share] = parts[name];
		return {
			name,
			words,
			without,
			adds,
			key,
			share,
			here: here[name],
			p,
			effect: isMeasured ? Math.log(p / without) : adds,
			...rest
		};
	};
	return page.picture.layers.flatMap(column =>
		column.parts.flatMap(({attention, heads = [], writes}) => [
			...heads.map((name, head) =>
				describe(name, `head ${column.layer}.${head}`, {layer: column.layer, head, weights: attention})
			),
			...(writes
				? [
						describe(writes, `MLP of layer ${column.layer}`, {
							layer: column.layer,
							head: null,
							hasBias: page.row(writes).reads.length > 1
						})
					]
				: [])
		])
	);
}

/** The heads that have lines: those with the largest effects and the chosen head, if they look at another
    token most. */
const linesOf = (page, ranked, part) =>
	[...new Set([...ranked.slice(0, TOP), part])].filter(
		each => each && each.head !== null && each.key !== undefined && each.key !== page.effects.position
	);

const sizeOf = ({effect}) => Math.abs(effect) || 0;

function answerOf({page, run, position, select}) {
	const {effects} = page;
	const isExplained = effects?.position === position;
	const listed = page.predictions.find(each => each.position === position);
	const [token, p, rank] =
		isExplained && listed?.target?.[0] !== effects.token
			? [effects.token, effects.p, null]
			: (listed?.target ?? listed?.top[0] ?? []);
	const choices = (listed?.top ?? [])
		.slice(0, TOP)
		.map(([each, share]) => ({label: page.vocabulary[each], p: share, isReal: each === token}));
	const label = isExplained ? effects.label : page.vocabulary[token];
	const follows = run.targets[position] !== null;
	const place = rank ?? (listed?.top.findIndex(([each]) => each === token) + 1 || null);
	const words =
		token === undefined
			? ["The trace has no prediction for this position. Add it with --positions."]
			: [
					"chance of ",
					inLetters(label),
					follows && token === run.targets[position] ? ", which really follows" : "",
					place
						? [
								html.br(),
								`${ordinal(place)} of ${page.shapeOf(page.probabilities, 1)[1].toLocaleString("en")}`
							]
						: ""
				];
	return answerBar({
		run,
		position,
		select,
		question: "what comes next?",
		choices,
		value: token === undefined ? "–" : chance(p),
		words
	});
}

/** Choose another part by a key. Return true if the key means something here. */
function moved(event, {parts, part, choose, go, page}) {
	const layers = {ArrowLeft: -1, ArrowRight: 1};
	const rows = {ArrowUp: -1, ArrowDown: 1};
	if (!part) return false;
	const same = parts.filter(({layer}) => layer === part.layer);
	const place = same.indexOf(part);
	let other = null;
	if (event.key in rows) other = same[place + rows[event.key]];
	else if (event.key in layers)
		other = parts.filter(({layer}) => layer === part.layer + layers[event.key])[place];
	else if (event.key === "Enter")
		go({
			of: "value",
			name: part.weights ?? part.name,
			index: part.weights ? [part.head, page.effects.position, part.key] : []
		});
	else return false;
	if (other) choose(other);
	return true;
}

function spoken({page, run, position, part}) {
	const lane =
		`Logit lens of ${counted(page.lens.positions.length, "position")}. Position ${position}, ` +
		`${run.labels[position]}, is chosen.`;
	if (!part) return lane;
	const without = part.without === null ? "" : `, ${page.effects.label} without it ${chance(part.without)}`;
	return `${lane} ${part.words}${without}. Arrow keys choose a layer, a head or an MLP, Enter explains it.`;
}

/** The card of a part. */
function partCard({page, run, part, ranked, next, go}) {
	const {effects} = page;
	const {head, layer, key, share} = part;
	const isHead = head !== null;
	const looks = isHead && key !== undefined;
	const lookedAt = key === effects.position ? "itself" : looks && inLetters(namedToken(run, key));
	const reads = looks
		? [
				"Reading ",
				inLetters(run.labels[effects.position]),
				", this head takes ",
				html.b(`${short(100 * share)} %`),
				" from ",
				lookedAt,
				". "
			]
		: [];
	const place = ranked.length > 1 && ranked.indexOf(part) + 1;
	const most = effects.isMeasured ? "changes the loss most if it is removed" : "adds or takes away most";
	const order = effects.isMeasured ? "the change of the loss without it" : "what it adds or takes away";
	const chosen =
		place === 1
			? `Chosen by the page: of ${ranked.length} heads, this one ${most}.`
			: place
				? `${ordinal(place)} of ${ranked.length} heads by ${order}.`
				: "";
	const why = {of: "value", name: part.weights, index: [head, effects.position, key]};
	return html.section(
		{class: "card", "aria-label": "The chosen part"},
		html.h2(
			part.words.replace(/^h/, "H"),
			looks && [" looks most at ", lookedAt.cloneNode?.(true) ?? lookedAt],
			html.small(` ${part.name}`)
		),
		html.p(reads, effectOf(effects, part)),
		html.p(rankOf(page, part)),
		chosen && html.p({class: "dim"}, chosen),
		html.p(
			{class: "buttons"},
			button(
				`See layer ${layer}`,
				() => go({of: "value", name: part.weights ?? part.name, index: isHead ? [head] : []}),
				{key: "layer", class: "primary"}
			),
			looks && button(`Why ${percent(share)} %?`, () => go(why), {key: "why"}),
			button("Next head", next, {key: "next part"})
		)
	);
}

function effectOf({p, label, other, isMeasured}, {without, adds, head, hasBias, here}) {
	const size = html.b(short(Math.abs(adds)));
	const difference = [" the logit of ", inLetters(label), " minus that of ", inLetters(other), "."];
	if (!isMeasured)
		return adds < 0 ? ["It takes ", size, " away from", difference] : ["It adds ", size, " to", difference];
	const part = head === null ? `this MLP${hasBias ? " (its bias stays)" : ""}` : "it";
	return [
		`Without ${part} at all positions, the chance of `,
		inLetters(label),
		` ${moves(p, without)}.`,
		here === undefined ? "" : ` Without it at this position alone, the chance ${moves(p, here)}.`
	];
}

/** The rank of the answer in the logit lens, before and after the part's half of its layer. */
function rankOf(page, {layer, head}) {
	const rows = page.lens.target.filter(([, position]) => position === page.effects.position);
	const own = rows.filter(([event]) => page.row(event).layer === layer);
	const at = rows.indexOf(head === null ? own.at(-1) : own[0]);
	const [before, after] = [rows[at - 1]?.[3], rows[at]?.[3]];
	if (!after || !before) return "";
	const half =
		own.length === 1
			? `layer ${layer}`
			: head === null
				? `the MLP of layer ${layer}`
				: `attention of layer ${layer}, with all its heads,`;
	const ranks =
		before === after
			? [" leaves the rank of ", ` at ${ordinal(after)}.`]
			: [" takes the rank of ", ` from ${ordinal(before)} to ${ordinal(after)}.`];
	return ["In the logit lens, ", half, ranks[0], inLetters(page.effects.label), ranks[1]];
}

/** The card of the heads that do most. The bar of a head shows the chance without it, and a rule the chance
    now. */
function rankedCard({page, run, top, part, ranked, choose}) {
	const {p, label, other, isMeasured, atFirst} = page.effects;
	const most = isMeasured
		? 1.15 * Math.max(p, ...top.map(({without}) => without))
		: Math.max(...top.map(({adds}) => Math.abs(adds)));
	const rows = top.map(each => {
		const bar = shareBar((isMeasured ? each.without : Math.abs(each.adds)) / most, {
			rule: isMeasured ? p / most : undefined
		});
		const looks =
			each.key === undefined
				? ""
				: [
						each.key === page.effects.position ? "itself" : inLetters(namedToken(run, each.key)),
						` ${percent(each.share)} %`
					];
		if (each.adds < 0 && !isMeasured) bar.firstChild.classList.add("less");
		return html.li(
			button(each.words, () => choose(each), {
				key: `part ${each.name}`,
				pressed: each === part,
				class: "link"
			}),
			html.span(looks),
			bar,
			html.span({class: "n"}, isMeasured ? chance(each.without) : short(each.adds))
		);
	});
	const answer = [inLetters(label), " after ", inLetters(run.labels[page.effects.position])];
	const title = isMeasured
		? [
				"What a head looks at most → chance of ",
				answer,
				` without the head at all positions, now ${chance(p)}`
			]
		: ["What a head looks at most → what it adds to ", inLetters(label), " over ", inLetters(other)];
	const caution = isMeasured
		? ""
		: "This text is too long to remove each part within about ten seconds. The list shows what heads " +
			"write straight to the logits, and leaves out what they do through later layers. `microgpt " +
			"attribute` removes each part.";
	const first =
		atFirst === null
			? ""
			: `In ${atFirst} of ${counted(ranked.length, "head")}, position 0 gets more than half of the attention on ` +
				"average.";
	return html.section(
		{class: "card", "aria-label": "Where to look first"},
		html.h2("Where to look first"),
		caution ? html.p(caution) : null,
		html.p({class: "dim"}, title),
		html.ul({class: "ranked"}, rows),
		html.p({class: "dim"}, first)
	);
}

start(modelOverviewOf);
