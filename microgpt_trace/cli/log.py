"""The log of a training run: a JSON record per step, and traces of one name now and then."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ..errors import FileFormatError, InputError, RunError
from ..files import write_atomically
from ..foreign_files import read_text
from ..json_text import from_json
from ..log_records import LOG_SCHEMA, log_records

if TYPE_CHECKING:
    from ..traces import Trace
    from ..training import Adam, StepRecord, Trainer

MAX_LOG = 1 << 30  # bytes of a log that is gone on with, which is held in memory


def watched_before(path: Path) -> str | None:
    """The name that a log which is gone on with watches; None where there is no such log."""
    try:
        record = next(log_records(path, []))
    except FileFormatError:
        return None
    watched = record.values.get("watched")
    return watched if isinstance(watched, str) else None


class TrainingLog:
    """Falsy and idle without a file. Records: "run" first, then "step", and those of traces: "event",
    "check" (a failed one), "prediction", "parameter" and "relu".

    A trace after step N is one of the watched name with the parameters that step left, forward and
    backward, and the update that the step made. "relu" tells of all held-out names.
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
            lines = read_text(path, "the log of a training run", MAX_LOG).splitlines(keepends=True)
            if len(lines) > 1 and not lines[-1].endswith("\n"):
                lines.pop()  # cut when the run was killed
            for number, line in enumerate(lines):
                record = from_json(line)
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
        self._add_predictions(step, result)
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
                }
            )

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
        from ..render.document import dump

        assert self._file is not None
        try:
            self._file.write(dump(record) + "\n")
        except OSError as error:
            raise RunError(f"{self._path}: cannot write the log ({error.strerror})") from error
