// The cards of a production model: what the chosen head or MLP does for the answer, and which parts do most.

import { ordinal } from "./answer_view.js";
import { make, shareBar } from "./dom.js";
import { namedToken } from "./letters.js";
import { chance, percent, short } from "./numbers.js";

const letters = (text) => make("b", { class: "letters" }, text);

/** The card of a part. */
export function partCard({ page, run, part, ranked, next, go }) {
  const { effects } = page;
  const { head, layer, key, share } = part;
  const isHead = head !== null;
  const looks = isHead && key !== undefined;
  const reads = looks ? [`Reading `, letters(run.labels[effects.position]), ", this head takes ", make("b", {}, `${short(100 * share)} %`), " from ", key === effects.position ? "itself" : letters(namedToken(run, key)), ". "] : [];
  const place = ranked.indexOf(part) + 1;
  const most = effects.isMeasured ? "changes the loss most if it is removed" : "adds or takes away most";
  const order = effects.isMeasured ? "the change of the loss without it" : "what it adds or takes away";
  const chosen = place === 1 ? `Chosen by the page: of ${ranked.length} heads, this one ${most}.` : place ? `${ordinal(place)} of ${ranked.length} heads by ${order}.` : "";
  const why = { of: "value", name: part.weights, index: [head, effects.position, key] };
  return make("section", { class: "card", "aria-label": "The chosen part" },
    make("h2", {}, part.words.replace(/^h/, "H"), looks ? [" looks most at ", key === effects.position ? "itself" : letters(namedToken(run, key))] : "", make("small", {}, ` ${part.name}`)),
    make("p", {}, reads, effectOf(effects, part)), make("p", {}, rankOf(page, part)), chosen ? make("p", { class: "dim" }, chosen) : null,
    make("p", { class: "buttons" }, make("button", { type: "button", class: "primary", "data-key": "layer", onclick: () => go({ of: "value", name: part.weights ?? part.name, index: isHead ? [head] : [] }) }, `See layer ${layer}`),
      looks ? make("button", { type: "button", "data-key": "why", onclick: () => go(why) }, `Why ${percent(share)} %?`) : null, make("button", { type: "button", "data-key": "next part", onclick: next }, "Next head")));
}

function effectOf({ p, label, other, isMeasured }, { without, adds, head, hasBias, here }) {
  const size = make("b", {}, short(Math.abs(adds)));
  const difference = [" the logit of ", letters(label), " minus that of ", letters(other), "."];
  if (!isMeasured) return adds < 0 ? ["It takes ", size, " away from", difference] : ["It adds ", size, " to", difference];
  const moves = (after) => (chance(p) === chance(after) ? `stays at ${chance(p)}` : `${after < p ? "falls" : "rises"} from ${chance(p)} to ${chance(after)}`);
  const part = head === null ? `this MLP${hasBias ? " (its bias stays)" : ""}` : "it";
  return [`Without ${part} at all positions, the chance of `, letters(label), ` ${moves(without)}.`, here === undefined ? "" : ` Without it at this position alone, the chance ${moves(here)}.`];
}

/** The rank of the answer in the logit lens, before and after the part's half of its layer. */
function rankOf(page, { layer, head }) {
  const rows = page.lens.target.filter(([, position]) => position === page.effects.position);
  const own = rows.filter(([event]) => page.row(event).layer === layer);
  const at = rows.indexOf(head === null ? own.at(-1) : own[0]);
  const [before, after] = [rows[at - 1]?.[3], rows[at]?.[3]];
  if (!after || !before) return "";
  const half = own.length === 1 ? `layer ${layer}` : head === null ? `the MLP of layer ${layer}` : `attention of layer ${layer}, with all its heads,`;
  const ranks = before === after ? [" leaves the rank of ", ` at ${ordinal(after)}.`] : [" takes the rank of ", ` from ${ordinal(before)} to ${ordinal(after)}.`];
  return ["In the logit lens, ", half, ranks[0], letters(page.effects.label), ranks[1]];
}

/** The card of the heads that do most. The bar of a head shows the chance without it, and a rule the chance now. */
export function rankedCard({ page, run, top, part, ranked, choose }) {
  const { p, label, other, isMeasured, atFirst } = page.effects;
  const most = isMeasured ? 1.15 * Math.max(p, ...top.map(({ without }) => without)) : Math.max(...top.map(({ adds }) => Math.abs(adds)));
  const rows = top.map((each) => {
    const bar = shareBar((isMeasured ? each.without : Math.abs(each.adds)) / most, { rule: isMeasured ? p / most : undefined });
    const looks = each.key === undefined ? "" : [each.key === page.effects.position ? "itself" : letters(namedToken(run, each.key)), ` ${percent(each.share)} %`];
    if (each.adds < 0 && !isMeasured) bar.firstChild.classList.add("less");
    return make("li", {}, make("button", { type: "button", class: "link", "data-key": `part ${each.name}`, "aria-pressed": String(each === part), onclick: () => choose(each) }, each.words),
      make("span", {}, looks), bar, make("span", { class: "n" }, isMeasured ? chance(each.without) : short(each.adds)));
  });
  const answer = [letters(label), " after ", letters(run.labels[page.effects.position])];
  const title = isMeasured ? ["What a head looks at most → chance of ", answer, ` without the head at all positions, now ${chance(p)}`] : ["What a head looks at most → what it adds to ", letters(label), " over ", letters(other)];
  const caution = isMeasured ? "" : "This text is too long to remove each part within about ten seconds. The list shows what heads write straight to the logits, and leaves out what they do through later layers. `microgpt attribute` removes each part.";
  const first = atFirst === null ? "" : `In ${atFirst} of ${ranked.length} heads, position 0 gets more than half of the attention on average.`;
  return make("section", { class: "card", "aria-label": "Where to look first" }, make("h2", {}, "Where to look first"), caution ? make("p", {}, caution) : null, make("p", { class: "dim" }, title), make("ul", { class: "ranked" }, rows), make("p", { class: "dim" }, first));
}
