// Make elements of a page. Text is never parsed as HTML, and characters without a shape are spelled out.

import {onOneLine} from "./printable.js";

/** Makes an HTML element of any tag: html.p({class: "dim", onclick: act}, "words", html.b("more")). The
    attributes may be left out. Listeners are attributes, and `style` has properties, because the page's policy
    forbids the attribute. Children are elements or text. */
export const html = makersOf(tag =>
	Object.assign(document.createElement(tag), tag === "button" ? {type: "button"} : {})
);

/** A button. The focus returns to the `key` if the button is made again. `pressed` is true or false for a
    switch. `more` has other attributes. */
export const button = (words, onclick, {key, pressed, ...more} = {}) =>
	html.button(
		{"data-key": key, "aria-pressed": pressed === undefined ? null : String(pressed), onclick, ...more},
		words
	);

/** Makes an SVG element in the same way. */
export const svg = makersOf(tag => document.createElementNS("http://www.w3.org/2000/svg", tag));

function makersOf(create) {
	const makerOf =
		tag =>
		(...content) =>
			filled(create(tag), ...(content[0]?.constructor === Object ? content : [{}, ...content]));
	return new Proxy({}, {get: (_, tag) => makerOf(tag)});
}

/** An SVG rectangle of a class. `more` has other attributes. */
export const rectangle = (kind, x, y, width, height, more = {}) =>
	svg.rect({class: kind, x, y, width, height, ...more});

/** An SVG text of a class. */
export const textAt = (kind, x, y, ...words) => svg.text({class: kind, x, y}, words);

const shown = content => (typeof content === "string" ? onOneLine(content) : content);

function filled(element, attributes, ...children) {
	for (const [name, value] of Object.entries(attributes)) {
		if (name === "style") Object.assign(element.style, value);
		else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
		else if (value === true) element.setAttribute(name, "");
		else if (value !== false && value !== null && value !== undefined)
			element.setAttribute(name, name === "value" ? value : shown(value));
	}
	element.append(
		...children
			.flat(Infinity)
			.filter(child => child !== null && child !== undefined && child !== false)
			.map(shown)
	);
	return element;
}

/** Replace the children of an element. */
export function fill(element, ...children) {
	element.replaceChildren();
	filled(element, {}, children);
}

/** A listener that calls `act` and keeps the event from the elements around it. */
export const alone = act => event => {
	event.stopPropagation();
	act();
};

/** A number that is shown with few digits and copied with all of them. */
export const number = (text, all, attributes = {}) => html.data({...attributes, value: all}, text);

/** A drawing of rectangles [kind, x, width, y, height] that fills its box. Screen readers skip it. */
const barOf = (kind, ...rectangles) =>
	svg.svg(
		{class: kind, viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true"},
		rectangles.map(([part, x, width, y = 0, height = 10]) => rectangle(part, x, y, width, height))
	);

/** The terms of a sum and the sum as bars that start at one zero line. Bars of terms have the colours of
    their signs, and the bar of the sum is grey. */
export function sumBars(terms, sum) {
	const all = [0, ...terms, sum].filter(Number.isFinite);
	const [low, high] = [Math.min(...all), Math.max(...all)];
	const at = value => (100 * (value - low)) / (high - low || 1);
	return [...terms, sum].map((value, n) => {
		if (!Number.isFinite(value)) return null;
		const kind = n === terms.length ? "total" : value < 0 ? "below" : "above";
		const from = at(Math.min(0, value));
		return barOf("term", [kind, from, at(Math.max(0, value)) - from], ["zero", Math.min(at(0), 99.5), 0.5]);
	});
}

/** A bar that fills `share` of its width. If `other` is given, a second bar below it fills `other` of its
    width. */
export function bar(share, other) {
	const widthOf = part => 100 * Math.min(1, Math.max(0, part || 0));
	return other === undefined
		? barOf("bar", ["own", 0, widthOf(share)])
		: barOf("bar", ["own", 0, widthOf(share), 0, 6], ["original", 0, widthOf(other), 7, 3]);
}

/** A bar that fills `share` of its width. `before` is the share of a dashed outline, and `rule` the place of
    a rule. */
export function shareBar(share, {before, rule} = {}) {
	const part = (kind, side, size) =>
		size !== undefined && html.span({class: kind, style: {[side]: `${100 * size}%`}});
	return html.span(
		{class: "bar-of", "aria-hidden": "true"},
		part("part", "width", share),
		part("before", "width", before),
		part("rule", "left", rule)
	);
}

const titleOf = title => (typeof title === "string" ? html.th({scope: "col"}, title) : (title ?? html.td()));

/** A table with rows and, if given, column titles, which are text, cells or null. Screen readers say its
    title. */
export const tableOf = ({kind, title, heads, rows}) =>
	html.table(
		{class: kind},
		title && html.caption({class: "visually-hidden"}, title),
		heads && html.thead(html.tr(heads.map(titleOf))),
		html.tbody(rows)
	);

/** A box that scrolls sideways if its content is too wide. */
export const wide = (label, content) =>
	html.div({class: "wide", tabindex: 0, role: "group", "aria-label": label}, content);

/** The element with this data-key, or null. */
export const keyed = key => document.querySelector(`[data-key="${CSS.escape(key ?? "")}"]`);

/** Let `change` replace elements, and give the focus to the element with the same data-key as before. */
export function keepingFocus(change) {
	const {key} = document.activeElement.dataset;
	change();
	keyed(key)?.focus({preventScroll: true});
}

/** A command line with a button that copies it. If the clipboard is blocked, the button selects the line. */
export function copyable(line) {
	const copy = html.button({class: "copy", "aria-label": "copy the command"}, "copy");
	copy.addEventListener("click", async () => {
		try {
			await navigator.clipboard.writeText(line);
			copy.textContent = "copied";
		} catch {
			const range = document.createRange();
			range.selectNodeContents(copy.previousSibling);
			getSelection().removeAllRanges();
			getSelection().addRange(range);
			copy.textContent = "selected";
		}
	});
	return html.span({class: "command"}, html.code(line), copy);
}
