// What every page has: the switch between light, dark and what the reader's system has, the keys, and their list.

import { make } from "./dom.js";

const NEXT = { auto: "light", light: "dark", dark: "auto" };

/** On paper all is light, pictures too. */
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

/** Whether a key is for a field, the browser or the system. */
export const isTaken = (event) => (event.target.closest?.("input, select, textarea") && event.target.type !== "range") || event.ctrlKey || event.metaKey || event.altKey;

/** Let keys act: "/" finds the search, if there is one, Backspace goes `back`, and ? lists them and the `keys` of
    views, and other lists by their titles, all as pairs of a term and words. */
export function listen(back, keys, others = {}) {
  const lists = { Keys: [...keys, ["Backspace", "back to what was shown before"], ["?", "this list"]], ...others };
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
