"""The backward pass of a traced decoder: the scalar, and its gradients with respect to all events."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.interpreter.backward import ForwardPass, TokenLogit, backward
from ..architecture.operations.pass_state import PassState
from ..arrays.logits import rows_of_a_part
from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.bus import PartsTap, Run, Tap
from ..running.token_names import chosen_positions, token_label, token_of
from ..text.wording import ranges
from .findings import Scalar
from .result import Prediction

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel, TraceInput

Token = str | int | None


def scalar_of(
    model: LanguageModel, inputs: TraceInput, predictions: Sequence[Prediction], loss: float | None,
    target: Token, against: Token, position: int | None,
) -> Scalar:  # fmt: skip
    """Return the scalar whose gradients are computed. Without a target this is the loss, or the logit of the
    last prediction if there is no loss. Raises InputError if an argument does not fit the prompt."""
    if target is None and (against is not None or position is not None):
        raise InputError(f"{'position' if against is None else 'against'}: needs a target")
    if target is None and loss is not None:
        return Scalar("loss")
    rows = [prediction.position for prediction in predictions]
    (at,) = rows[-1:] if position is None else chosen_positions([position], len(inputs.tokens))
    if at not in rows:
        raise InputError(f"position {position}: expected a position with logits, {ranges(rows)}")
    if target is not None:
        token = token_of(model, target)
    elif (predicted := predictions[rows.index(at)].predicted) is not None:
        token = predicted.token
    else:
        raise InputError("no token follows, and the logits are not finite: name a target")
    other = None if against is None else token_of(model, against)
    labels = [token_label(model, own, target=True) for own in (token, other) if own is not None]
    if token == other:
        raise InputError(f"target and against are both {labels[0]}")
    logits = [f"logit({label})" for label in labels]
    name = f"({' - '.join(logits)})" if other is not None else logits[0]
    note = ""
    if target is None:
        note = f"no token follows, so the gradients are those of the logit of the prediction {labels[0]}"
    return Scalar(name, at, token, other, note)


def differentiate(
    model: LanguageModel, inputs: TraceInput, scalar: Scalar, rows: Sequence[int], streams: Sequence[Array],
    final: Array, tap: Tap, run: Run, parameters: Collection[str],
) -> dict[str, Array]:  # fmt: skip
    """Run the backward pass of a forward pass with logits at `rows`. The gradients of the scalar with respect
    to all events are emitted to the run. `tap` is the tap of the forward pass. Return the gradients of the
    `parameters`, by name."""
    run.scalar = scalar.name
    state = PassState(model, np.array(inputs.tokens), tap=tap, targets=[inputs.targets[row] for row in rows])
    done = ForwardPass(state, streams, final, rows, run.replaced)
    logits = [
        TokenLogit(rows.index(scalar.position), token, factor)
        for token, factor in ((scalar.target, 1.0), (scalar.against, -1.0))
        if token is not None and scalar.position is not None
    ]
    names, size = [*(row.name for row in model.plan.head), "probs"], rows_of_a_part(model.config.vocab_size)
    if any(run.wants_whole(name, ("forward", "backward")) for name in names):
        size = len(rows)
    head: Tap = PartsTap(run, "backward", "") if size < len(rows) else run.tap("backward")
    return backward(
        done, run.tap("backward"), parameters, logits, size, head_tap=head, after_head=run.announce_parts
    )
