// Make elements of a page. Text is never parsed as HTML, and characters without a shape are spelled out.

import {onOneLine} from "./printable.js";

/** Make an element with attributes, listeners ("onclick") and children, which are elements or text. */
export const make = (tag, attributes = {}, ...children) =>
	filled(document.createElement(tag), attributes, children);

/** Make a button that submits no form. */
export const makeButton = (attributes, ...children) =>
	make("button", {type: "button", ...attributes}, ...children);

/** Make an SVG element, with the same arguments as `make`. */
export const draw = (tag, attributes = {}, ...children) =>
	filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

const shown = content => (typeof content === "string" ? onOneLine(content) : content);

function filled(element, attributes, children) {
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
export const number = (text, all, attributes = {}) => make("data", {...attributes, value: all}, text);

/** The terms of a sum as bars that start at one zero line. Bars of terms have the colours of their signs. The
    bars of `totals`, such as the sum, are grey. */
export function sumBars(values, totals) {
	const all = [0, ...values, ...totals].filter(Number.isFinite);
	const [low, high] = [Math.min(...all), Math.max(...all)];
	const at = value => (100 * (value - low)) / (high - low || 1);
	const barOf = (value, kind) => {
		if (!Number.isFinite(value)) return null;
		const [from, to] = [at(Math.min(0, value)), at(Math.max(0, value))];
		return draw(
			"svg",
			{class: "term", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true"},
			draw("rect", {class: kind, x: from, y: 0, height: 10, width: to - from}),
			draw("rect", {class: "zero", x: Math.min(at(0), 99.5), y: 0, height: 10, width: 0.5})
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
	const svg = draw("svg", {
		class: "bar",
		viewBox: "0 0 100 10",
		preserveAspectRatio: "none",
		"aria-hidden": "true"
	});
	const rect = (part, kind, y, height) =>
		draw("rect", {class: kind, x: 0, y, height, width: 100 * Math.min(1, Math.max(0, part || 0))});
	svg.append(rect(share, "own", 0, other === undefined ? 10 : 6));
	if (other !== undefined) svg.append(rect(other, "original", 7, 3));
	return svg;
}

/** A bar that fills `share` of its width. `before` is the share of a dashed outline, and `rule` the place of
    a rule. */
export function shareBar(share, {before, rule} = {}) {
	const parts = [
		["part", "width", share],
		["before", "width", before],
		["rule", "left", rule]
	].filter(([, , size]) => size !== undefined);
	return make(
		"span",
		{class: "bar-of", "aria-hidden": "true"},
		parts.map(([kind, side, size]) => {
			const part = make("span", {class: kind});
			part.style[side] = `${100 * size}%`;
			return part;
		})
	);
}

/** A command line with a button that copies it. If the clipboard is blocked, the button selects the line. */
export function copyable(line) {
	const button = makeButton({class: "copy", "aria-label": "copy the command"}, "copy");
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
	return make("span", {class: "command"}, make("code", {}, line), button);
}
