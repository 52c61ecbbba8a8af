"""attribute: what each component of a model adds to a prediction, and where the heads attend."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from ..architecture.edits import Edit, Report, unreported
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.kinds import Cap
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
    model: LanguageModel, text: str | None = None, *, tokens: Sequence[int] | None = None,
    target: str | int | None = None, against: str | int | None = None,
    positions: str | Sequence[int] | None = None, ablation: bool = True, report: Report = unreported,
) -> AttributionResult:  # fmt: skip
    """Return what every component adds to the logits of two tokens, `target` and `against`, at each position.

    `target` and `against` are ids or texts of tokens (␣ means a space, #42 an id). By default `target` is the
    token that follows a position, or the prediction if no token follows. By default `against` is the most
    probable token besides `target`. `positions` are "all", "last" or indices, by default "all" for a microGPT
    and "last" for a decoder. If `ablation` is true, measure the loss without each component. A component is
    removed by setting its write to zero at all positions. `report` is called with the progress. The model
    runs with the hooks of `model.hooks`. Raises InputError if an argument does not fit the model.
    """
    if text is not None and tokens is not None:
        raise InputError("expected a text or tokens, found both")
    chosen, other = (None if token is None else token_of(model, token) for token in (target, against))
    if chosen is not None and chosen == other:
        raise InputError(f"target and against: expected two tokens, found {_label(model, other)!r} twice")
    inputs = model.read(text, tokens)
    if positions is None:
        positions = "last" if "prompts" in model.abilities else "all"
    rows = chosen_positions(positions, len(inputs.tokens))
    seen = observe(model, inputs, rows)
    logits = seen.used["logits"]
    contrasts = [_contrast(model, inputs, row, logits[i], chosen, other) for i, row in enumerate(rows)]
    components, writes = direct_writes(model, seen, np.array([(c.target, c.against) for c in contrasts]))
    targets = [contrast.target for contrast in contrasts]
    losses, changes = losses_by_row(logits, targets), {}
    if ablation:
        writers = [component for component in components if component.kind != "hook"]
        without = losses_without(model, inputs, writers, rows, targets, seen.hooked, report)
        changes = {name: loss - losses for name, loss in without.items()}
    explained = tuple(
        _position(i, contrast, logits[i], components, writes, changes, float(losses[i]))
        for i, contrast in enumerate(contrasts)
    )
    removed = [c for c in components if c.name in changes]
    removals = tuple(Removal(c.name, c.kind, c.row.layer, float(changes[c.name].mean())) for c in removed)
    labels = tuple(token_label(model, token) for token in inputs.tokens)
    probabilities = [softmax(row).item for row in logits]
    notes = [note for token in (target, against) for note in blank_notes(model, token, probabilities)]
    if any(isinstance(row.kind, Cap) for row in model.plan.head):
        notes.append(
            "a cap bends the logits, so the logits are not linear in the components: every component counts "
            "with the share of the whole logit that the cap leaves"
        )
    if chosen is None and inputs.targets[rows[-1]] is None:
        last, runner = contrasts[-1], "the runner-up " * (against is None)
        notes.append(
            f"no token follows position {last.position}, so the prediction {shown_token(last.target_label)} "
            f"is compared with {runner}{shown_token(last.against_label)}"
        )
    return AttributionResult(
        model.origin, model.family, inputs.text, inputs.tokens, labels, (*inputs.notes, *notes), ablation,
        float(losses.mean()), explained, removals, tuple(seen.roles),
    )  # fmt: skip


def _contrast(
    model: LanguageModel, inputs: TraceInput, row: int, logits: Array, target: int | None,
    against: int | None,
) -> LogitDifference:  # fmt: skip
    """Choose the two tokens to compare at a position. Raises InputError if the logits are not finite and an
    option is missing, or if both tokens are equal."""
    label = token_label(model, inputs.tokens[row])
    seen = label if "prompts" in model.abilities or not row else model.seen(inputs, row)
    target = inputs.targets[row] if target is None else target
    if None in (target, against) and not np.isfinite(logits).all():
        option = "--target" if target is None else "--against"
        why = "the logits are not finite, so there is no prediction"
        raise InputError(f"position {row} ({label}): {why}; name a token with {option}")
    target = best_tokens(logits, 1)[0] if target is None else target
    against = runner_up(logits, target) if against is None else against
    if against == target:
        explained = _label(model, target)
        raise InputError(f"position {row} ({label}): --against: expected another token than {explained!r}")
    return LogitDifference(row, seen, target, _label(model, target), against, _label(model, against))


def _label(model: LanguageModel, token: int) -> str:
    return token_label(model, token, target=True)


def _position(
    i: int, contrast: LogitDifference, logits: Array, components: Sequence[Component],
    writes: dict[str, Array], changes: dict[str, Array], loss: float,
) -> PositionAttribution:  # fmt: skip
    """Return the attribution at the i-th requested position. `logits` [V] are the logits at this position."""
    parts = []
    for name, kind, row in components:
        target, against = writes[name][i].tolist()
        change = float(changes[name][i]) if name in changes else None
        parts.append(Contribution(name, kind, row.layer, target, against, target - against, change))
    target_sum = logit_sum(logits, contrast.target, [part.target for part in parts])
    against_sum = logit_sum(logits, contrast.against, [part.against for part in parts])
    return PositionAttribution(contrast, loss, target_sum, against_sum, tuple(parts))


def logit_sum(logits: Array, token: int, parts: Sequence[float]) -> LogitSum:
    """Compare a token's logit with the sum of its parts. `logits` [V] are the logits at one position."""
    tolerance = OF_SUMS[str(logits.dtype)]
    logit, total, magnitude = float(logits[token]), sum(parts), sum(map(abs, parts))
    deviation = abs(total - logit) / (magnitude or 1.0)
    holds = deviation <= tolerance if math.isfinite(deviation) else None
    p = math.exp(-float(losses_by_row(logits[None], [token])[0]))
    return LogitSum(p, logit, total, magnitude, deviation, tolerance, holds)


def removal(model: LanguageModel, component: Component, at: int | None = None) -> Edit:
    """Return the edit that removes a component's write, at all positions or only at the position `at`. If an
    MLP is removed, its bias stays, because the bias is a separate component."""
    if at is not None:
        edit = removal(model, component)
        return Edit(
            edit.name, lambda value: np.where(np.arange(len(value))[:, None] == at, edit.change(value), value)
        )
    name = component.row.bias
    bias = None if name is None else model.parameter(name)
    if component.kind == "bias":
        return Edit(component.row.name, lambda value: value - bias)
    rest = 0 if bias is None or component.kind == "head" else bias
    return Edit(component.name, lambda value: np.zeros_like(value) + rest)


def losses_without(
    model: LanguageModel, inputs: TraceInput, components: Sequence[Component], rows: Sequence[int],
    targets: Sequence[int], hooked: bool, report: Report = unreported, at: int | None = None,
) -> dict[str, Array]:  # fmt: skip
    """Return -log P(target) at the requested positions without each component, by component name: [n]

    A component is removed at all positions, or only at the position `at`. The runs share the computation
    before their edits. If `hooked` is true, each component needs a separate run, because the edit must follow
    the model's hooks.
    """
    edits = [removal(model, component, at) for component in components]

    def under_hooks(edit: Edit) -> Array:
        last = model.hooks.subscription(lambda event, value: edit.change(value), edit.name)
        with one_blas_thread():
            return model.logits(inputs, rows, model.hooks.begin(after=[last]).tap("forward"))

    logits: Iterable[tuple[int, Array]] = model.edited_logits(inputs, edits, rows, report)
    if hooked:
        logits = enumerate(map(under_hooks, edits))
    return {components[number].name: losses_by_row(edited, targets) for number, edited in logits}


def losses_by_row(logits: Array, targets: Sequence[int]) -> Array:
    """Return -log P(target): [n, V], [n] -> [n]. Only one row at a time is converted to float64."""
    return np.array([losses_of(logits[i : i + 1], targets[i : i + 1])[0] for i in range(len(targets))])
