"""Is each captured value the one that the computation uses, and is it what it says?

Every event of a trace is replaced by itself, which may change nothing. Then all are replaced at once by
perturbed copies, and each is worked out a second time, in float64 and by other code, from the copies that
it should be computed from: where it is not what these give, one of them is not used, or it is something
else. Last comes what the trace tells. The hooks that are subscribed to the model take no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Literal

import numpy as np

from ..architecture.edits import Report, unreported
from ..architecture.model import LanguageModel, TraceInput
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.bus import Hook
from ..hooks.event import TraceEvent
from ..hooks.names import select_names
from ..notebook import in_notebook
from ..text.brief import frozen
from ..text.document_fields import in_document
from .perturbation import Edge, Watch
from .result import Trace
from .trace import trace


@frozen
class Verdict:
    """What replacing one event did.

    `by_itself` is the largest difference of a logit when the event is replaced by a copy of itself;
    `perturbed` how far what is computed from it next moves when it is perturbed: |after - before| /
    |before|, the farthest of several. A dead event is one that nothing can depend on here.
    """

    name: str
    by_itself: float
    perturbed: float | None
    verdict: Literal["used", "dead", "failed"]
    reason: str = ""


@frozen
class Validation:
    """The verdicts on all events of one run."""

    SCHEMA = "microgpt.validation/1"

    model: str
    text: str
    tokens: tuple[int, ...]
    labels: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    _repr_html_ = in_notebook

    @property
    @in_document
    def ok(self) -> bool:
        """No event failed."""
        return all(verdict.verdict != "failed" for verdict in self.verdicts)


def validate(
    model: LanguageModel, text: str | None = None, *, tokens: Sequence[int] | None = None,
    names: Sequence[str] | None = None, report: Report = unreported,
) -> Validation:  # fmt: skip
    """The verdict on every event (or those that `names` stand for).

    `report` is told of the layers that are done. Raises InputError for a text or a name that does not
    fit.
    """
    inputs = model.read(text, tokens)
    known = [name for name in list(model.plan) if name != "loss" or inputs.targets[0] is not None]
    chosen = select_names(names or ("*",), known)
    with one_blas_thread(), np.errstate(all="ignore"):
        verdicts = _verdicts(model, inputs, known, chosen, report)
        return Validation(model.origin, inputs.text, inputs.tokens, inputs.labels, tuple(verdicts))


def _verdicts(
    model: LanguageModel, inputs: TraceInput, known: Sequence[str], chosen: Sequence[str], report: Report
) -> Iterator[Verdict]:
    untouched = _trace(model, inputs)
    if not np.isfinite(untouched["logits"]).all():
        for name in chosen:
            yield Verdict(name, 0.0, None, "failed", "the logits are not finite")
        return
    own = _replaced_by_itself(model, inputs, chosen, untouched)
    wrong, edges = _perturbed(model, inputs, known, report)
    if any(check.id == "untraced" and check.holds is False for check in untouched.checks):
        wrong.setdefault("logits", "a run that nobody observes gives others")
    found: dict[str, Verdict] = {}
    for name in reversed(known):  # those that read it first
        read_by = [edge for edge in edges if edge.source == name]
        found[name] = _verdict(name, own.get(name, 0.0), wrong.get(name, ""), read_by, found)
    yield from (found[name] for name in chosen)


def _verdict(name: str, own: float, wrong: str, edges: Sequence[Edge], later: dict[str, Verdict]) -> Verdict:
    moved = max((edge.moved for edge in edges), default=None)
    if own != 0:
        return Verdict(name, own, moved, "failed", "a copy of itself changes the logits")
    if wrong or not edges:
        return Verdict(name, own, moved, "failed", wrong or "nothing is computed from it")
    felt = [edge for edge in edges if edge.felt]
    if any(edge.reader not in later or later[edge.reader].verdict != "dead" for edge in felt):
        return Verdict(name, own, moved, "used")
    edge = max(felt or edges, key=lambda edge: edge.moved)
    said = f"recomputed from the perturbed value, {edge.reader} "
    if felt:
        why = f"moves by {edge.moved:.0e}, and that is dead"
    else:
        why = f"moves by {edge.moved:.0e}, which may be rounding" if edge.moved else "is the same"
    return Verdict(name, own, moved, "dead", said + why)


def _perturbed(
    model: LanguageModel, inputs: TraceInput, known: Sequence[str], report: Report
) -> tuple[dict[str, str], list[Edge]]:
    """What is wrong with which events, and what reads what: once without the heads and with P as computed,
    which are ways past both, and once with all that there is."""
    wrong, edges = dict[str, str](), list[Edge]()
    layers = model.config.n_layer
    for number, (left_out, kept) in enumerate([(model.plan.sums_of, ["probs"]), ({}, [])]):

        def done(layer: int, before: int = number * layers) -> None:
            report(before + layer, 2 * layers)

        watch = Watch(model, inputs, kept, done)
        told = _trace(model, inputs, watch, [name for name in known if name not in left_out])
        watch.hold_told(told)
        wrong = watch.wrong | wrong
        edges += watch.edges
    return wrong, edges


def _trace(
    model: LanguageModel, inputs: TraceInput, hook: Hook | None = None, names: Sequence[str] = ()
) -> Trace:
    """A trace under a hook alone, with what the head gives, as used."""
    alone = model.alone()
    with ExitStack() as stack:
        if hook is not None:
            stack.enter_context(alone.hooks.subscribe(hook, *names))
        if "prompts" in alone.abilities:
            return trace(alone, tokens=inputs.tokens, values=_head(inputs), recheck=hook is None)
        return trace(alone, inputs.text, values=_head(inputs))


def _head(inputs: TraceInput) -> list[str]:
    return ["logits", "probs"] if inputs.targets[0] is None else ["logits", "probs", "loss"]


def _replaced_by_itself(
    model: LanguageModel, inputs: TraceInput, names: Sequence[str], untouched: Trace
) -> dict[str, float]:
    """How far the head's values move, for each event. All at once where that moves nothing at all."""

    def copy(event: TraceEvent, value: Array) -> Array:
        return np.array(value)

    def moved(names: Sequence[str]) -> float:
        found = _trace(model, inputs, copy, names)
        pairs = [(array, untouched.arrays[place]) for place, array in found.arrays.items()]
        if all(np.array_equal(after, before, equal_nan=True) for after, before in pairs):
            return 0.0
        differences = [np.abs(after - before).max() for after, before in pairs]
        return float(np.nan_to_num(max(differences), nan=np.inf)) or np.inf

    if moved(names) == 0:
        return dict.fromkeys(names, 0.0)
    return {name: moved([name]) for name in names}
