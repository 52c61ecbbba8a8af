// The tour: a card under the picture that asks a question before it shows the numbers. The rest of the picture is dimmed.

import { make } from "./dom.js";
import { withTerms } from "./terms.js";
import { stepsOf } from "./tour_steps.js";

/** The card of a step, the part of the picture that the step is about, and whether the numbers are hidden. `answer` is
    the number of the chosen option, -1 if only the numbers are shown, or null. */
export function tourCard(context, { step, answer, move, choose, leave, explain }) {
  const steps = stepsOf(context);
  const at = Math.min(step, steps.length) - 1;
  const { part, title, text, question, options, after, why } = steps[at];
  const isOpen = answer !== null || !question;
  const guess = options[answer];
  const verdict = !guess ? "" : guess.isBest ? "Right. " : `A fair guess; it is ${options.filter(({ isBest }) => isBest).map(({ words }) => words).join(" or ")}. `;
  const dots = make("span", { class: "dots-of", "aria-hidden": "true" }, steps.map((_, n) => make("span", { class: n === at ? "now" : n < at ? "done" : "" })));
  const choices = question ? options.map(({ words, shown, isBest }, n) => make("button", { type: "button", "data-key": `option ${n}`, "aria-pressed": String(answer === n), class: isOpen && isBest ? "best" : "", onclick: () => choose(n) }, make("small", { "aria-hidden": "true" }, `${n + 1} `), words, isOpen && shown ? make("b", {}, ` · ${shown}`) : "")) : [];
  const button = (key, words, onclick, kind = "") => make("button", { type: "button", class: kind, "data-key": key, onclick }, words);
  const card = make("section", { class: "tour", "aria-label": "Tour" },
    make("p", { class: "tour-head" }, dots, make("span", { class: "dim" }, `step ${at + 1} of ${steps.length}`), button("leave", "×", leave, "shut-tour")),
    make("h2", { id: "tour-title", tabindex: -1 }, title), make("p", {}, withTerms(text)),
    question ? make("div", { class: "ask" }, make("p", {}, make("b", {}, question)), make("p", { class: "buttons", role: "group", "aria-label": "answers" }, choices), make("p", { role: "status" }, isOpen ? [make("b", {}, verdict), after] : "")) : make("p", {}, after),
    make("p", { class: "buttons" }, at > 0 ? button("back", "‹ Back", () => move(at)) : null, isOpen ? (at + 1 < steps.length ? button("next", "Next ›", () => move(at + 2), "primary") : button("end", "Done", leave, "primary")) : button("show", "Show the numbers", () => choose(-1), "primary"),
      isOpen && why ? button("explain", "Why?", () => explain(why)) : null, make("small", { class: "dim" }, "← back, → on, 1 2 3 answers, w why, esc leaves")));
  return { card, part, isMasked: !isOpen };
}
