// The answer bar, which stays in sight: the tokens, the likeliest next tokens, and the probability of the real next token,
// before and after the changes of the reader.

import { make } from "./dom.js";
import { letterOf } from "./letters.js";
import { chance, short } from "./numbers.js";

const TOP = 5;

/** The likeliest `count` tokens, the real next token always among them, with their probabilities. */
export function likeliest(page, chances, target, count) {
  const order = Array.from(chances.keys()).toSorted((a, b) => chances[b] - chances[a] || a - b);
  const top = order.slice(0, count);
  if (target !== null && !top.includes(target)) top[count - 1] = target;
  return top.map((token) => ({ token, label: page.vocabulary[token], p: chances[token] }));
}

const ORDINALS = ["th", "st", "nd", "rd"];

/** A rank such as "1st", "12th" or "23rd". */
export const ordinal = (rank) => `${rank}${ORDINALS[rank % 100 > 10 && rank % 100 < 14 ? 0 : rank % 10] ?? "th"}`;

const rankOf = (chances, token) => 1 + chances.filter((p) => p > chances[token]).length;

/** The bar. `before` are the probabilities without changes, or null if nothing was changed. */
export function answerView({ page, run, original, position, chances, before, select, lossOf }) {
  const target = run.targets[position];
  const read = run.labels.slice(1, position + 1).join("");
  const tiles = run.tokens.map((token, at) => make("button", { type: "button", class: "token", "aria-pressed": String(at === position), "data-key": `token ${at}`, title: `position ${at}, token ${token}, ${run.labels[at]}`, onclick: () => select(at) }, letterOf(run.labels[at])));
  const bars = likeliest(page, chances, target, TOP).map(({ token, label, p }) => make("div", { class: token === target ? "choice real" : "choice" },
    make("span", { class: "letter" }, letterOf(label)), make("span", { class: "n" }, (100 * p).toPrecision(3)), barOf(p, before?.[token])));
  const question = read ? ["After ", make("b", { class: "letters" }, read), ", what comes next?"] : ["What comes first?"];
  const now = chances[target];
  const was = before?.[target];
  const value = was === undefined ? chance(now) : `${chance(was).replace(/ %$/, "")} → ${chance(now)}`;
  const moved = was === undefined ? "" : ` · ${was > now ? "÷" : "×"} ${short(was > now ? was / now : now / was, 3)}`;
  const rank = was === undefined ? ordinal(rankOf(chances, target)) : `${ordinal(rankOf(before, target))} → ${ordinal(rankOf(chances, target))}`;
  const loss = original ? `${short(lossOf(original))} → ${short(lossOf(run))}` : short(lossOf(run));
  return [make("div", { class: "tiles", id: "tokens", role: "group", "aria-label": "tokens" }, tiles), make("p", { class: "question" }, question), make("div", { class: "choices" }, bars),
    make("div", { class: "verdicts" }, make("output", { id: "chance" }, value), make("p", { class: "dim" }, "chance of ", make("b", { class: "letters" }, letterOf(page.vocabulary[target])), `, which really follows${moved}`, make("br"), Number.isFinite(now) ? `${rank} of ${chances.length} · ` : "", `mean loss ${loss}`))];
}

function barOf(p, before) {
  const bar = make("span", { class: "bar-of", "aria-hidden": "true" });
  const part = (kind, share) => {
    const element = make("span", { class: kind });
    element.style.width = `${100 * share}%`;
    bar.append(element);
  };
  part("part", p);
  if (before !== undefined) part("before", before);
  return bar;
}
