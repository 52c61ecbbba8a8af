"""Writing the log of a training run: a JSON record per step, and traces of one name now and then."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ..architecture.kinds import Softmax
from ..errors import InputError, RunError
from ..text.json_reading import from_json
from ..text.json_writing import dump
from ..tracing.event_record import event_record
from ..tracing.microgpt_tracing import update_events
from ..tracing.trace import trace
from .log import BEGINNING, LOG_SCHEMA, LONGEST

DIGITS = 6  # significant ones, of attention weights
TOP = 5  # tokens of a prediction

if TYPE_CHECKING:
    from ..arrays.stats import Array
    from ..microgpt.training import Adam, StepRecord, Trainer
    from ..tracing.result import Trace


class TrainingLog:
    """Falsy and idle without a file. Records: "run" first, then "step", and those of traces: "event",
    "check" (a failed one), "prediction", "attention", "parameter" and "relu".

    A trace after step N is one of the watched name with the parameters that step left, forward and
    backward, and the update that the step made. "relu" tells of all held-out names.

    A log that is gone on with begins with what the run had logged when its checkpoint was saved: `sync`
    comes before each save, and what was logged after it is dropped, which `note` is told.
    """

    def __init__(
        self, path: Path | None, trainer: Trainer, watched: str, every: int | None, append: bool,
        note: Callable[[str], object] = lambda text: None, overwrite: bool = False,
    ) -> None:  # fmt: skip
        self.watched, self._path, self._trainer, self._every = watched, path, trainer, every
        self._append, self._file, self._note = append, None, note
        self._mode = "a" if append else "w" if overwrite else "x"

    _file: IO[str] | None

    def __bool__(self) -> bool:
        return self._path is not None

    def __enter__(self) -> TrainingLog:
        if self._path is not None:
            if self._append and self._path.exists():
                self._forget_later_steps(self._path)
            with self._writing():
                self._file = self._path.resolve().open(self._mode, encoding="utf-8")
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            try:
                with self._writing():
                    self._file.close()
            except RunError:
                if error is None:  # else the same is under way already
                    raise

    def sync(self) -> None:
        """See to it that all records so far are on the disk. Raises RunError."""
        if self._file is not None:
            with self._writing():
                self._file.flush()
                os.fsync(self._file.fileno())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunError(f"{self._path}: cannot write the log ({error.strerror})") from error

    def _forget_later_steps(self, path: Path) -> None:
        """A run that was killed has logged more than it saved: what comes again is dropped. Nothing is
        where the log is another run's."""
        done, end, last, dropped = self._trainer.done, 0, 0, 0
        try:
            with path.open("rb") as file:
                while (line := file.readline(LONGEST)).endswith(b"\n"):  # else it was cut by a kill
                    record = from_json(line)
                    if not end:
                        self._refuse_another_run(path, record)
                    step = record.get("step", record.get("start", 0))
                    if step > done or dropped:
                        dropped += 1
                        continue
                    end, last = end + len(line), max(last, step)
                if not end and not BEGINNING.startswith(line[: len(BEGINNING)]):
                    raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: expected the log of a training run to go on with") from error
        with self._writing():
            os.truncate(path, end)
        if dropped:
            self._note(
                f"{path}: dropped {dropped:,} records of steps after {done:,}, which the run takes again"
            )
        if last < done:
            self._note(f"{path} has no records of steps {last + 1:,} to {done:,}")

    def _refuse_another_run(self, path: Path, record: dict[str, Any]) -> None:
        """The first record of a log names its run; an older one tells at least how it trained."""
        if record["schema"] != LOG_SCHEMA:
            raise ValueError
        own = self._identity()
        keys = ["run_id"] if record.get("run_id") else ["data", "schedule"]
        said = {key: record[key] for key in keys} | {"config": record["model"]["config"]}
        for key, value in said.items():
            if value != own[key]:
                raise InputError(
                    f"--log {path}: the log of another run, {key} {value!s:.60}; this one is {own[key]!s:.60}"
                )

    def _identity(self) -> dict[str, Any]:
        trainer = self._trainer
        return {
            "run_id": trainer.run_id,
            "data": trainer.documents.fingerprint,
            "schedule": vars(trainer.schedule),
            "config": asdict(trainer.params.config),
        }

    def _begin(self) -> None:
        trainer = self._trainer
        self._write(
            {
                "record": "run",
                "schema": LOG_SCHEMA,
                "run_id": trainer.run_id,
                "model": trainer.model("this run").describe(),
                "data": trainer.documents.fingerprint,
                "schedule": vars(trainer.schedule),
                "start": trainer.done,
                "watched": self.watched,
                "held_out_loss": trainer.held_out_loss(),
            }
        )
        if self._every and trainer.done == 0:
            self._add_trace(0)

    def add(self, record: StepRecord) -> None:
        """Write down a step, and a trace where one is due."""
        adam = self._trainer.adam
        self._write(
            {
                "record": "step",
                **record._asdict(),
                "gradient_norm": adam.gradient_norm(),
                "update_ratio": adam.update_ratio(),
            }
        )
        if self._every and record.step % self._every == 0:
            self._add_trace(record.step)

    def _add_trace(self, step: int) -> None:
        trainer = self._trainer
        model = trainer.model("this run")
        weights = [row.name for row in model.plan.of_kind(Softmax)]
        result = trace(model, self.watched, values=weights, top_k=TOP, backward=True)
        updates = update_events(trainer.adam, len(result.events)) if step else []
        for event in [*result.events, *updates]:
            self._write({"record": "event", "step": step, **event_record(event)})
        for check in result.checks:
            if check.holds is False:
                self._write({"record": "check", "step": step, "id": check.id, "detail": check.detail})
        self._add_predictions(step, result)
        for name in weights:
            self._add_attention(step, name, result.arrays["forward", name])
        self._add_parameters(step, result, trainer.adam)
        self._add_dead_units(step)

    def _add_predictions(self, step: int, result: Trace) -> None:
        for prediction, target in zip(result.predictions, result.targets, strict=True):
            self._write(
                {
                    "record": "prediction",
                    "step": step,
                    "position": prediction.position,
                    "target": target.label,
                    "p": target.p,
                    "loss": prediction.loss,
                    "rank": prediction.rank,
                    "predicted": prediction.predicted.label if prediction.predicted else None,
                    "top": [[candidate.label, candidate.p] for candidate in prediction.top],
                }
            )

    def _add_attention(self, step: int, name: str, weights: Array) -> None:
        """The weights of every head, of each query those of the keys that it sees, in DIGITS digits."""
        seen = [
            [[float(f"{w:.{DIGITS}g}") for w in row[: n + 1]] for n, row in enumerate(head)]
            for head in weights.tolist()
        ]
        self._write({"record": "attention", "step": step, "name": name, "weights": seen})

    def _add_parameters(self, step: int, result: Trace, adam: Adam) -> None:
        """`update_ratio` is |update| / |parameter before it|, as that of a "step" record."""
        ratios = adam.update_ratios() if step else {}
        for row in result.parameters:
            update_l2, update_ratio = ratios.get(row.name, (None, None))
            self._write(
                {
                    "record": "parameter",
                    "step": step,
                    "name": row.name,
                    "l2_norm": row.l2_norm,
                    "gradient_l2": row.gradient_l2,
                    "update_l2": update_l2,
                    "update_ratio": update_ratio,
                }
            )

    def _add_dead_units(self, step: int) -> None:
        """The ReLU units that are zero on all that is held out; null where nothing is."""
        trainer = self._trainer
        config, dead = trainer.params.config, trainer.dead_units()
        for layer in range(config.n_layer):
            units = None if dead is None else dead[layer]
            self._write(
                {"record": "relu", "step": step, "layer": layer, "units": config.n_inner, "dead": units}
            )

    def _write(self, record: dict[str, Any]) -> None:
        assert self._file is not None
        with self._writing():
            self._file.write(dump(record) + "\n")
