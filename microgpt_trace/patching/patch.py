"""patch: put clean activations into a corrupted run, site by site. Reads no file and prints nothing.

The method comes from Vig et al., "Investigating Gender Bias in Language Models Using Causal Mediation
Analysis" (2020), and Meng et al., "Locating and Editing Factual Associations in GPT" (2022). The measure is
the logit difference (Wang et al., "Interpretability in the Wild", 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np

from ..architecture.edits import Edit, Report, unreported
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.plan import Plan, kind_of, layer_of, over_tokens
from ..arrays.logits import LogitDifference, best_tokens, softmax
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..errors import InputError
from ..hooks.names import ALIASES
from ..hooks.sites import Part, Site, parse_site
from ..rounding.invariants import OF_SUMS
from ..running.token_names import blank_notes, token_argument, token_label, token_of
from ..text.printable import shown_token
from ..tracing.collector import Collector
from ..tracing.findings import Check
from .results import Patched, PatchResult, Spot, Unpatched

Text = str | Sequence[int]  # a text, or its token ids
Token = str | int | None
CLAIM = "with the clean embedding at all positions the corrupted run equals the clean run"
MOST = 40  # tokens of a text that an error shows at most
AFTER_LOGITS = ("probs", "loss")
WHOLE = Part()


def patch(
    model: LanguageModel, clean: Text, corrupt: Text, *, sites: Sequence[str] | None = None,
    target: Token = None, against: Token = None, position: int = -1,
    report: Report = unreported,
) -> PatchResult:  # fmt: skip
    """Put the clean run's activations into the corrupted run, one site at a time, and measure each effect.

    The effect of a site is the share that it restores of the logit difference, logit(target) -
    logit(against), at `position`. A share of 0 means the logit difference of the corrupted run, a share of 1
    the logit difference of the clean run.

    - `clean` and `corrupt` are texts, or lists of token ids, of the same number of tokens.
    - `sites` are names of events or parts, by default the residual stream. An event is patched position by
      position. A head is patched at all positions at once, and a part such as layer3.mlp.act@2:5 as a whole.
    - `target` and `against` are tokens, as texts or ids. The default tokens are the predictions of the clean
      and of the corrupted run at the position.
    - `report` is called with the number of layers done and the total.

    Raises InputError if an argument does not fit, or if hooks are subscribed, because patching runs without
    hooks.
    """
    return patch_inputs(model, read_pair(model, clean, corrupt), sites, target, against, position, report)


def read_pair(model: LanguageModel, clean: Text, corrupt: Text) -> tuple[TraceInput, TraceInput]:
    """Tokenize both texts. Raises InputError for texts with equal tokens or different numbers of tokens."""
    if len(model.hooks):
        raise InputError("patching runs without hooks: end the subscriptions to this model first")
    a, b = (
        model.read(text) if isinstance(text, str) else model.read(None, text) for text in (clean, corrupt)
    )
    if len(a.tokens) != len(b.tokens):
        raise InputError(
            f"the texts have {len(a.tokens):,} and {len(b.tokens):,} tokens and cannot be patched position "
            f"by position: {_labels(a)} | {_labels(b)}"
        )
    if a.tokens == b.tokens:
        raise InputError(f"both texts have the same tokens, {_labels(a)}: nothing to patch")
    return a, b


def _labels(inputs: TraceInput) -> str:
    labels = " ".join(map(shown_token, inputs.labels[:MOST]))
    return labels + " …" * (len(inputs.labels) > MOST)


@np.errstate(all="ignore")
def patch_inputs(
    model: LanguageModel, pair: tuple[TraceInput, TraceInput], sites: Sequence[str] | None,
    target: Token, against: Token, position: int, report: Report,
) -> PatchResult:  # fmt: skip
    """Patch two tokenized texts as `patch` does."""
    length = len(pair[0].tokens)
    if not -length <= position < length:
        raise InputError(f"position {position}: the texts have positions 0 to {length - 1}")
    row = position % length
    if pair[0].tokens[: row + 1] == pair[1].tokens[: row + 1]:
        raise InputError(f"position {row}: up to this position both texts have the same tokens")
    points = points_of(model, sites, length)
    names = sorted({model.plan.streams[0], *(point.spot.name for point in points)})
    (clean_logits, clean), (corrupt_logits, corrupt) = (
        _recorded(model, inputs, names, row) for inputs in pair
    )
    logits = np.stack([clean_logits, corrupt_logits])
    contrast = _contrast(model, pair[0], row, logits, target, against)
    runs = [_unpatched(model, *run, contrast) for run in zip(pair, logits, (target, against), strict=True)]
    noise = _noise(logits)
    _check_difference(contrast, runs, noise)
    low, span = runs[1].difference, runs[0].difference - runs[1].difference

    whole = _point(model.plan, model.plan.streams[0], WHOLE)  # for the check of patching everything
    changing = [p for p in points if not p.same(clean[p.spot.name], corrupt[p.spot.name])]
    edits = [Edit(p.spot.name, p.change(clean[p.spot.name])) for p in (whole, *changing)]
    differences = {
        number: contrast.difference(edited[0])
        for number, edited in model.edited_logits(pair[1], edits, [row], report)
    }
    deviation, tolerance = abs((differences[0] - low) / span - 1), noise / abs(span)
    check = Check("embedding", CLAIM, deviation <= tolerance, deviation, tolerance)
    by_site = {p.spot.site: differences[number] for number, p in enumerate(changing, 1)}
    found = [by_site.get(p.spot.site, low) for p in points]  # a site that is equal in both runs has no edit
    cells = (Patched(*p.spot.place, (own - low) / span, own) for p, own in zip(points, found, strict=True))
    return PatchResult(contrast, runs[0], runs[1], check, model.origin, tuple(cells))


def _noise(logits: Array) -> float:
    """Return how far rounding may move a logit."""
    return OF_SUMS[str(logits.dtype)] * float(np.abs(logits[np.isfinite(logits)]).max(initial=0))


def _recorded(
    model: LanguageModel, inputs: TraceInput, names: Sequence[str], row: int
) -> tuple[Array, dict[str, Array]]:
    """Run without hooks, and return the logits [V] at position `row` and the values of the events `names`."""
    collector, bus = Collector(names), model.hooks.alone()
    tap = bus.begin(after=[bus.subscription(collector, *names)]).tap("forward")
    rows = range(len(inputs.tokens)) if any(map(over_tokens, names)) else [row]
    with one_blas_thread(), np.errstate(all="ignore"):
        logits = model.logits(inputs, rows, tap)
    return logits[rows.index(row)], {name: value for (_, name), value in collector.arrays.items()}


def _contrast(
    model: LanguageModel, clean: TraceInput, row: int, logits: Array, target: Token, against: Token
) -> LogitDifference:
    """Return the two tokens of the logit difference. The defaults are the predictions of the two runs."""
    ids = []
    for which, token, own in zip(("clean", "corrupted"), (target, against), logits, strict=True):
        if token is None and not np.isfinite(own).all():
            raise InputError(f"the {which} run's logits at position {row} are not finite: name the tokens")
        ids.append(best_tokens(own, 1)[0] if token is None else token_of(model, token))
    labels = [token_label(model, token, target=True) for token in ids]
    if ids[0] == ids[1]:
        raise InputError(_same_token(model, row, logits, labels[0], target, against))
    return LogitDifference(row, clean.labels[row], ids[0], labels[0], ids[1], labels[1])


def _same_token(
    model: LanguageModel, row: int, logits: Array, label: str, target: Token, against: Token
) -> str:
    """Explain why target and against are the same token, and list tokens whose probabilities change most."""
    if target is not None and against is not None:
        return f"--target and --against are both {label}"
    if not np.ptp(np.subtract(*logits)) > _noise(logits):  # rounding alone, or NaN
        same = "differ by rounding alone" if np.isfinite(logits).all() else "are not finite"
        return f"position {row}: the logits of the two runs {same}, so there is nothing to explain"
    moved = np.subtract(*softmax(logits).astype(np.float64))
    moved[[token_of(model, token) for token in (target, against) if token is not None]] = np.nan
    best = [("--target", target, np.nanargmax(moved)), ("--against", against, np.nanargmin(moved))]
    others = [f"{option} {token_argument(model, int(token))}" for option, own, token in best if own is None]
    return (
        f"target and against are both {label} at position {row}: name another token. The probability changes "
        f"most between the runs for {' '.join(others)}"
    )


def _unpatched(
    model: LanguageModel, inputs: TraceInput, logits: Array, named: Token, contrast: LogitDifference
) -> Unpatched:
    """Describe a run at the position, with notes about the token `named` by the user for this run."""
    probs = softmax(logits)
    notes = (*inputs.notes, *blank_notes(model, named, [probs.item]))
    return Unpatched(
        inputs.text, inputs.tokens, inputs.labels, notes, contrast.difference(logits),
        float(probs[contrast.target]), float(probs[contrast.against]),
    )  # fmt: skip


def _check_difference(contrast: LogitDifference, runs: Sequence[Unpatched], noise: float) -> None:
    clean, corrupt = runs
    what = f"logit({contrast.target_label}) - logit({contrast.against_label}) at position {contrast.position}"
    for which, run in zip(("clean", "corrupted"), runs, strict=True):
        if not math.isfinite(run.difference):
            raise InputError(f"{what} is {run.difference} in the {which} run: nothing to compare")
    if not abs(clean.difference - corrupt.difference) > noise:
        raise InputError(f"{what} is {clean.difference:.6g} in both runs: nothing to explain")


@dataclass(frozen=True, slots=True)
class PatchPoint:
    """A part of an event that is patched, and its description."""

    spot: Spot
    part: Part

    def change(self, clean: Array) -> Callable[[Array], Array]:
        """Return a function that puts the clean value [T, W] or [H, T, T] in this part."""

        return lambda value: np.where(self._mask(value), clean, value)

    def same(self, clean: Array, corrupt: Array) -> bool:
        """Return True if both runs are equal in this part, so that patching changes nothing."""
        mask = self._mask(clean)
        return np.array_equal(clean[mask], corrupt[mask])

    def _mask(self, value: Array) -> Array:
        return self.part.mask(value.shape, range(value.shape[-2]))


def points_of(model: LanguageModel, sites: Sequence[str] | None, length: int) -> list[PatchPoint]:
    """List the parts that are patched in prompts of this length: each position of an event, each head as a
    whole, and each part that a site names. Raises InputError if the model has no such site."""
    shapes, (entered, *left) = model.plan.shapes(length), model.plan.streams
    streams = (entered, *dict.fromkeys(f"layer*.{kind_of(name)}" for name in left))
    whole, parts = set[str](), dict[str, PatchPoint]()
    for site in map(parse_site, streams if sites is None else sites):
        for name in _patchable(site, model):
            part = site.part(name, shapes[name], partial(token_of, model) if over_tokens(name) else None)
            if site.place:
                parts[name + site.place] = _point(model.plan, name, part, site.place)
            else:
                whole.add(name)
    if not whole and not parts:
        raise InputError("sites: expected at least one, found none")
    events = [_of_event(model.plan, name, length) for name in model.plan if name in whole]
    return [*chain.from_iterable(events), *parts.values()]


def _patchable(site: Site, model: LanguageModel) -> list[str]:
    """Return the events that a site names. Raises InputError if no such event can be patched."""
    names, exact = list(model.plan), site.selector
    parameters = [name for name in model.config.shapes() if name in model.hooks.specs or name not in ALIASES]
    if exact in parameters:
        event = f" (the event is {ALIASES[exact][0]})" if exact in ALIASES else ""
        raise InputError(f"{exact} is a parameter, which both runs share: nothing to patch{event}")
    matches = site.names(names)
    patchable = [name for name in matches if name not in AFTER_LOGITS]
    if not patchable:
        raise InputError(f"{' and '.join(matches)}: expected an event before the logits that are compared")
    return patchable


def _point(plan: Plan, name: str, part: Part, place: str = "") -> PatchPoint:
    """Describe a part of an event. If the part belongs to one head, the description has the head, and if it
    also belongs to one position, the position."""
    if part.heads is not None:
        head = _only(part.heads)
    else:
        head = plan.sums_of[name].parts.index(name) if name in plan.sums_of else None
    position = None if head is None else _only(part.positions)
    return PatchPoint(Spot(name + place, name, layer_of(name), head, position), part)


def _only(places: Sequence[int] | None) -> int | None:
    return places[0] if places is not None and len(places) == 1 else None


def _of_event(plan: Plan, name: str, length: int) -> list[PatchPoint]:
    whole = _point(plan, name, WHOLE)
    if whole.spot.head is not None:
        return [whole]
    return [
        PatchPoint(replace(whole.spot, site=f"{name}@{position}", position=position), Part(None, (position,)))
        for position in range(length)
    ]
