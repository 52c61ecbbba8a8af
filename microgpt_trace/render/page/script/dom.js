// Make elements of a page. Text is never parsed as HTML, and characters without a shape are spelled out.

import {onOneLine} from "./printable.js";

/** Makes an HTML element of any tag: html.p({class: "dim", onclick: act}, "words", html.b("more")). The
    attributes, with listeners ("onclick"), may be left out. Children are elements or text. */
export const html = makersOf(tag =>
	Object.assign(document.createElement(tag), tag === "button" ? {type: "button"} : {})
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

const shown = content => (typeof content === "string" ? onOneLine(content) : content);

function filled(element, attributes, ...children) {
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
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

/** A listener that calls `act` and keeps the event from the elements around it. */
export const alone = act => event => {
	event.stopPropagation();
	act();
};

/** A number that is shown with few digits and copied with all of them. */
export const number = (text, all, attributes = {}) => html.data({...attributes, value: all}, text);

/** The terms of a sum as bars that start at one zero line. Bars of terms have the colours of their signs. The
    bars of `totals`, such as the sum, are grey. */
export function sumBars(values, totals) {
	const all = [0, ...values, ...totals].filter(Number.isFinite);
	const [low, high] = [Math.min(...all), Math.max(...all)];
	const at = value => (100 * (value - low)) / (high - low || 1);
	const barOf = (value, kind) => {
		if (!Number.isFinite(value)) return null;
		const [from, to] = [at(Math.min(0, value)), at(Math.max(0, value))];
		return svg.svg(
			{class: "term", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true"},
			svg.rect({class: kind, x: from, y: 0, height: 10, width: to - from}),
			svg.rect({class: "zero", x: Math.min(at(0), 99.5), y: 0, height: 10, width: 0.5})
		);
	};
	return [
		values.map(value => barOf(value, value < 0 ? "below" : "above")),
		totals.map(value => barOf(value, "total"))
	];
}

/** A bar that fills `share` of its width. If `other` is given, a second bar below it fills `other` of its
    width. */
export function bar(share, other) {
	const picture = svg.svg({
		class: "bar",
		viewBox: "0 0 100 10",
		preserveAspectRatio: "none",
		"aria-hidden": "true"
	});
	const rect = (part, kind, y, height) =>
		svg.rect({class: kind, x: 0, y, height, width: 100 * Math.min(1, Math.max(0, part || 0))});
	picture.append(rect(share, "own", 0, other === undefined ? 10 : 6));
	if (other !== undefined) picture.append(rect(other, "original", 7, 3));
	return picture;
}

/** A bar that fills `share` of its width. `before` is the share of a dashed outline, and `rule` the place of
    a rule. */
export function shareBar(share, {before, rule} = {}) {
	const parts = [
		["part", "width", share],
		["before", "width", before],
		["rule", "left", rule]
	].filter(([, , size]) => size !== undefined);
	return html.span(
		{class: "bar-of", "aria-hidden": "true"},
		parts.map(([kind, side, size]) => {
			const part = html.span({class: kind});
			part.style[side] = `${100 * size}%`;
			return part;
		})
	);
}

/** A command line with a button that copies it. If the clipboard is blocked, the button selects the line. */
export function copyable(line) {
	const button = html.button({class: "copy", "aria-label": "copy the command"}, "copy");
	button.addEventListener("click", async () => {
		try {
			await navigator.clipboard.writeText(line);
			button.textContent = "copied";
		} catch {
			const range = document.createRange();
			range.selectNodeContents(button.previousSibling);
			getSelection().removeAllRanges();
			getSelection().addRange(range);
			button.textContent = "selected";
		}
	});
	return html.span({class: "command"}, html.code(line), button);
}
