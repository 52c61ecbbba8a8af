"""gradcheck: check the gradients of a plan against central differences of the loss, in float64.

A small model, which can be trained, is checked element by element: its parameters in training, in a trace and
while hooks replace values, and its activations in a trace. The events and parameters of other models are
moved along random directions: the slope of the loss must equal the product of gradient and direction. The
gradient in float32, which a trace shows, is compared with the float64 gradient along the same directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast
from zlib import crc32

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..errors import InputError
from ..grouping import grouped
from ..hooks.bus import HookBus, Run, Subscription, Tap
from ..hooks.edits import Edit, EditTap
from ..hooks.event import Replacement, TraceEvent
from ..interpreter.backward import ForwardPass, Give, backward, first_readers, forward
from ..interpreter.logits_forward import run_together
from ..interpreter.run import row_forward
from ..models.float64_model import Float64Model, Move, parts_of, stats_of
from ..models.language_model import LanguageModel, TraceInput
from ..operations.pass_state import PassState
from ..operations.prediction import known_targets
from ..plans.kinds import Choice, Loss, Probabilities
from ..plans.plan import Plan, kind_of
from ..progress import Report, unreported
from .central_differences import STEP, GradientCheck, compared, least_judged

DIRECTIONS = 3  # the number of directions of each event and parameter of a small model
UNPACKED = 5e9  # parameters to unpack for all directions: about two minutes on a core
OF_FLOAT32 = 1e-3  # allowed error of a float32 gradient, relative to the L2 norm of the float64 gradient
LEAST = 1e-3  # this share of the largest norm replaces smaller norms, in an error of a float32 gradient
TOGETHER = 256  # moves that run as sequences of one pass

Hooks = Callable[[HookBus], Sequence[Subscription]]  # returns the hooks of each pass


def gradcheck(
    model: LanguageModel, text: str | None = None, *, tokens: Sequence[int] | None = None,
    report: Report = unreported,
) -> Iterator[GradientCheck]:  # fmt: skip
    """Check the gradients of the loss of a text, and yield a row per parameter and event. The parameters come
    first. In a large production model, each kind of event and parameter is checked only in some layers.

    `tokens` are token ids of a production model instead of a text. `report` is called with the number of rows
    done and the total. Raises InputError if the text does not fit the model or has no next token.
    """
    inputs = model.read(text, tokens)
    if not any(target is not None for target in inputs.targets):
        raise InputError("the loss needs a next token: expected a text of at least 2 tokens")
    with one_blas_thread(), np.errstate(all="ignore"):
        rows = list((_of_elements if model.trainable else _of_directions)(model, inputs, report))
    yield from rows


def _of_elements(model: LanguageModel, inputs: TraceInput, report: Report) -> Iterator[GradientCheck]:
    """Check every element of every gradient. The gradients of parameters have two versions, by the plan and
    by training, and are also checked while hooks replace values."""
    trained = model.training_gradients(inputs)
    names = [*trained, *model.plan]
    moves = Moves(model, inputs, names)
    middle, exact = moves.whole_gradients()
    hooked = list(_while_hooked(moves))
    for done, name in enumerate(names):
        unit, versions = moves.unit(name), [exact[name], *([trained[name]] if name in trained else [])]
        least, slopes = least_judged(middle), moves.first_slopes(name, unit.size)
        row = compared(name, unit, versions, middle, partial(moves.at, name), least, slopes)
        checks = [check for check in hooked if check.name == name]
        errors = [check.relative_error for check in checks if not (check.kinks or check.unsettled)]
        holds = row.holds and all(check.holds for check in checks)
        yield replace(row, hooked=max(errors, default=None), holds=holds)
        report(done + 1, len(names))


def _while_hooked(moves: Moves) -> Iterator[GradientCheck]:
    """Check the gradients of the parameters while hooks replace every value by an equal value with another
    slope. The first check does not replace P, so that no other gradient is computed from the gradient of P.
    If d loss / d P is finite, a second check also replaces P."""
    plan = moves.model.plan
    (probs,) = plan.of_kind(Probabilities)

    def bent(names: Sequence[str]) -> Iterator[GradientCheck]:
        rng, bends = np.random.default_rng(1), dict[str, tuple[Array, Array]]()

        def bend(event: TraceEvent, value: Array) -> Replacement:
            if event.name not in bends:
                bends[event.name] = value.copy(), rng.uniform(0.5, 1.5, value.shape)
            here, slope = bends[event.name]
            return Replacement(here + slope * (value - here), np.asarray(slope))

        own = Moves(
            moves.model, moves.inputs, [*plan.parameters], 1, lambda bus: [bus.subscription(bend, *names)]
        )
        yield from own.along_directions(*own.whole_gradients())

    yield from bent([name for name in plan if name != probs.name])
    if moves.unit(probs.name).any():
        yield from bent([*plan])


def _of_directions(model: LanguageModel, inputs: TraceInput, report: Report) -> Iterator[GradientCheck]:
    names, count = chosen_names(model.plan, len(inputs.tokens))
    moves = Moves(model, inputs, names, count)
    exact, stored = dict[str, tuple[Array, float]](), dict[str, tuple[Array, float]]()
    middle = moves.gradients(
        moves.wide, lambda name, gradient: exact.update({name: moves.along(name, gradient)})
    )
    moves.gradients(model, lambda name, gradient: stored.update({name: moves.along(name, gradient)}))
    rows, most = {**first_readers(model.plan), **model.plan}, max(norm for _, norm in exact.values())
    for done, name in enumerate(names):
        slopes, norm = exact[name]
        least = max(norm, least_judged(middle))
        row = compared(name, np.ones(count), [slopes], middle, partial(moves.at, name), least)
        error = float(np.abs(stored[name][0] - slopes).max()) / max(least, LEAST * most)
        kind, holds = type(rows[name].kind).__name__, row.holds and error <= OF_FLOAT32
        yield replace(row, kind=kind, float32_error=error, holds=holds)
        report(done + 1, len(names))


def chosen_names(plan: Plan, length: int) -> tuple[list[str], int]:
    """Return the parameters and events to check, and the number of directions of each. In a large model,
    different kinds are checked in different layers."""
    events = [row.name for row in plan.values() if not (row.extra or isinstance(row.kind, Choice | Loss))]
    passes = UNPACKED / sum(map(math.prod, plan.parameters.values())) / (1 + length / 32)
    groups = [*grouped([*plan.parameters, *events], kind_of).values()]
    chosen = set[str]()
    for first, own in enumerate(groups):
        layers = min(max(1, int(passes / len(groups))), len(own))
        chosen |= {own[(first + i * len(own) // layers) % len(own)] for i in range(layers)}
    names = [name for name in (*plan.parameters, *events) if name in chosen]
    return names, DIRECTIONS if passes > DIRECTIONS * len(names) else 1


class Moves:
    """Moves of the events and parameters of a model, and their effects on the loss in float64.

    With `count`, each tensor has so many random moves, whose size is the RMS of the tensor, or for parameters
    with small numbers an L2 norm of 1. Without `count`, a move changes one element, and the number of the
    move is the place of the element in the flat tensor. Only the first pass chooses experts, because a change
    of the choice has no slope. `hooks` returns hooks that act in every pass."""

    def __init__(
        self, model: LanguageModel, inputs: TraceInput, names: Sequence[str], count: int = 0,
        hooks: Hooks = lambda bus: (),
    ) -> None:  # fmt: skip
        self.model, self.inputs, self.wide = model, inputs, cast(Any, Float64Model(model))
        self._names, self._count, self._plan, self._hooks = names, count, model.plan, hooks
        self._shapes = {**model.plan.parameters, **model.plan.shapes(len(inputs.tokens))}
        self._tokens, self._bus = np.array(inputs.tokens), HookBus(list(model.plan.values()))
        self._choices, self._sizes = dict[str, Array](), dict[str, float]()
        self._kept = [name for name in names if name in model.plan]  # events to measure in the first pass
        self._values = dict[str, Array]()  # the events of the first pass, if moves change one element
        for name, shape in model.plan.parameters.items() if count else ():
            rms = stats_of(model.parameter(name, next(parts_of(shape)))).rms or 1.0
            self._sizes[name] = max(rms, 1 / math.sqrt(math.prod(shape)))  # of small weights

    def unit(self, name: str) -> Array:
        """Return the change of each element of a tensor per unit of the step. The P of a target changes in
        proportion to P, so that P stays above 0. If the P of a target is almost 0, no probability changes,
        because the loss would become infinite."""
        unit = np.ones(self._shapes[name])
        if name in self._plan and isinstance(self._plan[name].kind, Probabilities):
            places, probs = known_targets(self.inputs.targets), self._values[name]
            unit[places] = probs[places]
            unit *= np.isfinite(1 / probs[places]).all()
        return unit

    def _move(self, name: str, number: int, step: float = 1.0) -> Move:
        shape = self._shapes[name] or (1,)
        if self._count:
            rng = np.random.default_rng([crc32(name.encode()), number])
            first, *others = map(rng.standard_normal, shape)
            return Move(step * self._sizes[name], first, tuple(others))
        places = np.unravel_index(number, shape)
        first, *others = (np.eye(1, size, int(at))[0] for size, at in zip(shape, places, strict=True))
        return Move(step * float(self.unit(name).flat[number]), first, tuple(others))

    def begin(self, *more: Subscription) -> Run:
        """Start a pass with the hooks."""
        kept = [*self._kept, *(row.name for row in self._plan.of_kind(Choice))]
        keeping = [self._bus.subscription(self._keep, *kept)] if kept else []
        return self._bus.begin(before=[*self._hooks(self._bus), *keeping, *more])

    def _keep(self, event: TraceEvent, value: Array) -> Array | None:
        if isinstance(self._plan[event.name].kind, Choice):
            return self._choices.setdefault(event.name, value.astype(np.float64)).astype(value.dtype)
        if self._count:
            self._sizes[event.name] = stats_of(value).rms or 1.0
        else:
            self._values[event.name] = value.copy()
        return None

    def along(self, name: str, gradient: Array) -> tuple[Array, float]:
        """Return the product of a gradient with each move, and the gradient's L2 norm times the size of a
        move."""
        slopes = [self._move(name, number).along(gradient) for number in range(self._count)]
        return np.array(slopes), self._sizes[name] * (stats_of(gradient).l2_norm or 0.0)

    def gradients(
        self, model: LanguageModel, give: Give, around: Callable[[Tap], Tap] = lambda tap: tap
    ) -> ForwardPass:
        """Run a forward and a backward pass, and call `give` with the gradients of all names. `around` may
        change the tap of each pass."""
        run, events = self.begin(), [name for name in self._names if name in self._plan]
        if events:
            giving = self._bus.subscription(
                lambda event, value: give(event.name, value), *events, phases="backward"
            )
            run.subscriptions = (*run.subscriptions, giving)
        done = forward(model, self._tokens, self.inputs.targets, around(run.tap("forward")), run.replaced)
        self._kept = []
        backward(done, around(run.tap("backward")), {*self._names}.difference(events), give=give)
        return done

    def whole_gradients(self) -> tuple[ForwardPass, dict[str, Array]]:
        """Run a forward and a backward pass in float64, and return the pass and all gradients."""
        exact = dict[str, Array]()
        middle = self.gradients(self.wide, lambda name, gradient: exact.update({name: gradient.copy()}))
        return middle, exact

    def along_directions(self, middle: ForwardPass, exact: Mapping[str, Array]) -> Iterator[GradientCheck]:
        """Check the gradients `exact` along one random direction each."""
        for name, gradient in exact.items():
            slopes, norm = self.along(name, gradient)
            yield compared(name, np.ones(1), [slopes], middle, partial(self.at, name), norm)

    def at(self, name: str, number: int, step: float) -> ForwardPass:
        """Run a forward pass after one move."""
        move, model, moving = self._move(name, number, step), self.wide, list[Subscription]()
        if name in self._plan:
            change = move.of().reshape(self._shapes[name])
            moving = [self._bus.subscription(lambda event, value: value + change, name)]
        else:
            model = cast(Any, Float64Model(self.model, **{name: move}))
        run = self.begin(*moving)
        return forward(model, self._tokens, self.inputs.targets, run.tap("forward"), run.replaced)

    def first_slopes(self, name: str, size: int) -> Array:
        """Return the slope of the loss over STEP for each element, from passes of many sequences. A moved
        parameter is read by one row, whose value is computed from the values of the first pass."""
        moves = [(number, step) for step in (STEP, -STEP) for number in range(size)]
        losses = np.zeros(len(moves))
        for start in range(0, len(moves), TOGETHER):
            edits = [self._edit(name, self._move(name, *move)) for move in moves[start : start + TOGETHER]]
            run_together(self.wide, self.inputs, partial(_Losses, edits, losses[start:]), len(edits))
        return (losses[:size] - losses[size:]) / (2 * STEP)

    def _edit(self, name: str, move: Move) -> Edit:
        if name in self._plan:
            change = move.of().reshape(self._shapes[name])
            return Edit(name, lambda value: value + change)
        rows = self._plan.values()
        row = next(row for row in rows if name in row.kind.names and row.name not in self._plan.sums_of)
        wide = cast(Any, Float64Model(self.model, **{name: move}))
        moved = row_forward(row, self._values, PassState(wide, self._tokens, targets=self.inputs.targets))
        return Edit(row.name, lambda value: moved)


class _Losses(EditTap):
    """The tap of the sequences `numbers`, which makes one edit in each sequence and stores its loss."""

    def __init__(self, edits: Sequence[Edit], losses: Array, numbers: Sequence[int]) -> None:
        own = dict[str, list[tuple[int, Edit]]]()
        for at, number in enumerate(numbers):
            own.setdefault(edits[number].name, []).append((at, edits[number]))
        super().__init__(own, len(numbers))
        self._losses, self._numbers = losses, numbers

    def emit(self, name: str, value: Array) -> Array:
        value = super().emit(name, value)
        if name == "loss":
            self._losses[self._numbers[0]] = value
        return value

    def wants(self, name: str) -> bool:
        return name == "loss" or super().wants(name)
