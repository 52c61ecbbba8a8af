"""Writing the log of a training run: a JSON record per step, and traces of one name now and then."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ..architecture.plans.kinds import Softmax
from ..errors import InputError, RunError
from ..text.json_writing import dump
from ..tracing.collector import event_record
from ..tracing.microgpt_tracing import update_events
from ..tracing.trace import trace
from .log import LOG_SCHEMA, LogRecord, a_count, log_records

DIGITS = 6  # significant ones, of attention weights
TOP = 5  # tokens of a prediction

if TYPE_CHECKING:
    from ..arrays.stats import Array
    from ..microgpt.training import Adam, StepRecord, Trainer
    from ..tracing.result import Trace


class LogError(RunError):
    """The log cannot be written."""


class TrainingLog:
    """The file of a log, open within `with`. Records: "run" first, then "step", and those of traces: "event",
    "check" (a failed one), "prediction", "attention", "parameter" and "relu", which tells of all held-out
    names.

    A trace after step N is one of the watched name with the parameters that step left, forward and
    backward, and the update that the step made.

    A log that is gone on with begins with what the run had logged when its checkpoint was saved: `sync`
    comes before each save, and what was logged after it is dropped, which `note` is told.
    """

    def __init__(
        self, path: Path, trainer: Trainer, watched: str, every: int | None, append: bool,
        note: Callable[[str], object] = lambda text: None, overwrite: bool = False,
    ) -> None:  # fmt: skip
        self.watched, self._path, self._trainer, self._every = watched, path, trainer, every
        self._append, self._note = append, note
        self._mode = "a" if append else "w" if overwrite else "x"

    def __enter__(self) -> TrainingLog:
        if self._append and self._path.exists():
            self._forget_later_steps()
        with self._writing():
            self._file: IO[str] = self._path.resolve().open(self._mode, encoding="utf-8")
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._writing():
                self._file.close()
        except LogError:
            if error is None:  # else the same is under way already
                raise

    def sync(self) -> None:
        """See to it that all records so far are on the disk. Raises LogError."""
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LogError(f"{self._path}: cannot write the log ({error.strerror})") from error

    def _forget_later_steps(self) -> None:
        """A run that was killed has logged more than it saved: what comes again is dropped. Nothing is
        where the log is another run's."""
        path, done, end, last, dropped = self._path, self._trainer.done, 0, 0, 0
        for record in log_records(path, []):
            if not end:
                self._refuse_another_run(record)
            step = record.get("step" if "step" in record.values else "start", a_count)
            if step > done or dropped:
                dropped += 1
            else:
                end, last = record.end, max(last, step)
        with self._writing():
            os.truncate(path, end)
        if dropped:
            self._note(
                f"{path}: dropped {dropped:,} records of steps after {done:,}, which the run takes again"
            )
        if last < done:
            self._note(f"{path} has no records of steps {last + 1:,} to {done:,}")

    def _refuse_another_run(self, record: LogRecord) -> None:
        """The first record of a log names its run; an older one tells at least how it trained."""
        trainer, values = self._trainer, record.values
        config = asdict(trainer.params.config), record.part("model").values.get("config")
        identity = {"run_id": (trainer.run_id, values.get("run_id")), "config": config}
        if not values.get("run_id"):
            fingerprint, schedule = trainer.documents.fingerprint, vars(trainer.schedule)
            said = {"data": (fingerprint, values.get("data")), "schedule": (schedule, values.get("schedule"))}
            identity = said | {"config": config}
        for key, (own, found) in identity.items():
            if own != found:
                raise InputError(
                    f"--log {record.path}: the log of another run, {key} {found!s:.60}; this one is "
                    f"{own!s:.60}"
                )

    def _begin(self) -> None:
        trainer = self._trainer
        self._write(
            "run", schema=LOG_SCHEMA, run_id=trainer.run_id, model=trainer.model("this run").describe(),
            data=trainer.documents.fingerprint, schedule=vars(trainer.schedule), start=trainer.done,
            watched=self.watched, held_out_loss=trainer.held_out_loss(),
        )  # fmt: skip
        if self._every and trainer.done == 0:
            self._add_trace(0)

    def add(self, record: StepRecord) -> None:
        """Write down a step, and a trace where one is due."""
        adam = self._trainer.adam
        norm, ratio = adam.gradient_norm(), adam.update_ratio()
        self._write("step", **record._asdict(), gradient_norm=norm, update_ratio=ratio)
        if self._every and record.step % self._every == 0:
            self._add_trace(record.step)

    def _add_trace(self, step: int) -> None:
        trainer = self._trainer
        model = trainer.model("this run")
        weights = [row.name for row in model.plan.of_kind(Softmax)]
        result = trace(model, self.watched, values=weights, top_k=TOP, backward=True)
        updates = update_events(trainer.adam, len(result.events)) if step else []
        for event in [*result.events, *updates]:
            self._write("event", step=step, **event_record(event))
        for check in result.checks:
            if check.holds is False:
                self._write("check", step=step, id=check.id, detail=check.detail)
        self._add_predictions(step, result)
        for name in weights:
            seen = _in_digits(result.arrays["forward", name])
            self._write("attention", step=step, name=name, weights=seen)
        self._add_parameters(step, result, trainer.adam)
        dead = trainer.dead_units()
        for layer in range(model.config.n_layer):
            units = None if dead is None else dead[layer]
            self._write("relu", step=step, layer=layer, units=model.config.n_inner, dead=units)

    def _add_predictions(self, step: int, result: Trace) -> None:
        for found, target in zip(result.predictions, result.targets, strict=True):
            self._write(
                "prediction", step=step, position=found.position, target=target.label, p=target.p,
                loss=found.loss, rank=found.rank, predicted=found.predicted and found.predicted.label,
                top=[[candidate.label, candidate.p] for candidate in found.top],
            )  # fmt: skip

    def _add_parameters(self, step: int, result: Trace, adam: Adam) -> None:
        """`update_ratio` is |update| / |parameter before it|, as that of a "step" record."""
        ratios = adam.update_ratios() if step else {}
        for row in result.parameters:
            update_l2, update_ratio = ratios.get(row.name, (None, None))
            self._write(
                "parameter", step=step, name=row.name, l2_norm=row.l2_norm, gradient_l2=row.gradient_l2,
                update_l2=update_l2, update_ratio=update_ratio,
            )  # fmt: skip

    def _write(self, record: str, **fields: Any) -> None:
        with self._writing():
            self._file.write(dump({"record": record, **fields}) + "\n")


def _in_digits(weights: Array) -> list[list[list[float]]]:
    """The weights of every head, of each query those of the keys that it sees, in DIGITS digits."""
    return [
        [[float(f"{w:.{DIGITS}g}") for w in row[: n + 1]] for n, row in enumerate(head)]
        for head in weights.tolist()
    ]
