// Terms of the field in a text, each with its meaning as a tooltip.

import { make } from "./dom.js";
import { WORDS } from "./words.js";

const MEANINGS = new Map(WORDS.flatMap(([terms, words]) => terms.split(", ").map((term) => [term, words])));
const PLAIN = new Set(["head", "scores", "weights", "context", "out", "up", "act", "down", "norm", "rank", "update", "position", "array", "event"]); // also everyday words
const LONG = Array.from(MEANINGS.keys()).filter((term) => term.length > 1 && !PLAIN.has(term)).toSorted((a, b) => b.length - a.length);
const PATTERN = new RegExp(`\\b(${LONG.map((term) => term.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})(s?)\\b`, "gi");

/** The parts of a text. The first occurrence of each known term is an element with a tooltip. */
export function withTerms(text) {
  const parts = [];
  const seen = new Set();
  let last = 0;
  for (const match of text.matchAll(PATTERN)) {
    const [whole, term] = match;
    const meaning = MEANINGS.get(term) ?? MEANINGS.get(term.toLowerCase());
    if (seen.has(meaning)) continue;
    seen.add(meaning);
    parts.push(text.slice(last, match.index), make("abbr", { title: meaning }, whole));
    last = match.index + whole.length;
  }
  return [...parts, text.slice(last)];
}
