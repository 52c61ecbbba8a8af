"""Adam and the training loop. Yields a record per step; prints nothing and writes no file."""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays.logits import losses_of
from ..arrays.stats import Array
from ..arrays.threads import keep_freed_memory, one_blas_thread
from ..errors import DivergedError, InputError
from ..hooks.bus import SILENT, HookBus, Tap
from ..hooks.event import TraceEvent
from ..text.wording import counted
from .batch import Batch, Packer
from .documents import Documents, Encoded, default_data, read_lines
from .forward_backward import Pass, backward, event_specs, forward
from .model import Model, Schedule, TrainingState, check_microgpt, init
from .parameters import Parameters, aligned
from .tokenizer import Tokenizer

BETA1, BETA2, ADAM_EPS = 0.85, 0.99, 1e-8
EVALUATION_BATCH = 128


class Adam:
    """Adam over one flat vector, in eight NumPy calls a step.

    Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1. The two
    moments are kept without the factors (1 - beta), which the bias correction takes up together
    with them; so [g, g^2] is added to [m, v] in one call, and both decay in another.
    """

    def __init__(self, params: Parameters, moments: Array | None = None) -> None:
        size, dtype = params.flat.size, params.dtype
        self.params = params
        self.moments = aligned(np.zeros(2 * size, dtype) if moments is None else moments)
        self._m, self._v = self.moments[:size], self.moments[size:]
        self._sources = aligned(np.zeros(2 * size, dtype))  # the gradient and its square
        self._grad, self._square = self._sources[:size], self._sources[size:]
        self.grads = Parameters(params.config, self._grad)
        self.update = Parameters(params.config, aligned(np.zeros(size, dtype)))  # added in the last step
        self._decay = aligned(np.repeat(np.array([BETA1, BETA2], dtype), size))
        self._eps, self._rate = np.zeros((), dtype), np.zeros((), dtype)

    def step(self, number: int, lr: float, tap: Tap = SILENT) -> None:
        """Apply the gradients in `grads` as the `number`-th step, counted from 1."""
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
        """L2 norm of the last gradient."""
        return float(np.linalg.norm(self._grad))

    @np.errstate(all="ignore")  # NaN of parameters or updates that are infinite
    def update_ratio(self) -> float:
        """L2 norm of the last update over that of the parameters it was added to."""
        before = self.params.flat - self.update.flat
        return float(np.linalg.norm(self.update.flat) / np.linalg.norm(before))

    @np.errstate(all="ignore")
    def update_ratios(self) -> dict[str, tuple[float, float | None]]:
        """Of each parameter the L2 norm of its last update, and that over the norm it had before; None
        where it was zero."""
        found = {}
        for name, view in self.update.items():
            update, after = view.astype(np.float64), self.params[name].astype(np.float64)
            size, before = float(np.linalg.norm(update)), float(np.linalg.norm(after - update))
            found[name] = size, size / before if before else None
        return found


class StepRecord(NamedTuple):
    step: int  # counted from 1
    loss: float  # mean over the batch's names, before the step's update
    lr: float


class Trainer:
    """A training run that can stop after any step and go on from there bit for bit.

    It trains the model's own parameters, from where the model's training state stands.
    """

    def __init__(self, model: Model, documents: Documents, schedule: Schedule) -> None:
        if not len(documents.train):
            raise InputError("no name is left to train on")
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
        """The model as trained so far; its arrays are those of the run, not copies."""
        moments = self.adam.moments
        state = TrainingState(self.schedule, self.done, self.documents.fingerprint, moments, self.run_id)
        return Model(self.params, self.tokenizer, origin, state)

    def run(self) -> Iterator[StepRecord]:
        """Train to the last step of the schedule. Raises DivergedError at a loss that is not finite."""
        own = copy_context()  # what is ignored in a step is not ignored by who is told of it
        own.run(np.seterr, all="ignore")
        for step in range(self.done, self.schedule.steps):
            yield own.run(self._step, step)

    def _step(self, step: int) -> StepRecord:
        batch = self.batch(step)
        done = forward(self.params, batch)
        loss = float(done.loss)
        if not math.isfinite(loss):
            raise DivergedError(self._diagnosis(step, loss, batch))
        backward(self.params, done, self.adam.grads)
        del done  # its arrays serve the next step
        lr = self.schedule.lr_at(step)
        self.adam.step(step + 1, lr)
        self.done = step + 1
        return StepRecord(step + 1, loss, lr)

    def batch(self, step: int) -> Batch:
        """The names of a step, counted from 0: the next ones in the order of their epoch."""
        size = self.schedule.batch_size
        epoch, at = divmod(step * size, len(self.documents.train))
        if size == 1:
            return self._encoded.one(self._order_of(epoch)[at])
        names = self._order_of(epoch)[at : at + size]
        while len(names) < size:  # the rest is from the epochs after it
            epoch += 1
            names = names + self._order_of(epoch)[: size - len(names)]
        return self._encoded.several(np.array(names))

    def _order_of(self, epoch: int) -> list[int]:
        """The training names in an order that depends on nothing but the seed and the epoch, so that
        a resumed run finds its place without a stored generator."""
        if self._epoch != epoch:
            train, rng = self.documents.train, np.random.default_rng([self.schedule.seed, epoch])
            self._epoch, self._order = epoch, train[rng.permutation(len(train))].tolist()
        return self._order

    def check_finite(self) -> None:
        """Raise DivergedError where the last update left parameters, moments or predictions of the
        training set's first names that are not finite: the loss shows it a step later at the earliest."""
        finite = np.isfinite(self.params.flat).all() and np.isfinite(self.adam.moments).all()
        first = self._passes(self.documents.train[:EVALUATION_BATCH])
        if not (finite and np.isfinite(next(first).logits).all()):
            raise DivergedError(f"step {self.done}: the update left a model that is not finite")

    def held_out_loss(self) -> float | None:
        """Mean over the held-out names of the mean cross-entropy over their positions."""
        return self._mean_loss(self.documents.held_out)

    def train_loss(self) -> float | None:
        """The same over as many names spread evenly over the training set, at least 1,000 if it has them."""
        train = self.documents.train
        count = min(max(len(self.documents.held_out), 1000), len(train))
        return self._mean_loss(train[np.arange(count) * len(train) // count])

    @np.errstate(all="ignore")
    def _mean_loss(self, indices: Array) -> float | None:
        total = 0.0
        for done in self._passes(indices):
            losses = losses_of(done.logits, done.batch.targets.argmax(axis=1))
            total += sum(float(losses[g.rows].sum()) / g.length for g in done.batch.rows.groups)
        return total / len(indices) if len(indices) else None

    def _passes(self, indices: Array) -> Iterator[Pass]:
        """Forward passes over some names, a batch at a time."""
        for start in range(0, len(indices), EVALUATION_BATCH):
            batch = self._encoded.several(indices[start : start + EVALUATION_BATCH])
            with np.errstate(all="ignore"):
                done = forward(self.params, batch)
            yield done

    def dead_units(self) -> list[list[int]] | None:
        """Of each layer the ReLU units that are zero at every position of every held-out name; None
        where no name is held out."""
        if not len(self.documents.held_out):
            return None
        config = self.params.config
        alive = np.zeros((config.n_layer, config.n_inner), bool)
        for done in self._passes(self.documents.held_out):
            for layer, relu in enumerate(done.relus):  # [N, F]
                alive[layer] |= (relu != 0).any(axis=0)
        return [np.flatnonzero(~row).tolist() for row in alive]

    def _diagnosis(self, step: int, loss: float, batch: Batch) -> str:
        """Which event of which name first holds a number that is not finite."""
        begins = np.flatnonzero(batch.rows.positions == 0)
        for tokens in np.split(batch.tokens, begins[1:]):
            event = first_nonfinite(self.params, self.tokenizer, tokens)
            if event is not None:
                name = self.tokenizer.decode(tokens.tolist())
                where = f"the first event that is not finite is {event.name}, tracing {name!r}"
                return f"step {step + 1}: the loss is {loss}; {where}"
        return f"step {step + 1}: the loss is {loss}, though every name of the batch alone is finite"


def first_nonfinite(params: Parameters, tokenizer: Tokenizer, tokens: Array) -> TraceEvent | None:
    """The first event of a forward pass that holds a NaN or an infinity."""
    found: list[TraceEvent] = []

    def look(event: TraceEvent, value: Array) -> None:
        if not found and not np.isfinite(value).all():
            found.append(event)

    bus = HookBus(event_specs(params.config))
    ids = np.append(tokens, tokenizer.bos_id)
    with bus.subscribe(look):
        forward(params, Packer(params.config, params.dtype).one(ids), bus.begin().tap("forward"))
    return found[0] if found else None


def train(
    model: Model | None = None,
    *,
    steps: int = 5000,
    batch_size: int = 1,
    lr: float = 0.01,
    seed: int = 42,
    data: str | Path | None = None,
    on_step: Callable[[StepRecord], object] | None = None,
) -> Model:
    """Train a model (a new one of `seed` without any) on a file of names and return it.

    The given model is not changed; its parameters are where the run starts, with a schedule and
    moments of its own. `on_step` is called with the record of every step. Lines of the data that do
    not fit are told of in a warning. Raises DivergedError where the loss is not finite, and
    FileFormatError or InputError for bad input.
    """
    start = model or init(seed=seed)
    check_microgpt(start, "train")
    fresh = Model(start.params.copy(), start.tokenizer, start.origin)
    documents = Documents.fit(
        read_lines(Path(data or default_data())), start.tokenizer, start.config.block_size
    )
    for note in documents.notes:
        warnings.warn(note, stacklevel=2)
    trainer = Trainer(fresh, documents, Schedule(steps, batch_size, lr, seed))
    with one_blas_thread():
        for record in trainer.run():
            if on_step is not None:
                on_step(record)
    return trainer.model(f"trained for {counted(steps, 'step')}")
