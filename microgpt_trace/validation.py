"""Is each captured value the one that the computation uses?

Every event is replaced by itself, which may change nothing, and by a perturbed copy, which must change
what follows, unless an independent recomputation from the perturbed value shows that it cannot. The
hooks that are subscribed to the model take no part.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from .brief import one_line
from .comparison.pairing import prepared
from .comparison.streams import EventStream
from .decoder import Decoder
from .effects import distance
from .events import HookBus, TraceEvent
from .graph import forward_names, kind_of, layer_of
from .model import Model
from .names import select_names
from .stats import Array
from .threads import one_blas_thread
from .traces import TraceInput
from .tracing import trace
from .variants import Edit, Report, edited_logits

AMOUNT = 0.1  # of an element, and of a typical one, by which a perturbation moves it (std)
ROUNDING = 1e-5  # of the logits: products of other shapes round otherwise
LOST = 8.0  # roundings of what a layer gives: less is lost in it
HEAD = ("logits", "probs", "loss")

Values = Mapping[str, Array]
Change = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What replacing one event did.

    `by_itself` is the largest difference of a logit when the event is replaced by a copy of itself;
    `perturbed` how far the logits (of the head's own events what follows them) move when it is
    perturbed: |after - before| / |before|. A dead event is one that nothing can depend on here.
    """

    name: str
    by_itself: float
    perturbed: float | None
    verdict: Literal["used", "dead", "failed"]
    reason: str = ""

    __repr__ = one_line


@dataclass(frozen=True, slots=True)
class Validation:
    """The verdicts on all events of one run."""

    model: str
    text: str
    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

    __repr__ = one_line

    @property
    def ok(self) -> bool:
        """No event failed."""
        return all(verdict.verdict != "failed" for verdict in self.verdicts)


def validate(
    model: Model | Decoder, text: str | None = None, *, tokens: Sequence[int] | None = None,
    names: Sequence[str] | None = None, report: Report = lambda done, total: None,
) -> Validation:  # fmt: skip
    """Replace every event (or those that `names` stand for) by itself and by a perturbed copy.

    `report` is told of the layers that are done. Raises InputError for a text or a name that does not
    fit.
    """
    inputs = prepared(model, text, tokens)
    known = [name for name in forward_names(model) if name != "loss" or inputs.targets[0] is not None]
    chosen = select_names(names or ("*",), known)
    with one_blas_thread(), np.errstate(all="ignore"):
        verdicts = tuple(_verdicts(model, inputs, chosen, report))
    return Validation(model.origin, inputs.text, inputs.tokens, inputs.labels, verdicts)


def _verdicts(
    model: Model | Decoder, inputs: TraceInput, names: Sequence[str], report: Report
) -> Iterator[Verdict]:
    judge = _Judge(model, inputs)
    own = _replaced_by_itself(model, inputs, names, judge.untouched)
    body = [name for name in names if name not in HEAD]
    edits = [Edit(name, perturbation(name)) for name in body]
    for number, logits in edited_logits(model, inputs, edits, range(len(inputs.tokens)), report):
        judge.moved[body[number]] = distance(logits, judge.untouched["logits"])
    for name in names:
        yield judge.verdict(name, own[name])


class _Judge:
    """Verdicts on the events of one run. `moved` is how far the logits were seen to move by perturbing an
    event, in a pass with others, in which rounding moves them as well."""

    def __init__(self, model: Model | Decoder, inputs: TraceInput) -> None:
        self.model, self.inputs = model, inputs
        self.untouched = _run(model, inputs)
        self.moved: dict[str, float] = {}
        self._known: dict[str, Verdict] = {}
        self._values: dict[str, Array] = {}

    @cached_property
    def told(self) -> Array:
        """What a trace tells of the untouched run."""
        return _told(self.model, self.inputs, "")

    def verdict(self, name: str, own: float = 0.0) -> Verdict:
        """The verdict on an event that differs by `own` when it is replaced by itself."""
        if name not in self._known or own:
            self._known[name] = self._judged(name, own)
        return self._known[name]

    def _judged(self, name: str, own: float) -> Verdict:
        if not np.isfinite(self.untouched["logits"]).all():
            return Verdict(name, own, None, "failed", "the logits are not finite")
        moved = self._move(name)
        if own != 0:
            return Verdict(name, own, moved, "failed", "a copy of itself changes the logits")
        if moved > 0:
            return Verdict(name, own, moved, "used")
        if name in HEAD:
            return Verdict(name, own, moved, "failed", "what follows it does not depend on it")
        return Verdict(name, own, moved, *self._why_not(name))

    def _move(self, name: str) -> float:
        """How far what follows the event moves when it is perturbed: where rounding could have done as
        much, in a pass of its own, in which it does nothing."""
        if name in HEAD:
            return distance(_told(self.model, self.inputs, name), self.told)
        moved = self.moved.get(name, 0.0)
        if moved > ROUNDING:
            return moved
        alone = _run(self.model, self.inputs, {name: perturbation(name)})
        return distance(alone["logits"], self.untouched["logits"])

    def _why_not(self, name: str) -> tuple[Literal["dead", "failed"], str]:
        """Whether nothing can depend on an event whose perturbation does not reach the logits."""
        lost, where = self._what_is_left(name)
        said = f"recomputed from the perturbed value, {where} "
        if lost == 0:
            return "dead", f"{said}is the same"
        if lost <= LOST * float(np.finfo(self.untouched["logits"].dtype).eps):
            return "dead", f"{said}moves by {lost:.0e}, less than its type keeps"
        if where not in (name, "logits") and self.verdict(where).verdict == "dead":
            return "dead", f"{said}moves by {lost:.0e}, and that is dead"
        return "failed", f"{said}moves by {lost:.0e}; the logits do not"

    def _what_is_left(self, name: str) -> tuple[float, str]:
        """How far a perturbed value moves the events after it in its layer (of what leaves a layer those of
        the next), recomputed in float64: the distance of the last one that it reaches, and its name."""
        from .diagnosis.operations import Weights, apply, inputs_of
        from .diagnosis.rules import rules_of

        weights, rules = Weights(self.model), rules_of(self.model, np.array(self.inputs.tokens))
        after = self._after(name)
        read = {own: inputs_of(rules, own) for own in after}
        computed = self._kept([name, *after, *(source for sources in read.values() for source in sources)])
        values = {own: array.astype(np.float64) for own, array in computed.items()}
        changed = {name: perturbation(name)(computed[name]).astype(np.float64)}
        left, where = distance(changed[name], values[name]), name
        for own in after:
            heads = [h for h in changed if kind_of(h) == "attn.head"] if own.endswith("attn.out") else []
            if not (set(read[own]) & set(changed) or heads):
                continue
            before = apply(weights, rules, own, [values[source] for source in read[own]])
            moved = apply(weights, rules, own, [changed.get(source, values[source]) for source in read[own]])
            moved = moved + sum(changed[head] - values[head] for head in heads)
            left, where = distance(moved, before), own
            if left:
                changed[own] = values[own] + (moved - before)
        return left, where

    def _after(self, name: str) -> list[str]:
        """The events after it in its layer, else those of the next; a head is a part of attn.out."""
        order = forward_names(self.model)
        later = [n for n in order[order.index(name) + 1 :] if kind_of(n) not in ("attn.head", *HEAD[1:])]
        own = [n for n in later if layer_of(n) is not None and layer_of(n) == layer_of(name)]
        return own or [n for n in later if layer_of(n) == layer_of(later[0])]

    def _kept(self, names: Sequence[str]) -> dict[str, Array]:
        """The values of these events, of one layer at a time."""
        if not set(names) <= set(self._values):
            self._values = _run(self.model, self.inputs, names=list(dict.fromkeys(names)))
        return self._values


def perturbation(name: str) -> Change:
    """A change that moves every element by some 10 % of itself and of a typical one, the same each time;
    probabilities by 10 % of themselves, for they are positive."""

    def change(value: Array) -> Array:
        noise = np.random.default_rng(zlib.crc32(name.encode())).normal(size=value.shape) * AMOUNT
        if name == "probs":
            return np.asarray(value * np.exp(noise)).astype(value.dtype)
        typical = np.median(np.abs(value)) or np.sqrt(np.square(value).mean()) or 1.0
        return np.asarray(value + noise * (np.abs(value) + typical)).astype(value.dtype)

    return change


def _run(
    model: Model | Decoder, inputs: TraceInput, changes: Mapping[str, Change] | None = None,
    names: Sequence[str] = (),
) -> dict[str, Array]:  # fmt: skip
    """What the head gives, and the events `names`, as used in a pass with changes of some events."""
    bus, parts = HookBus(list(model.hooks.specs.values())), dict[str, list[Array]]()
    changes = changes or {}
    ends = [name for name in HEAD if name != "loss" or inputs.targets[0] is not None]

    def put(event: TraceEvent, value: Array) -> Array:
        return changes[event.name](value)

    with ExitStack() as stack:
        if changes:
            stack.enter_context(bus.subscribe(put, *changes))
        stream = stack.enter_context(EventStream(model, inputs, [*names, *ends], bus=bus))
        for piece in stream:
            parts.setdefault(piece.name, []).append(piece.value)
    return {n: values[0] if len(values) == 1 else np.concatenate(values) for n, values in parts.items()}


def _replaced_by_itself(
    model: Model | Decoder, inputs: TraceInput, names: Sequence[str], untouched: Values
) -> dict[str, float]:
    """How far the head's values move, for each event. All at once where that moves nothing at all."""

    def moved(names: Sequence[str]) -> float:
        found = _run(model, inputs, dict.fromkeys(names, np.array))
        if all(np.array_equal(found[end], untouched[end], equal_nan=True) for end in untouched):
            return 0.0
        differences = [np.abs(found[end] - untouched[end]).max() for end in untouched]
        return float(np.nan_to_num(max(differences), nan=np.inf)) or np.inf

    if moved(names) == 0:
        return dict.fromkeys(names, 0.0)
    return {name: moved([name]) for name in names}


def _told(model: Model | Decoder, inputs: TraceInput, changed: str) -> Array:
    """The loss, and each position's P of its prediction and of its target, in a trace in which one event
    of the head is perturbed, or none."""
    alone = replace(model)  # with a bus of its own
    with ExitStack() as stack:
        if changed:
            change = perturbation(changed)
            stack.enter_context(alone.hooks.subscribe(lambda event, value: change(value), changed))
        if alone.family == "microgpt":
            found = trace(alone, inputs.text, names=["logits"], values=False)
        else:
            found = trace(alone, tokens=inputs.tokens, names=["logits"], values=False)
    candidates = [c for p in found.predictions for c in (p.predicted, p.target) if c is not None]
    return np.array([found.loss or 0.0, *(candidate.p for candidate in candidates)])
