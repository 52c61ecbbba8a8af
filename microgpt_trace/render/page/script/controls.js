// The controls of every page: the switch between light, dark and the colours of the system, the keyboard
// shortcuts, and the dialog that lists them.

import { make } from "./dom.js";

const NEXT = { auto: "light", light: "dark", dark: "auto" };

/** Let the button switch the colours. A printed page is always light, and so are its pictures. */
export function switchTheme() {
  const button = document.getElementById("theme");
  const { dataset } = document.documentElement;
  let chosen = "auto";
  const show = (theme) => {
    dataset.theme = theme;
    window.dispatchEvent(new Event("resize"));
  };
  button.addEventListener("click", () => {
    chosen = NEXT[chosen];
    button.textContent = `colours: ${chosen}`;
    show(chosen);
  });
  window.addEventListener("beforeprint", () => show("light"));
  window.addEventListener("afterprint", () => show(chosen));
}

/** Return true if a key press belongs to an input field, the browser or the system. */
export const isTaken = (event) => (event.target.closest?.("input, select, textarea") && event.target.type !== "range") || event.ctrlKey || event.metaKey || event.altKey;

/** Handle keys: "/" goes to the search field, Backspace calls `back`, and ? opens the list of keys. `keys` has the
    keys of the views, as pairs of a key and its explanation. `others` has more lists of such pairs, by title. */
export function listen(back, keys, others = {}) {
  const lists = { Keys: [...keys, ["Backspace", "go back to the previous place"], ["?", "show this list"]], ...others };
  const help = () => {
    const listed = ([title, pairs]) => [make("h2", {}, title), make("dl", {}, pairs.flatMap(([term, words]) => [make("dt", {}, term), make("dd", {}, words)]))];
    const dialog = document.getElementById("keys");
    dialog.replaceChildren(...Object.entries(lists).flatMap(listed), make("form", { method: "dialog" }, make("button", {}, "close")));
    dialog.showModal();
  };
  document.addEventListener("keydown", (event) => {
    if (isTaken(event)) return;
    const search = document.querySelector("input[type=search]");
    if (event.key === "/" && search) search.focus();
    else if (event.key === "Backspace") back();
    else if (event.key === "?") help();
    else return;
    event.preventDefault();
  });
  document.getElementById("help").addEventListener("click", help);
}
