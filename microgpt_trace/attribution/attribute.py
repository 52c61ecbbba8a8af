"""attribute: who wrote a model's predictions of a text, and what its heads look at over it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..architecture.edits import Edit, Report, unreported
from ..architecture.model import LanguageModel, TraceInput
from ..arrays.logits import LogitDifference, best_tokens, losses_of, runner_up, softmax
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..errors import InputError
from ..rounding.invariants import OF_SUMS
from ..running.token_names import blank_notes, chosen_positions, token_label, token_of
from ..text.printable import shown_token
from .results import AttributionResult, Contribution, LogitSum, PositionAttribution, Removal
from .writes import Component, direct_writes, observe


@np.errstate(all="ignore")
def attribute(
    model: LanguageModel,
    text: str | None = None,
    *,
    tokens: Sequence[int] | None = None,
    target: str | int | None = None,
    against: str | int | None = None,
    positions: str | Sequence[int] | None = None,
    ablation: bool = True,
    report: Report = unreported,
) -> AttributionResult:
    """What every component writes towards a target's logit and towards that of a second token.

    `target` and `against` are tokens' texts (␣ for a blank, #ID) or ids. By default `target` is the token
    that follows a position, or the prediction where nothing follows, and `against` is the most probable
    other token. `positions` ("all", "last" or indices) are by default all of a microGPT and the last of a
    decoder. With `ablation` every component is removed once, its write set to zero at all positions;
    `report` is told how far that is. The model runs under the hooks subscribed to `model.hooks`. Raises
    InputError for what does not fit.
    """
    if text is not None and tokens is not None:
        raise InputError("a text and tokens: give one of them")
    named, other = (None if token is None else token_of(model, token) for token in (target, against))
    if named is not None and named == other:
        raise InputError(f"target and against are the same token, {_label(model, named)!r}")
    inputs = model.read(text, tokens)
    if positions is None:
        positions = "last" if "prompts" in model.abilities else "all"
    rows = chosen_positions(positions, len(inputs.tokens))
    seen = observe(model, inputs, rows)
    logits = seen.used["logits"]
    contrasts = [
        _contrast(model, inputs, row, own, named, other) for row, own in zip(rows, logits, strict=True)
    ]
    components, writes = direct_writes(model, seen, np.array([(c.target, c.against) for c in contrasts]))
    targets = [contrast.target for contrast in contrasts]
    losses, changes = losses_by_row(logits, targets), {}
    if ablation:
        removed = [component for component in components if component.kind != "hook"]
        without = losses_without(model, inputs, removed, rows, targets, seen.hooked, report)
        changes = {name: loss - losses for name, loss in without.items()}
    of_positions = tuple(
        _position(i, contrast, logits[i], components, writes, changes, float(losses[i]))
        for i, contrast in enumerate(contrasts)
    )
    removals = tuple(
        Removal(c.name, c.kind, c.layer, float(changes[c.name].mean()))
        for c in components
        if c.name in changes
    )
    labels = tuple(token_label(model, token) for token in inputs.tokens)
    chances = [softmax(row).item for row in logits]
    notes = [note for token in (target, against) for note in blank_notes(model, token, chances)]
    if named is None and inputs.targets[rows[-1]] is None:
        last, runner = contrasts[-1], "the runner-up " * (against is None)
        notes.append(
            f"nothing follows position {last.position}: the prediction {shown_token(last.target_label)} is "
            f"explained, against {runner}{shown_token(last.against_label)}"
        )
    return AttributionResult(
        model.origin, model.family, inputs.text, inputs.tokens, labels, (*inputs.notes, *notes), ablation,
        float(losses.mean()), of_positions, removals, tuple(seen.roles),
    )  # fmt: skip


def _contrast(
    model: LanguageModel, inputs: TraceInput, row: int, logits: Array, target: int | None,
    against: int | None,
) -> LogitDifference:  # fmt: skip
    """Which two tokens are told apart at a position. Raises InputError where that is left open."""
    label = token_label(model, inputs.tokens[row])
    seen = label if "prompts" in model.abilities or not row else model.seen(inputs, row)
    target = inputs.targets[row] if target is None else target
    if None in (target, against) and not np.isfinite(logits).all():
        option = "--target" if target is None else "--against"
        raise InputError(
            f"position {row} ({label}): the logits are not finite, so that nothing is predicted; name a "
            f"token with {option}"
        )
    target = best_tokens(logits, 1)[0] if target is None else target
    against = runner_up(logits, target) if against is None else against
    if against == target:
        raise InputError(
            f"position {row} ({label}): {_label(model, target)!r} is explained, so --against needs another"
        )
    return LogitDifference(row, seen, target, _label(model, target), against, _label(model, against))


def _label(model: LanguageModel, token: int) -> str:
    return token_label(model, token, target=True)


def _position(
    i: int, contrast: LogitDifference, logits: Array, components: Sequence[Component],
    writes: dict[str, Array], changes: dict[str, Array], loss: float,
) -> PositionAttribution:  # fmt: skip
    """The i-th of the asked positions, with its logits [V]."""
    parts = []
    for component in components:
        name, (target, against) = component.name, writes[component.name][i].tolist()
        change = float(changes[name][i]) if name in changes else None
        difference = target - against
        parts.append(Contribution(name, component.kind, component.layer, target, against, difference, change))
    target_sum = logit_sum(logits, contrast.target, [part.target for part in parts])
    against_sum = logit_sum(logits, contrast.against, [part.against for part in parts])
    return PositionAttribution(contrast, loss, target_sum, against_sum, tuple(parts))


def logit_sum(logits: Array, token: int, parts: Sequence[float]) -> LogitSum:
    """A token's logit of [V] beside what its parts add up to."""
    tolerance = OF_SUMS[str(logits.dtype)]
    logit, total, magnitude = float(logits[token]), sum(parts), sum(map(abs, parts))
    deviation = abs(total - logit) / (magnitude or 1.0)
    holds = deviation <= tolerance if math.isfinite(deviation) else None
    p = math.exp(-float(losses_by_row(logits[None], [token])[0]))
    return LogitSum(p, logit, total, magnitude, deviation, tolerance, holds)


def removal(model: LanguageModel, component: Component) -> Edit:
    """The edit that takes a component's write away. An MLP that is removed leaves its bias, which is a
    component of its own."""
    name = component.row.bias
    bias = None if name is None else model.parameter(name)
    if component.kind == "bias":
        return Edit(component.row.name, lambda value: value - bias)
    left = 0 if bias is None or component.kind == "head" else bias
    return Edit(component.name, lambda value: np.zeros_like(value) + left)


def losses_without(
    model: LanguageModel, inputs: TraceInput, components: Sequence[Component], rows: Sequence[int],
    targets: Sequence[int], hooked: bool, report: Report = unreported,
) -> dict[str, Array]:  # fmt: skip
    """-log P(target) at the asked positions without each component: by name [n].

    The runs share the work before their edits, unless the model is `hooked`: then each is a run under
    its hooks, with the edit after them.
    """
    edits = [removal(model, component) for component in components]

    def under_hooks(edit: Edit) -> Array:
        last = model.hooks.subscription(lambda event, value: edit.change(value), edit.name)
        with one_blas_thread():
            return model.logits(inputs, rows, model.hooks.begin(after=[last]).tap("forward"))

    logits: Iterable[tuple[int, Array]] = model.edited_logits(inputs, edits, rows, report)
    if hooked:
        logits = enumerate(map(under_hooks, edits))
    return {components[number].name: losses_by_row(edited, targets) for number, edited in logits}


def losses_by_row(logits: Array, targets: Sequence[int]) -> Array:
    """-log P(target): [n, V], [n] -> [n], a row at a time, for float64 takes twice the room"""
    return np.array([losses_of(logits[i : i + 1], targets[i : i + 1])[0] for i in range(len(targets))])
