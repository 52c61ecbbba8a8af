"""Write the log of a training run: a JSON record per step, and sometimes a trace of the watched name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ..arrays.stats import Array
from ..errors import InputError, RunError
from ..microgpt.training import StepRecord, Trainer
from ..plans.kinds import Softmax
from ..text.json_writing import dump
from ..tracing.trace import trace
from .log import LOG_SCHEMA, LogRecord, a_count, log_records

DIGITS = 6  # significant digits of attention weights
TOP = 5  # number of most likely tokens that are logged for a prediction


class LogError(RunError):
    """The log cannot be written."""


class TrainingLog:
    """The file of a log. A `with` statement opens and closes the file. The first record is "run". A step has
    a "step" record. A trace has the records "check" (for a failed check), "prediction", "attention" and
    "relu" (the units that are dead for all held-out names).

    The trace of step N has a forward and backward pass of the watched name with the parameters after step N.

    Training calls `sync` before saving a checkpoint. The log of a run to resume therefore has all records up
    to the checkpoint. Resuming drops later records, and `note` receives a sentence about the dropped records.
    """

    def __init__(
        self, path: Path, trainer: Trainer, watched: str, every: int | None, append: bool,
        note: Callable[[str], object] = lambda text: None, overwrite: bool = False,
    ) -> None:  # fmt: skip
        self.watched, self._path, self._trainer, self._every, self._note = watched, path, trainer, every, note
        self._mode = "a" if append else "w" if overwrite else "x"

    def __enter__(self) -> TrainingLog:
        if self._mode == "a" and self._path.exists():
            self._drop_later_steps()
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
            if error is None:  # an earlier error is more useful
                raise

    def sync(self) -> None:
        """Write all records so far to the disk. Raises LogError."""
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LogError(f"{self._path}: cannot write the log ({error.strerror})") from error

    def _drop_later_steps(self) -> None:
        """Drop the records after the checkpoint, because the resumed run writes these records again. Raises
        InputError without dropping a record if the log belongs to another run."""
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
            self._note(f"{path}: dropped {dropped:,} records of steps after {done:,}, which the run repeats")
        if last < done:
            self._note(f"{path} has no records of steps {last + 1:,} to {done:,}")

    def _refuse_another_run(self, record: LogRecord) -> None:
        """Raise InputError if a log belongs to another run. `record` is the log's first record. The run id
        and the config in a log must equal those of the run. An older log without run id must match the run in
        data, schedule and config."""
        trainer, logged = self._trainer, {**record.values, **record.part("model").values}
        identity: dict[str, Any] = {"run_id": trainer.run_id}
        if not logged.get("run_id"):
            identity = {"data": trainer.documents.fingerprint, "schedule": vars(trainer.schedule)}
        for key, value in {**identity, "config": asdict(trainer.params.config)}.items():
            if logged.get(key) != value:
                raise InputError(
                    f"--log {record.path}: expected the log of this run with {key} {value!s:.60}, "
                    f"found the log of another run with {key} {logged.get(key)!s:.60}"
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
        """Write the record of a step, and a trace if this step has one."""
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
        for check in result.checks:
            if check.holds is False:
                self._write("check", step=step, id=check.id, detail=check.detail)
        for prediction, target in zip(result.predictions, result.targets, strict=True):
            first = prediction.predicted
            self._write(
                "prediction", step=step, position=prediction.position, target=target.label, p=target.p,
                loss=prediction.loss, rank=prediction.rank, predicted=first and first.label,
                top=[[candidate.label, candidate.p] for candidate in prediction.top],
            )  # fmt: skip
        for name in weights:
            self._write("attention", step=step, name=name, weights=_rounded(result.arrays["forward", name]))
        _, dead = trainer.held_out_loss_and_dead_units()
        for layer in range(model.config.n_layer):
            units = None if dead is None else dead[layer]
            self._write("relu", step=step, layer=layer, units=model.config.n_inner, dead=units)

    def _write(self, record: str, **fields: Any) -> None:
        with self._writing():
            self._file.write(dump({"record": record, **fields}) + "\n")


def _rounded(weights: Array) -> list[list[list[float]]]:
    """Return attention weights [H, T, T] as lists without masked keys, with DIGITS significant digits."""
    return [
        [[float(f"{w:.{DIGITS}g}") for w in row[: n + 1]] for n, row in enumerate(head)]
        for head in weights.tolist()
    ]
