// The controls of every page: the switch between light, dark and the colours of the system, the keyboard
// shortcuts, and the dialog that lists them.

import {html} from "./dom.js";

const NEXT = {auto: "light", light: "dark", dark: "auto"};

/** Let the button switch the colours. A printed page is always light, and so are its pictures. */
export function switchTheme() {
	const button = document.getElementById("theme");
	const {dataset} = document.documentElement;
	let chosen = "auto";
	const changed = () => window.dispatchEvent(new Event("scheme"));
	const show = theme => {
		dataset.theme = theme;
		changed();
	};
	button.addEventListener("click", () => {
		chosen = NEXT[chosen];
		button.textContent = `colours: ${chosen}`;
		show(chosen);
	});
	matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
	window.addEventListener("beforeprint", () => show("light"));
	window.addEventListener("afterprint", () => show(chosen));
}

/** Return true if a key press belongs to an input field, the browser or the system. */
export const isTaken = event =>
	(event.target.closest?.("input, select, textarea") && event.target.type !== "range") ||
	event.ctrlKey ||
	event.metaKey ||
	event.altKey;

/** Handle keys: "/" goes to the search field, Backspace calls `back`, ? opens the list of keys, and
    `actionsOf()` has a function for each other key. A slider and a dialog keep their own keys. `keys` has
    the keys of the views, as pairs of a key and its explanation. `others` has more lists of such pairs, by
    title. */
export function listen(back, actionsOf, keys, others = {}) {
	const lists = {
		Keys: [...keys, ["Backspace", "go back to the previous place"], ["?", "show this list"]],
		...others
	};
	const help = () => {
		const listed = ([title, pairs]) => [
			html.h2(title),
			html.dl(pairs.flatMap(([term, words]) => [html.dt(term), html.dd(words)]))
		];
		const dialog = document.getElementById("keys");
		dialog.replaceChildren(
			...Object.entries(lists).flatMap(listed),
			html.form({method: "dialog"}, html.button({type: "submit"}, "close"))
		);
		dialog.showModal();
		dialog.scrollTop = 0; // the focus is on the button at the end
	};
	document.addEventListener("keydown", event => {
		if (
			isTaken(event) ||
			event.target.closest?.("dialog") ||
			(event.target.type === "range" && event.key.startsWith("Arrow"))
		)
			return;
		const actions = actionsOf();
		const search = document.querySelector("input[type=search]");
		if (event.key === "/" && search) search.focus();
		else if (event.key === "Backspace") back();
		else if (event.key === "?") help();
		else if (Object.hasOwn(actions, event.key)) actions[event.key]();
		else return;
		event.preventDefault();
	});
	document.getElementById("help").addEventListener("click", help);
	document.addEventListener("copy", copyAllDigits);
}

/** Let the browser copy the numbers of a selection with all their digits. */
function copyAllDigits() {
	const selection = getSelection();
	if (!selection.rangeCount) return;
	const range = selection.getRangeAt(0);
	const numbers = Array.from(document.querySelectorAll("data")).filter(number =>
		range.intersectsNode(number)
	);
	const shown = numbers
		.filter(number => number.textContent !== number.value)
		.map(number => [number, number.textContent]);
	for (const number of numbers) {
		if (number.contains(range.endContainer)) range.setEndAfter(number);
		number.textContent = number.value;
	}
	setTimeout(() =>
		shown.forEach(([number, text]) => {
			number.textContent = text;
		})
	);
}
