"""The log of a training run: a JSON record per step, and traces of one name now and then."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ..errors import InputError, RunError
from ..files import write_atomically

if TYPE_CHECKING:
    from ..training import StepRecord, Trainer

LOG_SCHEMA = "microgpt.log/1"


class TrainingLog:
    """Falsy and idle without a file. Records: "run" first, then "step", and "event" for traces.

    The events after step N are those of a trace of the watched name with the parameters that step
    left, forward and backward, and the update that the step made.
    """

    def __init__(
        self, path: Path | None, trainer: Trainer, watched: str, every: int | None, append: bool
    ) -> None:
        self.watched, self._path, self._trainer, self._every = watched, path, trainer, every
        self._append, self._file = append, None

    _file: IO[str] | None

    def __bool__(self) -> bool:
        return self._path is not None

    def __enter__(self) -> TrainingLog:
        if self._path is not None:
            if self._append and self._path.exists():
                self._forget_later_steps(self._path)
            try:
                self._file = self._path.open("a" if self._append else "w", encoding="utf-8")
            except OSError as error:
                raise RunError(f"{self._path}: cannot write the log ({error.strerror})") from error
            self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def _forget_later_steps(self, path: Path) -> None:
        """A run that was killed has logged more than it saved: what comes again is dropped."""
        kept = []
        try:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True)):
                record = json.loads(line)
                if number == 0 and record["schema"] != LOG_SCHEMA:
                    raise ValueError
                if record.get("step", record.get("start", 0)) <= self._trainer.done:
                    kept.append(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: expected the log of a training run to go on with") from error
        write_atomically(path, "".join(kept).encode())

    def _begin(self) -> None:
        trainer = self._trainer
        self._write(
            {
                "record": "run",
                "schema": LOG_SCHEMA,
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
        from ..microgpt_tracing import update_events
        from ..render.document import event_record
        from ..tracing import trace

        trainer = self._trainer
        result = trace(trainer.model("this run"), self.watched, values=False, backward=True)
        updates = update_events(trainer.adam, len(result.events)) if step else []
        for event in [*result.events, *updates]:
            self._write({"record": "event", "step": step, **event_record(event)})
        for check in result.checks:
            if check.holds is False:
                self._write({"record": "check", "step": step, "id": check.id, "detail": check.detail})
        for prediction, target in zip(result.predictions, result.targets, strict=True):
            self._write(
                {
                    "record": "prediction",
                    "step": step,
                    "position": prediction.position,
                    "target": target.label,
                    "p": target.p,
                    "loss": prediction.loss,
                }
            )

    def _write(self, record: dict[str, Any]) -> None:
        from ..render.document import dump

        assert self._file is not None
        try:
            self._file.write(dump(record) + "\n")
        except OSError as error:
            raise RunError(f"{self._path}: cannot write the log ({error.strerror})") from error
