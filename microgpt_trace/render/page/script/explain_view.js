// The arithmetic of one number: its formula, terms and sum, the numbers that use it, and a command that shows
// more.

import {button, copyable, html, number, sumBars} from "./dom.js";
import {addressOf, layerOf, nameOf, placeInWords} from "./elements.js";
import {flatOf, placeOf, workedOut} from "./formulas.js";
import {aligned, exact, short} from "./numbers.js";
import {withTerms} from "./words.js";
import {readersOf, strongestUse} from "./uses.js";
import {whyOf} from "./why.js";

const MOST_TERMS = 16; // the terms of a sum that are shown: all up to this many, otherwise the LARGEST_TERMS
const LARGEST_TERMS = 8;
const LARGEST = 3.4028234663852886e38; // float32

/** The explanation of the element `at`. `trail` has the elements that were explained before, and `digits`
    shows numbers with all their digits or with few. */
export function explainView({page, run, at, trail, go, slider, digits}) {
	const flat = flatOf(at.index, run.shape(at.name));
	const gradient = at.of === "gradient";
	const held = run.of(at.name, at.of);
	const array = held?.exact && !held.exact(flat) ? undefined : held;
	const isMasked = page.isMasked(at.name, at.index);
	const named = element => shortElement(page, element, layerOf(at.name));
	const link = linker({page, run, go, named, write: digits.write});
	const shut = button("×", () => go({...at, index: []}), {
		class: "shut",
		"aria-label": "close the explanation"
	});
	const parts = [
		shut,
		crumbs(trail, at, go, named),
		heading(page, run, at, isMasked ? undefined : array?.[flat], digits)
	];
	const terms = at.of === "value" && page.terms[nameOf(at.name, at.index)];
	const reason = whyOf(page, run, at);
	if (reason) parts.push(html.p({class: "why"}, withTerms(reason)));
	if (at.of === "update") parts.push(html.p("The optimizer added this to the parameter in one step."));
	else if (!array && terms) parts.push(...largestTerms(terms, link, digits));
	else if (!array) parts.push(html.p(missing(run, gradient, held)));
	else parts.push(...arithmetic({page, run, at, flat, gradient, value: array[flat], isMasked, link, digits}));
	if (slider && !page.has(at.name) && at.of === "value") parts.push(slider(at, flat));
	if (array && at.of !== "update") parts.push(...usesOf({page, run, at, flat, gradient, link}));
	const why = page.whyNoCommand(at, run);
	parts.push(
		others(run, at, go),
		why ? html.p({class: "dim"}, why) : html.p({class: "again"}, copyable(page.commandOf(at, run)))
	);
	return html.section({class: "explain", "aria-label": "Explanation"}, parts);
}

const missing = (run, gradient, held) =>
	gradient && !run.traced
		? "Only the traced text has gradients."
		: "The page holds " +
			`${held && !held.isLacking ? "only an 8-bit picture of this array" : "no value of this number"}. ` +
			"The command below computes it.";

function crumbs(trail, at, go, named) {
	const items = trail
		.slice(-4)
		.map(element => html.li(button(named(element), () => go(element), {class: "link"})));
	return html.nav(
		{"aria-label": "Elements explained before"},
		html.ol({class: "crumbs"}, items, html.li({"aria-current": "true"}, named(at)))
	);
}

const PREFIX = {value: "", gradient: "d ", update: "update of "};
const shortElement = (page, {of, name, index}, layer) =>
	PREFIX[of] + nameOf(page.shortName(name, layer), index);

function heading(page, run, at, value, {write, isExact, toggle}) {
	const title =
		(at.of === "gradient" ? `d ${page.scalar} / d ` : at.of === "update" ? "update of " : "") +
		nameOf(at.name, at.index);
	const expression = at.of === "value" ? page.row(at.name).expr : null;
	return html.header(
		html.h3({tabindex: -1, id: "explained"}, title),
		value === undefined
			? null
			: html.p(
					{class: "value"},
					number(write(value), exact(value), {id: "explained-value"}),
					" ",
					button("exact", toggle, {key: "exact", pressed: isExact, title: "show all digits (x)"})
				),
		html.p({class: "dim"}, placeInWords(page, run, at.name, at.index)),
		expression ? html.p({class: "expr"}, expression) : null
	);
}

/** The steps of an element (for a gradient, of each of its paths), and whether they give the value of the
    run. */
function arithmetic({page, run, at, flat, gradient, value, isMasked, link, digits}) {
	if (!gradient && !page.has(at.name))
		return [
			html.p(
				run.altered?.has(nameOf(at.name, at.index))
					? "This parameter was changed in the page."
					: "This is a parameter: it is stored, not computed."
			)
		];
	const replaced = page.replaced.includes(at.name) && run.traced;
	if (!gradient && (replaced || run.changed?.has(at.name)))
		return [html.p("An intervention replaced the value that the model computes.")];
	// formulas, and the rows that a gradient passes through
	const found = gradient ? page.row(at.name).ways : [[page.row(at.name).formula, ""]];
	const ways =
		found[0]?.[0]?.zero && new Set(found.map(([formula]) => formula.zero)).size === 1
			? found.slice(0, 1)
			: found; // paths that are 0 for the same reason are one
	const left = [
		html.p("The page does not hold all inputs of this number. The command below writes out its arithmetic.")
	];
	if (!ways.length || !ways[0][0])
		return gradient
			? [
					html.p(
						page.replaced.length
							? "An intervention replaced an event that this gradient passes through."
							: `The command below computes the gradient of ${at.name}.`
					)
				]
			: left;
	const shown = [];
	let [sum, magnitude] = [0, 0];
	try {
		for (const [formula, way] of ways) {
			if (formula.zero) {
				shown.push(
					html.p({class: "step"}, `${ways.length > 1 ? `through ${way} ` : ""}= 0: ${formula.zero}`)
				);
				continue;
			}
			const worked = workedOut(formula, flat, run);
			sum += worked.value;
			magnitude += worked.magnitude;
			const label = ways.length > 1 ? `through ${way}` : "";
			worked.steps.forEach((step, n) =>
				shown.push(
					stepView(
						step,
						n === worked.steps.length - 1 ? label : step.label,
						link,
						tokensOf(step, page, run),
						digits
					)
				)
			);
		}
	} catch (error) {
		if (!(error instanceof RangeError)) throw error;
		return left;
	}
	if (ways.length > 1)
		shown.push(
			html.p({class: "sum"}, `sum of ${ways.length} paths = `, number(digits.write(sum), exact(sum)))
		);
	if (isMasked)
		return [
			...shown,
			html.p(
				{class: "verdict"},
				"computed here ",
				number(digits.write(sum), exact(sum)),
				"; masked: the query does not see this key, so the number is not used"
			)
		];
	return [...shown, verdict({page, run, computed: sum, value, magnitude, isExact: digits.isExact})];
}

/** The largest terms of a product, computed when the page was written, because the page lacks the matrix. */
function largestTerms(steps, link, digits) {
	const last = steps.at(-1);
	return [
		html.p(
			"computed in float64 when the page was written: ",
			number(digits.write(last.value), exact(last.value), {id: "written-value"})
		),
		...steps.map(step => stepView(step, step.label, link, null, digits))
	];
}

/** Compare the number that the page computed with the number of the run. If they agree, a tick says so. */
function verdict({page, run, computed, value, magnitude, isExact}) {
	const off = Math.abs(computed - value);
	const holds =
		off <= page.rounding * magnitude + page.tiny ||
		isSame(computed, value, run.traced && page.dtype === "float32");
	const where = run.traced ? "traced" : "in this run";
	const words =
		off === 0 || !Number.isFinite(off)
			? "equal"
			: `equal (difference ${short(off, 2)}, rounding explains up to ${short(page.rounding * magnitude, 2)})`;
	const isBeyond = page.dtype === "float32" && magnitude > LARGEST;
	const why = isBeyond
		? "an intermediate result is larger than float32 can hold"
		: "a NaN of another head or position has spread here: zero times NaN is NaN";
	const unequal = `not equal${Number.isNaN(value) && Number.isFinite(computed) ? `; ${why}` : ""}`;
	const line = `computed here ${exact(computed)}, ${where} ${exact(value)}: ${holds ? words : unequal}`;
	if (!holds) return html.p({class: "verdict bad"}, `✗ ${line}`);
	return html.p({class: "verdict good", title: line}, isExact ? `✓ ${line}` : "✓ worked out again");
}

/** Return true if two numbers are the same, or both NaN. `rounded` compares them as float32. */
const isSame = (a, b, rounded) => (rounded ? Object.is(Math.fround(a), Math.fround(b)) : Object.is(a, b));

/** A function that names the token of each term of a sum, or null if the terms do not belong to tokens. */
function tokensOf({terms: [first] = []}, page, run) {
	if (!first?.over) return null;
	const [size, of] = first.over;
	if (of === "known") return term => page.vocabulary[run.targets[term.at]];
	if (size === "T") return term => run.labels[term.at];
	const which = first.factors.findIndex(
		({name}) => name !== undefined && page.row(name).axes.at(-1) === "token"
	);
	if (which < 0) return null;
	const {name} = first.factors[which];
	return term => page.tokensOf(name)[placeOf(term.factors[which].flat, run.shape(name)).at(-1)];
}

function stepView(step, label, link, tokens, {write, isExact}) {
	if (step.results || (step.guard && step.value === 0)) return null;
	const name = label || "sum";
	if (step.count === 1 && step.terms.length === 1)
		return html.p(
			{class: "step"},
			label ? `${label} = ` : "= ",
			written(step.terms[0], link),
			" = ",
			number(write(step.value), exact(step.value))
		);
	const shown =
		step.count > MOST_TERMS
			? step.terms.toSorted((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, LARGEST_TERMS)
			: step.terms;
	const rest = step.count - shown.length;
	const sumOfRest = step.terms
		.filter(term => !shown.includes(term))
		.reduce((sum, {value}) => sum + value, step.rest ?? 0);
	const values = [...shown.map(({value}) => value), ...(rest ? [sumOfRest] : []), step.value];
	const texts = isExact ? values.map(write) : aligned(values);
	const bars = sumBars(values.slice(0, -1), step.value);
	const row = (title, n, drawn, attributes = {}) =>
		html.tr(
			attributes,
			title,
			html.td({class: "n"}, number(texts[n], exact(values[n]))),
			html.td(drawn),
			n < shown.length && tokens ? html.td({class: "dim"}, tokens(shown[n])) : null
		);
	const rows = shown.map((term, n) => row(html.td(written(term, link)), n, bars[n]));
	if (rest)
		rows.push(
			row(
				html.td(rest === 1 ? "the other term" : `the other ${rest} together`),
				shown.length,
				bars[shown.length]
			)
		);
	rows.push(
		row(html.td(step.guard ? "largest" : `sum of ${step.count} terms`), values.length - 1, bars.at(-1), {
			class: "total"
		})
	);
	return html.div({class: "step"}, html.table(html.caption(name), html.tbody(rows)));
}

function written(term, link) {
	const factors = term.factors.flatMap((factor, n) => [
		n ? " × " : "",
		factor.name === undefined ? factorInWords(factor) : link(factor)
	]);
	if (!term.text) return html.span(factors);
	const [before, after] =
		term.text.length < 24 && /\bx\b/.test(term.text) && term.text.match(/\bx\b/g).length === 1
			? term.text.split(/\bx\b/)
			: [`${term.text}, x = `, ""];
	return html.span(before, factors, after);
}

const factorInWords = factor =>
	html.span(
		{class: "constant"},
		/^[-\d.e/]+$/.test(factor.words) || factor.words.includes("/sqrt")
			? factor.words
			: `${factor.words} ${short(factor.value)}`
	);

/** A function that makes a button for a factor. The button explains the element of the factor. */
function linker({page, run, go, named, write}) {
	return factor => {
		const index = placeOf(factor.flat, run.shape(factor.name));
		const at = {of: factor.gradient ? "gradient" : "value", name: factor.name, index};
		return button([`${named(at)} `, html.span({class: "n"}, write(factor.value))], () => go(at), {
			class: "link",
			title: placeInWords(page, run, at.name, index)
		});
	};
}

/** The numbers that use an element, at most one in each array. */
function usesOf({page, run, at, flat, gradient, link}) {
	const rows = [];
	for (const reader of readersOf(page, at.name, gradient)) {
		try {
			const use = strongestUse(reader, run, at.name, gradient, flat);
			if (!use) continue;
			const value = run.of(reader.name, reader.gradient ? "gradient" : "value")?.[use.output] ?? use.value;
			const element = link({name: reader.name, gradient: reader.gradient, flat: use.output, value});
			const words = use.adds === null ? "" : ` adds ${short(use.adds)}`;
			rows.push(html.li(element, `${words}${use.count > 1 ? `, the strongest of ${use.count} uses` : ""}`));
		} catch (error) {
			if (!(error instanceof RangeError)) throw error;
			rows.push(html.li(`${reader.name}: the command below shows how`));
		}
	}
	return rows.length ? [html.p({class: "label"}, "used by"), html.ul({class: "uses"}, rows)] : [];
}

function others(run, at, go) {
	const titles = {value: "its value", gradient: "its gradient", update: "its update"};
	const links = Object.keys(titles)
		.filter(of => of !== at.of && run.of(at.name, of))
		.map(of => button(titles[of], () => go({...at, of})));
	links.push(button(`all of ${addressOf({...at, index: []})}`, () => go({...at, index: []})));
	return html.p({class: "buttons"}, links);
}
