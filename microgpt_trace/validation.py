"""Is each captured value the one that the computation uses?

Every event is replaced by itself, which may change nothing, and by a perturbed copy, which must change
what follows, unless an independent recomputation from the perturbed value shows that it cannot. The
hooks that are subscribed to the model take no part.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .comparison.pairing import prepared
from .comparison.streams import EventStream
from .decoder import Decoder
from .events import HookBus, TraceEvent
from .graph import forward_names, kind_of, layer_of, stream_before
from .model import Model
from .names import select_names
from .stats import Array
from .threads import one_blas_thread
from .traces import TraceInput
from .variants import Edit, Report, edited_logits

AMOUNT = 0.1  # of an element, and of a typical one, by which a perturbation moves it (std)
ROUNDING = 1e-5  # of the logits: products of other shapes round otherwise
LOST = 1e-6  # of what a layer gives: less is lost when float32 rounds it
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


@dataclass(frozen=True, slots=True)
class Validation:
    """The verdicts on all events of one run."""

    model: str
    text: str
    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    verdicts: tuple[Verdict, ...]

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
    untouched = _run(model, inputs)
    own = _replaced_by_itself(model, inputs, names, untouched)
    body = [name for name in names if name not in HEAD]
    edits = [Edit(name, perturbation(name)) for name in body]
    moved = {
        body[number]: _distance(logits, untouched["logits"])
        for number, logits in edited_logits(model, inputs, edits, range(len(inputs.tokens)), report)
    }
    moved |= {name: _moved_in_head(model, inputs, name, untouched) for name in names if name in HEAD}
    for name in names:
        yield _verdict(model, inputs, name, own[name], moved[name])


def _verdict(model: Model | Decoder, inputs: TraceInput, name: str, own: float, moved: float) -> Verdict:
    if own != 0:
        return Verdict(name, own, moved, "failed", "a copy of itself changes the logits")
    if not np.isfinite(moved):
        return Verdict(name, own, None, "failed", "the logits are not finite")
    if moved > ROUNDING:
        return Verdict(name, own, moved, "used")
    if name in HEAD:
        return Verdict(name, own, moved, "failed", "what follows it does not depend on it")
    lost, where = _what_is_left(model, inputs, name)
    if lost > LOST:
        reason = f"recomputed from the perturbed value, {where} moves by {lost:.0e}; the logits do not"
        return Verdict(name, own, moved, "failed", reason)
    if lost == 0:
        return Verdict(name, own, moved, "dead", f"recomputed from the perturbed value, {where} is the same")
    reason = f"recomputed from the perturbed value, {where} moves by {lost:.0e}, less than float32 keeps"
    return Verdict(name, own, moved, "dead", reason)


def perturbation(name: str) -> Change:
    """A change that moves every element by some 10 % of itself and of a typical one, the same each time."""

    def change(value: Array) -> Array:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        typical = np.median(np.abs(value)) or np.sqrt(np.square(value).mean()) or 1.0
        size = np.abs(value) + typical
        return np.asarray(value + AMOUNT * size * rng.normal(size=value.shape)).astype(value.dtype)

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


def _moved_in_head(model: Model | Decoder, inputs: TraceInput, name: str, untouched: Values) -> float:
    """How far what follows the event moves when it is perturbed: the loss, which nothing follows, itself."""
    found = _run(model, inputs, {name: perturbation(name)})
    follows = "probs" if name == "logits" or "loss" not in untouched else "loss"
    return _distance(found[follows], untouched[follows])


def _distance(after: Array, before: Array) -> float:
    """|after - before| / |before|"""
    wide = before.astype(np.float64)
    return float(np.linalg.norm(after.astype(np.float64) - wide) / (np.linalg.norm(wide) or 1))


def _what_is_left(model: Model | Decoder, inputs: TraceInput, name: str) -> tuple[float, str]:
    """How far a perturbed value moves the events after it in its layer, recomputed in float64: the
    distance of the last one that it reaches, and its name."""
    from .diagnosis.operations import Weights, apply, inputs_of
    from .diagnosis.rules import rules_of

    tokens = np.array(inputs.tokens)
    weights, rules, layer = Weights(model), rules_of(model, tokens), layer_of(name)
    order = forward_names(model)
    segment = [own for own in order if layer_of(own) == layer and own not in HEAD]
    sources = segment if layer is None else [stream_before(model, layer), *segment]
    computed = _run(model, inputs, names=sources)
    values = {own: array.astype(np.float64) for own, array in computed.items()}
    changed = {name: perturbation(name)(computed[name]).astype(np.float64)}
    left, where = _distance(changed[name], values[name]), name
    for own in segment[segment.index(name) + 1 :]:
        read = inputs_of(rules, own)
        heads = [head for head in changed if kind_of(head) == "attn.head"] if own.endswith("attn.out") else []
        if not (set(read) & set(changed) or heads) or kind_of(own) == "attn.head":
            continue
        before = apply(weights, rules, own, [values[source] for source in read])
        after = apply(weights, rules, own, [changed.get(source, values[source]) for source in read])
        after = after + sum(changed[head] - values[head] for head in heads)
        left, where = _distance(after, before), own
        if left:
            changed[own] = values[own] + (after - before)
    return left, where
