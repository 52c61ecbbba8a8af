"""Read the log of `train --log --trace-every` as a Timeline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..microgpt.parameters import Config
from ..text.wording import counted
from . import curves
from .log import LogRecord, a_count, a_number, a_text, is_count, log_records, or_null, reader

a_number_or_null = or_null(a_number)
EARLIER = "not logged, because an earlier version wrote this log"


def read_timeline(path: Path) -> curves.Timeline:
    """Read a log line by line. Raises FileFormatError with the line if the file is not a log, and InputError
    if the log has no trace."""
    log, notes = _Reader(), list[str]()
    for record in log_records(path, notes):
        log.take(record)
    return log.timeline(path, notes)


def since_when(conditions: Mapping[int, bool]) -> int | None:
    """Return the first step from which on the condition is true, or None if it is false at the end."""
    return min(takewhile(conditions.__getitem__, sorted(conditions, reverse=True)), default=None)


class _Reader:
    """Collect values by kind, name and step of records, as in `_rows["position", 2][250]["p"]`."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, Any], dict[int, dict[str, Any]]] = {}
        self._losses: dict[int, float] = {}
        self._checks: list[curves.FailedCheck] = []
        self._runs: list[curves.RunStart] = []
        self._identity: tuple[Any, ...] = ()  # config, plan, watched name and data of the run
        self._steps: list[int] = []  # the traced steps

    def take(self, record: LogRecord) -> None:
        """Add a record. Ignore other kinds of records: an earlier version wrote "event" and "parameter", and
        a later version may write unknown kinds."""
        take = getattr(self, f"_take_{record.get('record', a_text)}", None)
        if take is not None:
            take(record)

    def _put(self, record: LogRecord, kind: str, name: Any, **values: Any) -> None:
        self._rows.setdefault((kind, name), {})[record.get("step", a_count)] = values

    def _take_run(self, record: LogRecord) -> None:
        start, schedule = record.get("start", a_count), record.part("schedule")
        steps, size, seed = (schedule.get(field, a_count) for field in ("steps", "batch_size", "seed"))
        plan = curves.TrainingPlan(steps, size, schedule.get("lr", a_number), seed)
        dimensions = record.part("model").part("config")
        try:
            config = Config(**dimensions.values)
        except (InputError, TypeError) as error:
            raise dimensions.error(f"{error!s:.200}") from error
        identity = (config, plan, record.get("watched", a_text), record.get("data", a_text))
        if self._runs and identity != self._identity:
            raise record.error("expected the run above to continue, found another model, schedule or data")
        self._identity = identity
        self._drop_after(start)
        self._runs.append(curves.RunStart(start, record.get("held_out_loss", a_number_or_null)))

    def _drop_after(self, start: int) -> None:
        """Drop the records after step `start`, at which the run was resumed to repeat the later steps."""
        by_step: tuple[dict[int, Any], ...] = (self._losses, *self._rows.values())
        for rows in by_step:
            for step in [step for step in rows if step > start]:
                del rows[step]
        self._checks = [check for check in self._checks if check.step <= start]
        self._runs = [run for run in self._runs if run.step < start]

    def _take_step(self, record: LogRecord) -> None:
        step = record.get("step", a_count)
        last = max(self._runs[-1].step, next(reversed(self._losses), 0))
        if step <= last:
            raise record.error(f"expected a step after {last:,}, found {step:,}")
        self._losses[step] = record.get("loss", a_number)

    def _take_prediction(self, record: LogRecord) -> None:
        facts: dict[str, Any] = {name: record.get(name, a_number_or_null) for name in ("p", "loss")}
        if "rank" in record.values:
            facts["rank"] = record.get("rank", or_null(a_count))
            facts["predicted"] = None if facts["rank"] is None else record.get("predicted", a_text)
        if "top" in record.values:
            facts["top"] = tuple(curves.LikelyToken(*pair) for pair in record.get("top", _labelled_numbers))
        target = record.get("target", a_text)
        self._put(record, "position", record.get("position", a_count), target=target, **facts)

    def _take_attention(self, record: LogRecord) -> None:
        weights = record.get("weights", _causal_weights(self._identity[0].n_head))
        name = record.get("name", a_text)
        earlier = self._rows.get(("attention", name), {}).values()
        if any(len(row["weights"][0]) != len(weights[0]) for row in earlier):
            raise record.error("weights: expected as many queries as in earlier traces")
        self._put(record, "attention", name, weights=weights)

    def _take_relu(self, record: LogRecord) -> None:
        units = record.get("units", a_count)
        dead = record.get("dead", or_null(_counts_below(units)))
        self._put(record, "relu", record.get("layer", a_count), units=units, dead=dead)

    def _take_check(self, record: LogRecord) -> None:
        identifier, detail = record.get("id", a_text), record.get("detail", a_text)
        self._checks.append(curves.FailedCheck(record.get("step", a_count), identifier, detail))

    def timeline(self, path: Path, notes: list[str]) -> curves.Timeline:
        """Return the timeline of all records."""
        self._steps = sorted({step for rows in self._rows.values() for step in rows})
        if not self._steps:
            steps = counted(len(self._losses), "training step")
            raise InputError(
                f"{path}: expected traces, found only {steps}; "
                "`microgpt train --log FILE.jsonl --trace-every 250` writes a log with traces"
            )
        config, plan, watched, _ = self._identity
        notes += [f"{path}: {text}" for text in (*self._cut_traces(), *self._gaps())]
        weights = ((name, self._curve("attention", name, "weights")) for name in self._names("attention"))
        return curves.Timeline(
            log=str(path),
            watched=watched,
            config=config,
            plan=plan,
            runs=tuple(self._runs),
            steps=tuple(self._steps),
            positions=tuple(self._position(p, watched) for p in sorted(self._names("position"))),
            attention=tuple(curves.AttentionCurve(*pair) for pair in weights),
            layers=tuple(self._layer(layer) for layer in sorted(self._names("relu"))),
            failed_checks=tuple(self._checks),
            loss=curves.LossCurve(tuple(self._losses), tuple(self._losses.values())),
            absent=tuple(self._absent()),
            notes=tuple(notes),
        )

    def _names(self, kind: str) -> list[Any]:
        return [name for (of, name), rows in self._rows.items() if of == kind and rows]

    def _curve(self, kind: str, name: Any, field: str) -> tuple[Any, ...]:
        """Return the curve of a field over the traced steps, with None at a step without a value."""
        by_step = self._rows[kind, name]
        return tuple(by_step.get(step, {}).get(field) for step in self._steps)

    def _position(self, position: int, watched: str) -> curves.PositionCurve:
        by_step = self._rows["position", position]
        fields = ("p", "loss", "rank", "predicted", "top")
        return curves.PositionCurve(
            position=position,
            seen=watched[:position] or "BOS",
            target=next(reversed(by_step.values()))["target"],
            **{field: self._curve("position", position, field) for field in fields},
            learned=since_when({step: row["rank"] == 1 for step, row in by_step.items() if "rank" in row}),
            halfway=_half_the_way({step: row["p"] for step, row in by_step.items()}),
        )

    def _layer(self, layer: int) -> curves.LayerUnits:
        by_step = self._rows["relu", layer]
        measured = {step: row["dead"] for step, row in sorted(by_step.items()) if row["dead"] is not None}
        counts = tuple(len(measured[step]) if step in measured else None for step in self._steps)
        dead, returned = list[curves.DeadUnit](), list[curves.ReturnedUnit]()
        for unit in sorted(frozenset().union(*measured.values())):
            last = max(step for step, units in measured.items() if unit in units)
            since = since_when({step: unit in units for step, units in measured.items() if step <= last})
            back = next((step for step in measured if step > last), None)
            assert since is not None  # not None, because the unit is dead at the step `last`
            if back is None:
                dead.append(curves.DeadUnit(unit, since))
            else:
                returned.append(curves.ReturnedUnit(unit, since, back))
        units = next(reversed(by_step.values()))["units"]
        return curves.LayerUnits(layer, units, counts, tuple(dead), tuple(returned))

    def _rows_of(self, kind: str) -> list[dict[str, Any]]:
        return [row for (of, _), rows in self._rows.items() if of == kind for row in rows.values()]

    def _absent(self) -> Iterator[str]:
        predictions, units = self._rows_of("position"), self._rows_of("relu")
        unranked = sum("rank" not in row for row in predictions)
        if not predictions:
            yield "predictions: not logged"
        elif unranked:
            yield f"the rank of the target in {unranked:,} of {len(predictions):,} predictions: {EARLIER}"
        if not self._names("attention"):
            yield f"attention weights: {EARLIER}"
        if not units:
            yield f"dead ReLU units: {EARLIER}"
        elif all(row["dead"] is None for row in units):
            yield "dead ReLU units: not measured, because no name is held out"

    def _cut_traces(self) -> Iterator[str]:
        """Yield a note for each trace that is incomplete, because the run stopped while writing the trace."""
        sizes = Counter(step for (kind, _), rows in self._rows.items() if kind == "position" for step in rows)
        most = max(sizes.values(), default=0)
        for step in self._steps:
            if sizes[step] < most:
                yield f"the trace of step {step:,} is incomplete"

    def _gaps(self) -> Iterator[str]:
        """Yield a note for each gap between the logged training steps."""
        for last, step in pairwise([self._runs[0].step, *self._losses]):
            if step > last + 1:
                yield f"steps {last + 1:,} to {step - 1:,} were not logged"


def _half_the_way(p: Mapping[int, float | None]) -> int | None:
    """Return the step from which P stays above the mean of the first and the last P, or None."""
    by_step = {step: value for step, value in sorted(p.items()) if value is not None}
    if not by_step:
        return None
    values = list(by_step.values())
    middle = (values[0] + values[-1]) / 2
    return since_when({step: value > middle for step, value in by_step.items()})


def _counts_below(most: int) -> Callable[[Any], frozenset[int]]:
    """Return a reader of a list of whole numbers below `most`."""

    def are_counts(value: Any) -> bool:
        return isinstance(value, list) and all(is_count(n) and n < most for n in value)

    return reader(f"whole numbers below {most:,}", are_counts, frozenset)


def _labelled_numbers(value: Any) -> list[tuple[str, float]]:
    """Read a list of pairs of a text and a number."""
    if not (isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)):
        raise ValueError("pairs of a text and a number")
    return [(a_text(label), a_number(number)) for label, number in value]


def _causal_weights(heads: int) -> Callable[[Any], curves.HeadWeights]:
    """Return a reader of causal attention weights [H][T][1..T]: row n of every head has n numbers."""

    def are_weights(value: Any) -> bool:
        planes = value if isinstance(value, list) and all(isinstance(p, list) for p in value) else [[]]
        rows = [row for plane in planes for row in enumerate(plane, 1)]
        same_size = len(planes) == heads and len({*map(len, planes)}) == 1 and len(rows) > 0
        return same_size and all(isinstance(row, list) and len(row) == n for n, row in rows)

    return reader(
        f"a list of rows of 1, 2, 3 and more numbers for each of {heads:,} heads", are_weights,
        lambda planes: tuple(tuple(tuple(map(a_number, row)) for row in plane) for plane in planes),
    )  # fmt: skip
