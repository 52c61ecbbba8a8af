// What one more change would do to a prediction. The page runs the model again for each change.

import { changesOf } from "./changes.js";
import { nameOf, partOf } from "./elements.js";

/** The probabilities after a position: the softmax of its logits. */
export function chancesAfter(page, run, position) {
  const logits = page.row(page.probabilities).inputs[0];
  const size = run.shape(logits)[1];
  const row = Array.from(run.of(logits, "value").slice(position * size, (position + 1) * size));
  const largest = Math.max(...row);
  const powers = row.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}

/** The probabilities after a position if the model has the changes of a state. */
export const chancesWithChanges = (page, state, run, position) => chancesAfter(page, page.ownRun(run.tokens, run.targets, changesOf(page, state)), position);

/** The same run after one more change, as far as the logits. Only one row is computed if `row` is given. */
function runWith(page, state, run, off, { event, row }) {
  return page.ownRun(run.tokens, run.targets, changesOf(page, { ...state, off }), { run, event, row, last: page.row(page.probabilities).inputs[0] });
}

/** The probability of the real next token after a position if a part changes sides: taken out, or put back if it is out. */
export const chanceWith = (page, state, run, part, position) => chancesWith(page, state, run, part)[position];

/** These probabilities at every position. */
export function chancesWith(page, state, run, part) {
  const off = state.off.includes(part) ? state.off.filter((other) => other !== part) : [...state.off, part];
  const changed = runWith(page, state, run, off, { event: partOf(part).name, row: null });
  return run.targets.map((target, at) => chancesAfter(page, changed, at)[target]);
}

/** The lines of attention: each query with each key that it sees, in each head. `effect` is the change of log P of the
    token that follows the query if the weight alone becomes 0. The lines with the largest effects come first. */
export function linesOf(page, state, run, queries = run.tokens.keys()) {
  const wanted = new Set(queries);
  const lines = [];
  for (const { layer, parts } of page.picture.layers) {
    for (const { attention, heads } of parts.filter((part) => part.attention)) {
      const weights = run.of(attention, "value");
      const before = run.targets.map((target, position) => chancesAfter(page, run, position)[target]);
      heads.forEach((_, head) => run.tokens.forEach((__, query) => run.tokens.forEach((___, key) => {
        const share = weights[(head * run.length + query) * run.length + key];
        if (!wanted.has(query) || page.isMasked(attention, [head, query, key]) || run.targets[query] === null) return;
        const name = nameOf(attention, [head, query, key]);
        const after = share === 0 ? null : chancesAfter(page, runWith(page, state, run, [...state.off, name], { event: attention, row: query }), query);
        const p = after ? after[run.targets[query]] : before[query];
        lines.push({ name, attention, layer, head, query, key, share, p, after, effect: Math.log(p / before[query]) || 0 });
      })));
    }
  }
  return lines.toSorted((a, b) => Math.abs(b.effect) - Math.abs(a.effect));
}
