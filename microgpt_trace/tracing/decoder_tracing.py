"""trace_decoder: trace a prompt through a decoder. The memory for a trace does not grow with the depth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..architecture.edits import replacing
from ..architecture.interpreter.backward import ForwardPass, Give, keeping_tap
from ..architecture.interpreter.run import forward, head_forward
from ..architecture.operations.pass_state import KVCache, PassState
from ..arrays.logits import in_small_parts, rows_held, rows_of_a_part, softmax
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..decoder.model import Decoder, prepare
from ..errors import InputError
from ..hooks.bus import PartsTap, Run, Tap
from ..hooks.event import differs
from ..hooks.names import select_names
from ..measuring.experts import ExpertMeter
from ..running.token_names import chosen_positions
from .anomalies import anomalies_of
from .checks import UNTRACED, untraced_check
from .collector import kept_events, predictions_of
from .decoder_gradients import Token, asked_gradients, differentiate
from .decoder_insights import insights_of
from .findings import Check
from .generation import Continuation, Sampling, continue_prompt
from .layer_measures import Overview
from .lens import Lens
from .observers import Observers, baseline_of
from .result import Prediction, Predictions, Trace

if TYPE_CHECKING:
    from ..architecture.model import TraceInput
    from ..running.interventions import Intervention

TOP, RUNNERS_UP = 5, 3  # default number of candidates of a prediction, and of runners-up of a generated token


def trace_decoder(
    model: Decoder, text: str | None, *, names: Sequence[str] | None, values: bool | Sequence[str],
    top_k: int | None, time: bool, backward: bool, tokens: Sequence[int] | None, special: bool, chat: bool,
    positions: str | Sequence[int] | None, lens: bool, target: Token | Sequence[Token], against: Token,
    position: int | None, parameters: Sequence[str], on_gradient: Give | None, generate: int,
    temperature: float, seed: int, recheck: bool, interventions: Sequence[Intervention],
) -> Trace:  # fmt: skip
    """Trace a prompt through a decoder with the options of `trace`. By default the Trace has all events
    except the events that need an extra computation."""
    sampling = Sampling(generate, temperature, seed, top_k or RUNNERS_UP)
    everything = [name for name, spec in model.hooks.specs.items() if not spec.extra]
    shown = select_names(names, list(model.hooks.specs)) if names else everything
    inputs = prepare(model, text, tokens, special, chat, generate)
    rows = chosen_positions("all" if positions is None else positions, len(inputs.tokens))
    kept = shown if values is True else kept_events(model, values, inputs, rows)
    if backward and generate:
        raise InputError("backward and generate: a backward pass is only for the text")
    asked = asked_gradients(
        model, target, against, position, parameters, on_gradient, backward, lens, recheck
    )
    targeted = rows if positions is not None else rows[-1:]
    lens_hook = Lens(model, rows, top_k or 1, asked.targets[0], targeted) if lens else None
    head = partial(head_forward, model)
    untouched = baseline_of(model, inputs, rows, interventions, shown, top_k or TOP, head)
    with one_blas_thread(), np.errstate(all="ignore"), untouched as baseline:
        overview, experts = Overview(model.plan, model.parameter, inputs.tokens), ExpertMeter(model.plan)
        hooks = [hook for hook in (overview, experts, lens_hook) if hook is not None]
        watching = [(hook, hook.names, getattr(hook, "part", False)) for hook in hooks if hook.names]
        observers = Observers(model, {*everything, *shown}, shown, kept, watching, baseline)
        cache = KVCache(len(inputs.tokens) + generate) if generate else None
        run = observers.begin(time, keep=recheck or backward)
        tap, gradients = run.tap("forward"), dict[str, Any]()
        tap = keeping_tap(model.plan, len(inputs.tokens), tap) if backward else tap
        final = forward(model, np.array(inputs.tokens), tap, cache)
        predicted = predict(model, final, inputs, rows, top_k or TOP, run, tap, observers)
        checks = [_untraced(model, inputs, final, predicted, run, recheck)]
        if backward:
            targets = [inputs.targets[row] for row in rows]
            state = PassState(model, np.array(inputs.tokens), tap=tap, targets=targets)
            done = ForwardPass(state, final, rows, run.replaced, predicted.used)
            check, gradients = differentiate(
                model, inputs, predicted.rows, predicted.loss, asked, done, run, observers
            )
            inputs = replace(inputs, notes=(*inputs.notes, *filter(None, [gradients["scalar"].note])))
            checks.insert(0, check)
        continuation = Continuation()
        if cache is not None:
            continuation, check = continue_prompt(
                model, inputs, final, predicted.last, cache, sampling, observers, run.replaced
            )
            checks.append(check)
        traced = _traced(
            model, inputs, predicted, checks, continuation, observers, overview, experts, lens_hook
        )
        return replace(traced, **gradients)


def _traced(
    model: Decoder, inputs: TraceInput, predicted: Predicted, checks: Sequence[Check],
    continuation: Continuation, observers: Observers, overview: Overview, experts: ExpertMeter,
    lens: Lens | None,
) -> Trace:  # fmt: skip
    events = [event for event in observers.collector.events if event.phase == "forward"]
    baseline = observers.baseline
    layers, changed = overview.rows(events), baseline.editor.names if baseline is not None else ()
    activation, norms = model.config.activation, overview.norms
    lens_rows, target_rows = lens.results() if lens is not None else ((), ())
    if lens is not None:
        inputs = replace(inputs, notes=(*inputs.notes, *lens.notes))
    return observers.trace(
        inputs, predicted.rows, predicted.loss, [*observers.checker.checks(), *checks],
        insights_of(model, layers, norms, inputs),
        "none of the chosen events is computed in this run: the last position has no loss",
        layers=layers,
        experts=tuple(experts.choices),
        anomalies=tuple(anomalies_of(events, continuation.steps, changed, layers, norms, activation)),
        lens=lens_rows,
        lens_target=target_rows,
        generation=tuple(continuation.tokens),
        generation_end=continuation.end,
    )  # fmt: skip


class Predicted(NamedTuple):
    """The results of the head: predictions, the mean loss, the logits for a continuation, and the logits for
    a comparison."""

    rows: Predictions
    loss: float | None
    last: tuple[Array, Array] | None  # logits and probs [V] of the last position, after all hooks
    compared: Sequence[int]  # the positions of `computed`
    computed: Array  # the logits [n, V] at the positions `compared`, before any hook
    used: Array  # the logits [n, V] of all positions after all hooks, or empty if they take too much memory


def predict(
    model: Decoder, final: Array, inputs: TraceInput, rows: Sequence[int], top_k: int, run: Run,
    forward_tap: Tap, observers: Observers,
) -> Predicted:  # fmt: skip
    """Compute the predictions at `rows` and the mean loss, in parts if no hook needs all logits at once."""
    vocab_size, names = model.config.vocab_size, [*(row.name for row in model.plan.head), "probs"]
    is_parted = len(rows) > rows_of_a_part(vocab_size) and not any(map(run.wants_whole, names))
    tap = PartsTap(run, "forward", "") if is_parted else forward_tap
    size = rows_held(vocab_size) if is_parted else len(rows)
    predictions: list[Prediction] = []
    for start in range(0, len(rows), size):
        group, computed, logits = rows[start : start + size], np.empty(0), np.empty(0)  # frees 64 MB
        computed = head_forward(model, final[list(group)], tap)
        for part in in_small_parts(len(group), vocab_size) if is_parted else [slice(len(group))]:
            logits = tap.emit("logits", computed[part])
            computed_probs = softmax(logits)
            probs = tap.emit("probs", computed_probs)
            replaced = differs(probs, computed_probs)
            predictions += predictions_of(model, inputs, group[part], logits, probs, replaced, top_k)
            if observers.baseline is not None:
                observers.baseline.take(group[part], logits, probs, replaced)
            run.resume()
    run.announce_parts()
    losses, loss = [p.loss for p in predictions if p.loss is not None], None
    if losses:
        mean = np.asarray(np.float32(math.fsum(losses) / len(losses)))
        loss = float(run.tap("forward").emit("loss", mean))
    last = (logits[-1], probs[-1]) if rows[-1] == len(final) - 1 else None
    used = (computed if is_parted else logits) if len(group) == len(rows) else np.empty(0)
    return Predicted(Predictions(predictions), loss, last, group, computed, used)


def _untraced(
    model: Decoder, inputs: TraceInput, final: Array, predicted: Predicted, run: Run, recheck: bool
) -> Check:
    """Compare the traced run with a run that has no observers, but the same replaced values."""
    if not recheck:
        return Check("untraced", UNTRACED, None, None, 0.0, "only with --recheck, which runs the model again")
    repeated = forward(model, np.array(inputs.tokens), replacing(run.replaced))
    check = untraced_check(predicted.computed, head_forward(model, repeated[list(predicted.compared)]))
    return check if check.holds is False else untraced_check(final, repeated)
