"""Run the plan of a model with its hooks and options, and return a Trace. The memory for a trace does not
grow with the depth of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.bus import Run
from ..hooks.edits import replacing
from ..hooks.names import select_names
from ..interpreter.run import forward, head_forward, prepare
from ..measuring.norm_meter import NormMeter, NormRows
from ..operations.pass_state import KVCache
from ..selection.token_names import chosen_positions
from . import text_insights
from .checks import UNTRACED, untraced_check
from .collector import TracedRun, kept_events
from .findings import Check
from .insights import Predicate, insights_of
from .observers import Asked, Observers, baseline_of
from .options import TOP, TraceOptions
from .predicting import Predicted, predict
from .result import LayerRow, Trace

if TYPE_CHECKING:
    from ..models.language_model import LanguageModel, TraceInput
    from .generation import Continuation


def traced(model: LanguageModel, options: TraceOptions) -> Trace:
    """Run one trace. Raises InputError if an option does not fit the model."""
    options.check(model)
    specs, room = model.hooks.specs, options.generate
    everything = [name for name, spec in specs.items() if not spec.extra]
    shown = select_names(options.names, list(specs)) if options.names else everything
    inputs = model.prompt(options.text, options.tokens, options.special, options.chat, room)
    length, values = len(inputs.tokens), model.trainable if options.values is None else options.values
    rows = chosen_positions("all" if options.positions is None else options.positions, length)
    kept = shown if values is True else kept_events(model, values, inputs, rows)
    wanted = select_names(options.parameters, list(model.plan.parameters), "parameter")
    top_k, repeats = options.top_k or (TOP if model.takes_prompts else 1), model.trainable or options.recheck
    untouched = baseline_of(model, inputs, rows, options.interventions, shown, top_k)
    with one_blas_thread(), np.errstate(all="ignore"), untouched as baseline:
        asked = Asked(model, inputs, rows, options)
        meters = _Meters(asked)
        observers = Observers(asked, {*everything, *shown}, shown, kept, meters.watching, baseline)
        cache = KVCache(length + room) if room else None
        run = observers.begin(keep=repeats or options.differentiates)
        tap = run.tap("forward")
        if options.differentiates:
            from ..interpreter.backward import keeping_tap
            from .gradients import differentiate  # with the modules of training, 13 ms of a prompt's trace

            tap = keeping_tap(model.plan, length, tap)
        if options.time:
            prepare(model)
            run.resume()
        final = forward(model, np.array(inputs.tokens), tap, cache)
        predicted = predict(observers, final, top_k, run, tap)
        checks = [_untraced(model, inputs, final, predicted, run, repeats)]
        gradients, continuation = dict[str, Any](), None
        if options.differentiates:
            check, gradients = differentiate(observers, final, predicted, wanted, run, tap)
            inputs = replace(inputs, notes=(*inputs.notes, *filter(None, [gradients["scalar"].note])))
            checks.insert(int(model.trainable), check)
        if cache is not None:
            from .generation import continue_prompt

            continuation, check = continue_prompt(observers, final, predicted.last, cache, run.replaced)
            checks.append(check)
        place = int(model.trainable)  # of the checks that every trace has
        checks[place:place] = observers.checker.checks()
        measured = meters.results(observers, predicted, continuation)
        inputs = replace(inputs, notes=(*inputs.notes, *meters.notes))
        judged = _traced_run(model, inputs, observers, predicted, meters.norms, measured["layers"])
        insights = insights_of(meters.predicates, judged)
        return observers.trace(
            inputs, predicted.rows, predicted.loss, checks, insights, **measured, **gradients
        )


def _traced_run(
    model: LanguageModel, inputs: TraceInput, observers: Observers, predicted: Predicted, norms: NormRows,
    layers: Sequence[LayerRow],
) -> TracedRun:  # fmt: skip
    stats = {event.name: event.stats for event in observers.forward_events() if event.stats is not None}
    losses = [prediction.loss for prediction in predicted.rows if prediction.loss is not None]
    return TracedRun(model, inputs, stats, norms, losses, predicted.probs, layers)


def _untraced(
    model: LanguageModel, inputs: TraceInput, final: Array, predicted: Predicted, run: Run, repeats: bool
) -> Check:
    """Compare the traced run with a run that has no observers, but the same replaced values."""
    if not repeats:
        return Check("untraced", UNTRACED, None, None, 0.0, "only with --recheck, which runs the model again")
    repeated = forward(model, np.array(inputs.tokens), replacing(run.replaced))
    check = untraced_check(predicted.computed, head_forward(model, repeated[list(predicted.compared)]))
    return check if check.holds is False else untraced_check(final, repeated)


class _Meters:
    """The hooks that measure a traced pass: the norms of any model, and for prompts also the layers, the
    choices of experts and the logit lens. `watching` has the hooks, each with the names of its events, and
    with `parts` of `HookBus.subscription`."""

    def __init__(self, asked: Asked) -> None:
        model, inputs, rows, options = asked
        self._model, self._lens, hooks = model, None, list[Any]()
        self.notes: Sequence[str] = ()
        self.predicates: Sequence[Predicate] = text_insights.PREDICATES
        if not model.takes_prompts:
            norms = NormMeter(model.plan, model.parameter)
            self.norms, hooks = norms.rows, [norms]
        else:
            from ..measuring.expert_choices import ExpertMeter
            from . import layer_insights  # for prompts, 8 ms with the modules of anomalies and continuations
            from .layer_measures import Overview
            from .lens import Lens

            self.predicates = layer_insights.PREDICATES
            self._overview = Overview(model.plan, model.parameter, inputs.tokens)
            self._experts, self.norms = ExpertMeter(model.plan), self._overview.norms
            if options.lens:
                targeted = rows if options.positions is not None else rows[-1:]
                self._lens = Lens(model, rows, options.top_k or 1, options.targets[0], targeted)
            hooks = [hook for hook in (self._overview, self._experts, self._lens) if hook is not None]
        self.watching = [(hook, hook.names, getattr(hook, "part", False)) for hook in hooks if hook.names]

    def results(
        self, observers: Observers, predicted: Predicted, continuation: Continuation | None
    ) -> dict[str, Any]:
        """Return the fields of the Trace that only prompts have."""
        if not self._model.takes_prompts:
            return {"layers": ()}
        from .anomalies import Steps, anomalies_of

        events, baseline = observers.forward_events(), observers.baseline
        layers, changed = self._overview.rows(events), baseline.editor.names if baseline is not None else ()
        steps, activation = continuation.steps if continuation else Steps(), self._model.config.activation
        fields: dict[str, Any] = {"layers": layers, "experts": tuple(self._experts.choices)}
        fields["anomalies"] = tuple(anomalies_of(events, steps, changed, layers, self.norms, activation))
        if self._lens is not None:
            fields["lens"], fields["lens_target"] = self._lens.results()
            self.notes = self._lens.notes
        if continuation is not None:
            fields |= {"generation": tuple(continuation.tokens), "generation_end": continuation.end}
        return fields
