"""attribute: what each component of a model adds to a prediction, and where the heads attend. Also means over
several prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from ..arrays.logits import LogitDifference, best_tokens, losses_of, runner_up, softmax
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..errors import InputError, naming
from ..hooks.edits import Edit
from ..models.language_model import LanguageModel, TraceInput
from ..patching.pairs import columns_of
from ..patching.patch_results import Spot
from ..plans.kinds import Cap
from ..progress import Report, unreported
from ..rounding.invariants import OF_SUMS
from ..selection.token_names import blank_notes, chosen_positions, token_label, token_of
from ..text.printable import shown_token
from ..tracing.findings import Check
from . import results
from .gradient_attribution import Ask, attributed, by_gradient
from .writes import Component, direct_writes, observe

Token = str | int | None


@overload
def attribute(
    model: LanguageModel, text: str | None = ..., *, tokens: Sequence[int] | None = ..., target: Token = ...,
    against: Token = ..., positions: str | Sequence[int] | None = ..., method: Literal["writes"] = ...,
    ablation: bool = ..., report: Report = ...,
) -> results.AttributionResult: ...  # fmt: skip


@overload
def attribute(
    model: LanguageModel, text: str | None = ..., *, tokens: Sequence[int] | None = ..., target: Token = ...,
    against: Token = ..., positions: str | Sequence[int] | None = ..., method: results.GradientMethod,
    neurons: bool = ..., baseline: Token = ..., report: Report = ...,
) -> results.PromptsAttribution: ...  # fmt: skip


def attribute(
    model: LanguageModel, text: str | None = None, *, tokens: Sequence[int] | None = None,
    target: Token = None, against: Token = None, positions: str | Sequence[int] | None = None,
    method: results.Method = "writes", ablation: bool = True, neurons: bool = False, baseline: Token = None,
    report: Report = unreported,
) -> results.AttributionResult | results.PromptsAttribution:  # fmt: skip
    """Attribute the difference of the logits of two tokens, `target` and `against`, to the parts of a model.

    - `target` and `against` are ids or texts of tokens (␣ means a space, #42 an id). By default `target` is
      the token that follows a position, or the prediction if no token follows. By default `against` is the
      most probable token besides `target`.
    - `positions` are "all", "last" or indices. The default of a microGPT is "all" with the method "writes".
      Otherwise the default is "last". The other methods explain one position.
    - The method "writes" returns what every component adds to both logits, and if `ablation` is true the loss
      without each component. A component is removed by setting its write to zero at all positions.
    - The methods "gradient", "gradient-x-input" and "integrated" return a `PromptsAttribution` of one text.
      `neurons` adds the neurons. `baseline` is the token whose embedding begins the path of "integrated", by
      default zeros.

    `report` is called with the progress. The model runs with the hooks of `model.hooks`. KeyboardInterrupt
    ends the steps of "integrated", and the result so far is returned. Raises InputError if an argument does
    not fit the model or the method.
    """
    if text is not None and tokens is not None:
        raise InputError("expected a text or tokens, found both")
    chosen, other = (None if token is None else token_of(model, token) for token in (target, against))
    if chosen is not None and chosen == other:
        raise InputError(f"target and against: expected two tokens, found {_label(model, other)!r} twice")
    inputs, several = model.read(text, tokens), method == "writes" and not model.takes_prompts
    default = "all" if several else "last"
    rows = chosen_positions(default if positions is None else positions, len(inputs.tokens))

    def ask(logits: Array) -> tuple[list[LogitDifference], list[str]]:
        """Return the tokens to compare at each position, and notes about them: [n, V]"""
        pairs, named = zip(rows, logits, strict=True), (target, against)
        contrasts = [_contrast(model, inputs, row, own, chosen, other) for row, own in pairs]
        probabilities, last = [softmax(row).item for row in logits], contrasts[-1]
        notes = [note for token in named for note in blank_notes(model, token, probabilities)]
        if chosen is None and inputs.targets[last.position] is None:
            runner = "the runner-up " * (against is None)
            notes.append(
                f"no token follows position {last.position}, so the prediction "
                f"{shown_token(last.target_label)} is compared with {runner}{shown_token(last.against_label)}"
            )
        return contrasts, notes

    if method != "writes":
        return by_gradient(model, inputs, rows, ask, method, neurons, baseline, report)
    if neurons or baseline is not None:
        raise InputError("neurons and baseline: need a method that uses gradients")
    return _writes(model, inputs, rows, ask, ablation, report)


@np.errstate(all="ignore")
def _writes(
    model: LanguageModel, inputs: TraceInput, rows: Sequence[int], ask: Ask, ablation: bool, report: Report
) -> results.AttributionResult:
    """Return what every component adds to the logits, as `attribute` does."""
    seen = observe(model, inputs, rows)
    logits = seen.used["logits"]
    contrasts, notes = ask(logits)
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
    removals = tuple(
        results.Removal(c.name, c.kind, c.row.layer, float(changes[c.name].mean())) for c in removed
    )
    labels = tuple(token_label(model, token) for token in inputs.tokens)
    if any(isinstance(row.kind, Cap) for row in model.plan.head):
        notes.append(
            "a cap bends the logits, so the logits are not linear in the components: every component counts "
            "with the share of the whole logit that the cap leaves"
        )
    return results.AttributionResult(
        model.origin, model.family, inputs.text, inputs.tokens, labels, (*inputs.notes, *notes), ablation,
        float(losses.mean()), explained, removals, tuple(seen.roles),
    )  # fmt: skip


def attribute_prompts(
    model: LanguageModel, prompts: Path | Sequence[str | Sequence[str]], *, target: Token = None,
    against: Token = None, positions: str | Sequence[int] | None = None, method: results.Method = "writes",
    baseline: Token = None, report: Report = unreported,
) -> results.PromptsAttribution:  # fmt: skip
    """Attribute the prediction at one position of each prompt as `attribute` does, without ablation.

    A prompt is a text or (text, target, against). In a file, each line is a prompt: TEXT or
    TEXT<TAB>TARGET<TAB>AGAINST. Empty lines and lines that begin with # are skipped. `target` and `against`
    apply to prompts that name no tokens. `report` is called with the number of prompts done and the total. If
    KeyboardInterrupt ends the steps of "integrated", the means are over the prompts so far.
    Raises InputError that names the prompt, or FileFormatError for any other line.
    """
    options: Any = {"positions": positions or "last", "method": method, "baseline": baseline}
    if isinstance(prompts, Path):
        named = columns_of(prompts, "a file of prompts", "TEXT or TEXT<TAB>TARGET<TAB>AGAINST", (1, 3))
    else:
        lists = ([prompt] if isinstance(prompt, str) else [*prompt] for prompt in prompts)
        named = [(f"prompt {number}", fields) for number, fields in enumerate(lists, 1)]
    if not all(len(fields) in (1, 3) for _, fields in named) or not named:
        raise InputError("prompts: expected texts or (text, target, against), and at least one")
    found = list[results.PromptsAttribution]()
    for where, (text, *own) in named:
        one, two = own or (target, against)
        with naming(where):
            result: Any = attribute(model, text, target=one, against=two, ablation=False, **options)
            found.append(_of_writes(model, result) if method == "writes" else result)
        report(len(found), len(named))
        if (check := found[-1].prompts[0].check) and check.detail:  # the steps were interrupted
            break
    several = len({len(own.prompts[0].tokens) for own in found}) > 1
    cells = zip(*([c for c in own.cells if c.position is None or not several] for own in found), strict=True)
    facts = tuple(own.prompts[0] for own in found)
    means = tuple(attributed(own[0], [c.mean for c in own], [c.error for c in own]) for own in cells)
    return results.PromptsAttribution(model.origin, method, facts, means)


def _of_writes(model: LanguageModel, result: results.AttributionResult) -> results.PromptsAttribution:
    """Describe the writes at one position in the form of the other methods, without the changes by hooks."""
    if len(result.positions) != 1:
        raise InputError(f"positions: expected one position, found {len(result.positions)}")
    (own,), sums, cells = result.positions, model.plan.sums_of, list[results.Attributed]()
    for part in own.parts:
        head = sums[part.name].parts.index(part.name) if part.kind == "head" else None
        if part.kind != "hook":
            cells.append(attributed(Spot(part.name, part.name, part.layer, head, None), [part.difference]))
    worst = max((own.target, own.against), key=lambda own: own.deviation)
    check = Check("logits", "the parts sum to the logits", result.ok, worst.deviation, worst.tolerance)
    facts, difference = (result.tokens, result.labels, result.notes), own.target.logit - own.against.logit
    prompt = results.AttributedPrompt(*facts, own.contrast, difference, check)
    return results.PromptsAttribution(result.model, "writes", (prompt,), tuple(cells))


def _contrast(
    model: LanguageModel, inputs: TraceInput, row: int, logits: Array, target: int | None,
    against: int | None,
) -> LogitDifference:  # fmt: skip
    """Choose the two tokens to compare at a position. Raises InputError if the logits are not finite and an
    option is missing, or if both tokens are equal."""
    label = token_label(model, inputs.tokens[row])
    seen = label if model.takes_prompts or not row else model.seen(inputs, row)
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
) -> results.PositionAttribution:  # fmt: skip
    """Return the attribution at the i-th requested position. `logits` [V] are the logits at this position."""
    parts = []
    for name, kind, row in components:
        target, against = writes[name][i].tolist()
        change = float(changes[name][i]) if name in changes else None
        parts.append(results.Contribution(name, kind, row.layer, target, against, target - against, change))
    target_sum = logit_sum(logits, contrast.target, [part.target for part in parts])
    against_sum = logit_sum(logits, contrast.against, [part.against for part in parts])
    return results.PositionAttribution(contrast, loss, target_sum, against_sum, tuple(parts))


def logit_sum(logits: Array, token: int, parts: Sequence[float]) -> results.LogitSum:
    """Compare a token's logit with the sum of its parts. `logits` [V] are the logits at one position."""
    tolerance = OF_SUMS[str(logits.dtype)]
    logit, total, magnitude = float(logits[token]), sum(parts), sum(map(abs, parts))
    deviation = abs(total - logit) / (magnitude or 1.0)
    holds = deviation <= tolerance if math.isfinite(deviation) else None
    p = math.exp(-float(losses_by_row(logits[None], [token])[0]))
    return results.LogitSum(p, logit, total, magnitude, deviation, tolerance, holds)


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
