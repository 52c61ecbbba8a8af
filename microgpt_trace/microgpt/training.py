"""Adam and the training loop, which yields a record per step."""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays.logits import losses_of
from ..arrays.stats import Array
from ..arrays.threads import keep_freed_memory, one_blas_thread
from ..errors import DivergedError, InputError
from ..hooks.bus import SILENT, Tap
from ..hooks.event import TraceEvent
from ..text.wording import counted
from .batch import Batch, Encoded
from .documents import Documents, default_data, read_lines
from .forward_backward import Pass, backward, forward
from .model import Model, Schedule, TrainingState, check_microgpt, init
from .parameters import Parameters, aligned
from .tokenizer import Tokenizer

BETA1, BETA2, ADAM_EPS = 0.85, 0.99, 1e-8
EVALUATION_BATCH = 128  # names


class Adam:
    """Adam over one flat vector, in eight NumPy calls per step. Kingma and Ba, "Adam: a method for stochastic
    optimization" (2015), algorithm 1. The bias correction includes the factors (1 - beta) that the moments m
    and v lack, so that one call decays [m, v] and another call adds [g, g^2]."""

    def __init__(self, params: Parameters, moments: Array | None = None) -> None:
        size, dtype = params.flat.size, params.dtype
        self.params = params
        self.moments = aligned(np.zeros(2 * size, dtype) if moments is None else moments)
        self._m, self._v = self.moments[:size], self.moments[size:]
        self._sources = aligned(np.zeros(2 * size, dtype))  # [g, g^2]: the gradient, and the squared gradient
        self._grad, self._square = self._sources[:size], self._sources[size:]
        self.grads = Parameters(params.config, self._grad)
        self.update = Parameters(params.config, aligned(np.zeros(size, dtype)))  # the last update
        self._decay = aligned(np.repeat(np.array([BETA1, BETA2], dtype), size))
        self._eps, self._rate = np.zeros((), dtype), np.zeros((), dtype)

    def step(self, number: int, lr: float, tap: Tap = SILENT) -> None:
        """Update the parameters from `grads`. `number` is the number of the step, counted from 1."""
        root = math.sqrt((1 - BETA2**number) / (1 - BETA2))
        self._eps[...] = ADAM_EPS * root
        self._rate[...] = -lr * root * (1 - BETA1) / (1 - BETA1**number)
        update = self.update.flat
        np.multiply(self._grad, self._grad, self._square)
        np.multiply(self.moments, self._decay, self.moments)
        np.add(self.moments, self._sources, self.moments)
        np.sqrt(self._v, update)
        np.add(update, self._eps, update)
        np.divide(self._m, update, update)
        np.multiply(update, self._rate, update)
        if tap is not SILENT:
            for name, view in self.update.items():
                view[...] = tap.emit(name, view)
        np.add(self.params.flat, update, self.params.flat)

    @np.errstate(all="ignore")
    def gradient_norm(self) -> float:
        """Return the L2 norm of the last gradient."""
        return float(np.linalg.norm(self._grad))

    @np.errstate(all="ignore")  # the ratio of infinite parameters or updates is NaN
    def update_ratio(self) -> float:
        """Return |last update| / |parameters before the update|, where | | is the L2 norm."""
        before = self.params.flat - self.update.flat
        return float(np.linalg.norm(self.update.flat) / np.linalg.norm(before))


def one_step(
    model: Model, gradients: Mapping[str, Array], tap: Tap
) -> tuple[Model, dict[str, Array], int, float, str]:
    """Take the next Adam step of a model with these gradients, and emit the updates to the tap. Return a
    model with the new parameters, the updates by name, the number of the step, its learning rate, and a note
    on the moments. The model itself does not change."""
    state, schedule = model.training, model.training.schedule if model.training else Schedule()
    moments = state.moments.copy() if state and state.moments is not None else None
    adam = Adam(model.params.copy(), moments)
    for name, gradient in gradients.items():
        adam.grads[name][...] = gradient
    number, note = 1, "fresh moments"
    if state and moments is not None:
        number, note = state.step + 1, "moments of the checkpoint"
    lr = schedule.lr_at(state.step) if state and state.step < schedule.steps else schedule.lr
    adam.step(number, lr, tap)
    return replace(model, params=adam.params), dict(adam.update.items()), number, lr, note


class StepRecord(NamedTuple):
    step: int  # counted from 1
    loss: float  # mean loss of the names of the batch, before the update
    lr: float


class Trainer:
    """A training run, which can stop after any step and resume with the same result, bit for bit. The run
    starts from the training state of `model`, and changes the parameters of `model` in place."""

    def __init__(self, model: Model, documents: Documents, schedule: Schedule) -> None:
        if not len(documents.train):
            raise InputError("expected at least one name to train on, found none")
        state = model.training
        self.params, self.tokenizer, self.documents = model.params, model.tokenizer, documents
        self.schedule, self.done = schedule, state.step if state else 0
        self.run_id = (state and state.run_id) or secrets.token_hex(8)
        self.adam = Adam(model.params, state.moments if state else None)
        self._encoded = Encoded(documents.names, model.tokenizer, model.config, model.params.dtype)
        self._epoch, self._order = -1, list[int]()
        self._order_of(self.done * schedule.batch_size // len(documents.train))
        keep_freed_memory()

    def model(self, origin: str) -> Model:
        """Return the model with the parameters after the last step. The model shares its arrays with the run,
        so later steps change the model."""
        moments = self.adam.moments
        state = TrainingState(self.schedule, self.done, self.documents.fingerprint, moments, self.run_id)
        return Model(self.params, self.tokenizer, origin, state)

    def run(self) -> Iterator[StepRecord]:
        """Train to the last step of the schedule. Raises DivergedError if a loss is not finite."""
        context = copy_context()  # NumPy ignores floating-point errors in a step, but not in the caller
        context.run(np.seterr, all="ignore")
        for step in range(self.done, self.schedule.steps):
            yield context.run(self._step, step)

    def _step(self, step: int) -> StepRecord:
        batch = self.batch(step)
        done = forward(self.params, batch)
        loss = float(done.loss)
        if not math.isfinite(loss):
            raise DivergedError(self._diagnosis(step, loss, batch))
        backward(self.params, done, self.adam.grads)
        del done  # free its arrays for the next step
        lr = self.schedule.lr_at(step)
        self.adam.step(step + 1, lr)
        self.done = step + 1
        return StepRecord(step + 1, loss, lr)

    def batch(self, step: int) -> Batch:
        """Return the batch of names for a step, counted from 0. Each epoch has another order of the names."""
        size = self.schedule.batch_size
        epoch, at = divmod(step * size, len(self.documents.train))
        if size == 1:
            return self._encoded.one(self._order_of(epoch)[at])
        names = self._order_of(epoch)[at : at + size]
        while len(names) < size:  # fill the batch from the next epochs
            epoch += 1
            names = names + self._order_of(epoch)[: size - len(names)]
        return self._encoded.several(np.array(names))

    def _order_of(self, epoch: int) -> list[int]:
        """Return the indices of the training names in the order of an epoch. The order depends only on the
        seed and the epoch, so a checkpoint need not store a random generator."""
        if self._epoch != epoch:
            train, rng = self.documents.train, np.random.default_rng([self.schedule.seed, epoch])
            self._epoch, self._order = epoch, train[rng.permutation(len(train))].tolist()
        return self._order

    def check_finite(self) -> None:
        """Raise DivergedError if a parameter, a moment or a logit of the first training names is not finite.
        The loss would not show such a number before the next step."""
        first = next(self._passes(self.documents.train[:EVALUATION_BATCH]))
        if not all(np.isfinite(a).all() for a in (self.params.flat, self.adam.moments, first.logits)):
            raise DivergedError(f"step {self.done}: the model is not finite after the update")

    def held_out_loss(self) -> float | None:
        """Return the mean loss of the held-out names, or None if no name is held out. All names have the same
        weight in this mean."""
        return self._evaluated(self.documents.held_out)[0]

    def train_loss(self) -> float | None:
        """Return the mean loss of evenly spaced training names. The number of names equals the number of
        held-out names, but is at least 1,000 (or all names if there are fewer)."""
        train = self.documents.train
        count = min(max(len(self.documents.held_out), 1000), len(train))
        return self._evaluated(train[np.arange(count) * len(train) // count])[0]

    @np.errstate(all="ignore")
    def _evaluated(self, indices: Array) -> tuple[float | None, list[list[int]] | None]:
        """Return the mean loss of names, and for each layer the ReLU units that are zero in all names."""
        config, total = self.params.config, 0.0
        alive = np.zeros((config.n_layer, config.n_inner), bool)
        for done in self._passes(indices):
            losses = losses_of(done.logits, done.batch.targets.argmax(axis=1))
            begins = np.flatnonzero(done.batch.rows.positions == 0)
            total += float((np.add.reduceat(losses, begins) / np.diff(begins, append=len(losses))).sum())
            for layer, relu in enumerate(done.relus):  # [N, F]
                alive[layer] |= (relu != 0).any(axis=0)
        if not len(indices):
            return None, None
        return total / len(indices), [np.flatnonzero(~row).tolist() for row in alive]

    def _passes(self, indices: Array) -> Iterator[Pass]:
        for start in range(0, len(indices), EVALUATION_BATCH):
            batch = self._encoded.several(indices[start : start + EVALUATION_BATCH])
            with np.errstate(all="ignore"):
                done = forward(self.params, batch)
            yield done

    def held_out_loss_and_dead_units(self) -> tuple[float | None, list[list[int]] | None]:
        """Return `held_out_loss`, and for each layer the ReLU units that are zero at every position of every
        held-out name. Both are None if no name is held out."""
        return self._evaluated(self.documents.held_out)

    def _diagnosis(self, step: int, loss: float, batch: Batch) -> str:
        """Name the first event that is not finite, and the name in whose trace the event is."""
        begins = np.flatnonzero(batch.rows.positions == 0)
        for tokens in np.split(batch.tokens, begins[1:]):
            event = first_nonfinite(self.params, self.tokenizer, tokens)
            if event is not None:
                name = self.tokenizer.decode(tokens.tolist())
                where = f"the first event that is not finite is {event.name} in the trace of {name!r}"
                return f"step {step + 1}: the loss is {loss}; {where}"
        return f"step {step + 1}: the loss is {loss}, but each name of the batch is finite when run alone"


def first_nonfinite(params: Parameters, tokenizer: Tokenizer, tokens: Array) -> TraceEvent | None:
    """Return the first event of a forward pass that has a NaN or an infinity, or None."""
    events: list[TraceEvent] = []

    def look(event: TraceEvent, value: Array) -> None:
        if not events and not np.isfinite(value).all():
            events.append(event)

    model = Model(params, tokenizer, "this run")
    run = model.hooks.begin(after=[model.hooks.subscription(look)])
    with np.errstate(all="ignore"):
        model.run(model.read(tokens=tokens.tolist()), lambda numbers: run.tap("forward"), 1)
    return events[0] if events else None


def train(
    model: Model | None = None, *, steps: int = 5000, batch_size: int = 1, lr: float = 0.01, seed: int = 42,
    data: str | Path | None = None, on_step: Callable[[StepRecord], object] | None = None,
) -> Model:  # fmt: skip
    """Train a model on a file of names and return the trained model. Training starts from a copy of `model`,
    or from a new model with random parameters of `seed`. Training does not continue the training state of
    `model`. `on_step` is called with the record of every step. Warnings report lines of the data that do not
    fit the model. Raises DivergedError if the loss is not finite, and FileFormatError or InputError for bad
    input."""
    start = model or init(seed=seed)
    check_microgpt(start, "train")
    fresh = Model(start.params.copy(), start.tokenizer, start.origin)
    lines = read_lines(Path(data or default_data()))
    documents = Documents.fit(lines, start.tokenizer, start.config.block_size)
    for note in documents.notes:
        warnings.warn(note, stacklevel=2)
    trainer = Trainer(fresh, documents, Schedule(steps, batch_size, lr, seed))
    with one_blas_thread():
        for record in trainer.run():
            if on_step is not None:
                on_step(record)
    return trainer.model(f"trained for {counted(steps, 'step')}")
