"""gradcheck: check gradients against central differences of the loss, in float64.

Every element of a microGPT's gradients is checked. The events and parameters of a production model are moved
along random directions: the slope of the loss must equal the product of gradient and direction. The gradient
in float32, which a trace shows, is compared with the float64 gradient along the same directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast
from zlib import crc32

import numpy as np

from ..architecture.edits import Edit, Report, editing, unreported
from ..architecture.float64_model import Float64Model, Move, parts_of, stats_of
from ..architecture.interpreter.backward import ForwardPass, backward, first_readers, forward
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.kinds import Choice, Loss
from ..architecture.plans.plan import Plan, kind_of
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..errors import InputError
from ..grouping import grouped
from ..hooks.bus import HookBus
from ..hooks.event import TraceEvent
from .gradient_check import GradientCheck, compared, every_gradient, least_judged

DIRECTIONS = 3  # the number of directions of each event and parameter of a small model
UNPACKED = 5e9  # parameters to unpack for all directions: about two minutes on a core
OF_FLOAT32 = 1e-3  # allowed error of a float32 gradient, relative to the L2 norm of the float64 gradient
LEAST = 1e-3  # this share of the largest norm replaces smaller norms, in an error of a float32 gradient


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
    if "gradients" in model.abilities:
        yield from every_gradient(cast(Any, model), inputs)
        return
    if not any(target is not None for target in inputs.targets):
        raise InputError("the loss needs a next token: expected a text of at least 2 tokens")
    with one_blas_thread(), np.errstate(all="ignore"):
        rows = list(_slopes(model, inputs, report))
    yield from rows


def _slopes(model: LanguageModel, inputs: TraceInput, report: Report) -> Iterator[GradientCheck]:
    names, count = chosen_names(model.plan, len(inputs.tokens))
    moves, wide = _Moves(model, inputs, names, count), cast(Any, Float64Model(model))
    middle, exact, norms = moves.gradients(wide)
    _, stored, _ = moves.gradients(model)
    rows, most = {**first_readers(model.plan), **model.plan}, max(norms.values())
    for done, name in enumerate(names):
        least, moved = max(norms[name], least_judged(middle)), partial(moves.losses, wide, name)
        row = compared(name, np.ones(count), [exact[name]], middle, moved, least)
        error = float(np.abs(stored[name] - exact[name]).max()) / max(least, LEAST * most)
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


class _Moves:
    """Random moves of the events and parameters of a model, and their effects on the loss. The size of a move
    is the RMS of the tensor. Only the first pass chooses experts, because a change of the choice has no
    slope."""

    def __init__(self, model: LanguageModel, inputs: TraceInput, names: Sequence[str], count: int) -> None:
        self._names, self._count, self._plan = names, count, model.plan
        self._inputs = np.array(inputs.tokens), inputs.targets
        self._choices, self._sizes = dict[str, Edit](), dict[str, float]()
        for name, shape in model.plan.parameters.items():
            self._sizes[name] = stats_of(model.parameter(name, next(parts_of(shape)))).rms or 1.0

    def _move(self, name: str, number: int, shape: Sequence[int], step: float = 1.0) -> Move:
        rng = np.random.default_rng([crc32(name.encode()), number])
        first, *others = map(rng.standard_normal, shape)
        return Move(step * self._sizes[name], first, tuple(others))

    def gradients(self, model: LanguageModel) -> tuple[ForwardPass, dict[str, Array], dict[str, float]]:
        """Run a forward and a backward pass. Return the pass, and for each name the product of its gradient
        with each move, and the L2 norm of its gradient times the size of a move."""
        slopes, norms = dict[str, Array](), dict[str, float]()

        def keep(event: TraceEvent, value: Array) -> Array | None:
            if not isinstance(self._plan[event.name].kind, Choice):
                self._sizes.setdefault(event.name, stats_of(value).rms or 1.0)
                return None
            chosen = value.astype(np.float64)
            edit = self._choices.setdefault(event.name, Edit(event.name, lambda value: chosen))
            return edit.change(value).astype(value.dtype)

        def weigh(name: str, gradient: Array) -> None:
            moves = (self._move(name, number, gradient.shape) for number in range(self._count))
            slopes[name] = np.array([move.along(gradient) for move in moves])
            norms[name] = self._sizes[name] * (stats_of(gradient).l2_norm or 0.0)

        bus, events = HookBus(list(self._plan.values())), [name for name in self._names if name in self._plan]
        kept = [*events, *(row.name for row in self._plan.of_kind(Choice))]
        weighing = bus.subscription(lambda e, v: weigh(e.name, v), *events, phases="backward")
        run = bus.begin(before=[bus.subscription(keep, *kept)], after=[weighing])
        done = forward(model, *self._inputs, run.tap("forward"), run.replaced)
        backward(done, run.tap("backward"), {*self._names}.difference(events), give=weigh)
        return done, slopes, norms

    def losses(self, wide: LanguageModel, name: str, steps: Array) -> ForwardPass:
        """Run a forward pass after one move. All `steps` but one are 0."""
        number, edits = int(np.flatnonzero(steps)[0]), [*self._choices.values()]
        move = partial(self._move, name, number, step=steps[number])
        if name in self._plan:
            edits.append(Edit(name, lambda value: value + move(value.shape).of()))
        else:
            wide = cast(Any, Float64Model(wide, **{name: move(self._plan.parameters[name])}))
        return forward(wide, *self._inputs, editing(*edits))
