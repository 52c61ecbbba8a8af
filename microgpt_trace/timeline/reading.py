"""The log of `train --log --trace-every` as a Timeline: which records make which curve. Trains nothing
and knows no screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..hooks.event import PHASES
from ..microgpt.parameters import Config
from ..text.wording import counted
from .curves import (
    AttentionCurve,
    DeadUnit,
    EventCurve,
    FailedCheck,
    LayerUnits,
    LikelyToken,
    LossCurve,
    ParameterCurve,
    PositionCurve,
    ReturnedUnit,
    RunStart,
    Timeline,
    TrainingPlan,
)
from .log import LogRecord, log_records

EARLIER = "not logged; the log is of an earlier version"


def read_timeline(path: Path) -> Timeline:
    """Read a log line by line. Raises FileFormatError, naming the line, where it is no log, and InputError
    where no trace is in it."""
    story, notes = _Story(), list[str]()
    for record in log_records(path, notes):
        story.take(record)
    return story.told(path, notes)


def since_when(logged: Mapping[int, bool]) -> int | None:
    """The first step from which on it holds at every logged one to the last."""
    since = None
    for step in sorted(logged, reverse=True):
        if not logged[step]:
            break
        since = step
    return since


class _Story:
    """What the records say, by kind, by name and by step: `_facts["forward", "logits", "l2"][250]`."""

    def __init__(self) -> None:
        self._facts: dict[tuple[str, Any, str], dict[int, Any]] = {}
        self._losses: dict[int, float] = {}
        self._checks: list[FailedCheck] = []
        self._runs: list[RunStart] = []
        self._said: tuple[Any, ...] = ()  # of model, data and schedule, by the first run
        self._targets: dict[int, str] = {}
        self._units: dict[int, int] = {}
        self._takers = {
            "run": self._take_run,
            "step": self._take_step,
            "event": self._take_event,
            "prediction": self._take_prediction,
            "attention": self._take_attention,
            "parameter": self._take_parameter,
            "relu": self._take_relu,
            "check": self._take_check,
        }

    def take(self, record: LogRecord) -> None:
        """Add a record. Kinds that a later version may write are passed over."""
        take = self._takers.get(record.text("record"))
        if take is not None:
            take(record)

    def _put(self, record: LogRecord, kind: str, name: Any, **values: Any) -> None:
        step = record.count("step")
        for field, value in values.items():
            self._facts.setdefault((kind, name, field), {})[step] = value

    def _take_run(self, record: LogRecord) -> None:
        start, schedule = record.count("start"), record.part("schedule")
        plan = TrainingPlan(
            schedule.count("steps"), schedule.count("batch_size"), schedule.real("lr"), schedule.count("seed")
        )
        dimensions = record.part("model").part("config")
        config = dimensions.checked(lambda: Config(**dimensions.values))
        said = (config, plan, record.text("watched"), record.text("data"))
        if self._runs and said != self._said:
            raise record.error("expected the run above to go on, found another model, schedule or data")
        self._said = said
        self._forget_after(start)
        self._runs.append(RunStart(start, record.number("held_out_loss")))

    def _forget_after(self, start: int) -> None:
        """What a run that went on did again counts once."""
        for curve in (self._losses, *self._facts.values()):
            for step in [step for step in curve if step > start]:
                del curve[step]
        self._checks = [check for check in self._checks if check.step <= start]
        self._runs = [run for run in self._runs if run.step < start]

    def _take_step(self, record: LogRecord) -> None:
        step, last = record.count("step"), max(self._runs[-1].step, next(reversed(self._losses), 0))
        if step <= last:
            raise record.error(f"expected a step after {last:,}, found {step:,}")
        self._losses[step] = record.real("loss")

    def _take_event(self, record: LogRecord) -> None:
        phase, stats = record.choice("phase", PHASES), record.part("stats")
        count, zeros = stats.count("count"), stats.count("zero_count")
        self._put(
            record, phase, record.text("name"), l2=stats.number("l2_norm"),
            zeros=zeros / count if count else None,
            nonfinite=stats.count("nan_count") + stats.count("inf_count"),
        )  # fmt: skip

    def _take_prediction(self, record: LogRecord) -> None:
        position = record.count("position")
        self._targets[position] = record.text("target")
        self._put(record, "position", position, p=record.number("p"), loss=record.number("loss"))
        if "rank" in record.values:
            rank = None if record.values["rank"] is None else record.count("rank")
            label = None if rank is None else record.text("predicted")
            self._put(record, "position", position, rank=rank, predicted=label)
        if "top" in record.values:
            top = tuple(LikelyToken(label, p) for label, p in record.labelled("top"))
            self._put(record, "position", position, top=top)

    def _take_attention(self, record: LogRecord) -> None:
        weights = record.causal_weights("weights", self._said[0].n_head)
        name = record.text("name")
        if any(
            len(known[0]) != len(weights[0]) for known in self._logged("attention", name, "seen").values()
        ):
            raise record.error("weights: expected as many queries as in the traces before")
        self._put(record, "attention", name, seen=weights)

    def _take_parameter(self, record: LogRecord) -> None:
        self._put(
            record, "parameter", record.text("name"), l2=record.number("l2_norm"),
            gradient=record.number("gradient_l2"), update=record.number("update_l2"),
            update_ratio=record.number("update_ratio"),
        )  # fmt: skip

    def _take_relu(self, record: LogRecord) -> None:
        layer, units = record.count("layer"), record.count("units")
        self._units[layer] = units
        silent = "dead" in record.values and record.values["dead"] is None
        dead = None if silent else frozenset(record.counts("dead", units))
        self._put(record, "relu", layer, dead=dead)

    def _take_check(self, record: LogRecord) -> None:
        self._checks.append(FailedCheck(record.count("step"), record.text("id"), record.text("detail")))

    def told(self, path: Path, notes: list[str]) -> Timeline:
        """The timeline of all records taken."""
        traced = sorted({step for curve in self._facts.values() for step in curve})
        if not traced:
            steps = counted(len(self._losses), "training step")
            raise InputError(
                f"{path}: holds {steps} and no trace; `microgpt train --log FILE.jsonl --trace-every 250` "
                "writes a log with traces"
            )
        config, plan, watched, _ = self._said
        notes += [f"{path}: {text}" for text in (*self._cut_traces(traced), *self._gaps())]
        return Timeline(
            log=str(path),
            watched=watched,
            config=config,
            plan=plan,
            runs=tuple(self._runs),
            steps=tuple(traced),
            positions=tuple(self._position(p, watched, traced) for p in sorted(self._targets)),
            attention=tuple(self._attention(name, traced) for name in self._names("attention")),
            layers=tuple(self._layer(layer, traced) for layer in sorted(self._units)),
            events=tuple(self._event(name, traced) for name in self._names("forward")),
            parameters=tuple(self._parameter(name, traced) for name in self._parameter_names()),
            failed_checks=tuple(self._checks),
            loss=LossCurve(tuple(self._losses), tuple(self._losses.values())),
            absent=tuple(self._absent()),
            notes=tuple(notes),
        )

    def _names(self, kind: str) -> list[Any]:
        return list(dict.fromkeys(name for of, name, _ in self._facts if of == kind))

    def _parameter_names(self) -> list[str]:
        """Those of parameter records; a log without them has gradients and updates of parameters."""
        activations = set(self._names("forward"))
        names = [*self._names("parameter"), *self._names("update"), *self._names("backward")]
        return [name for name in dict.fromkeys(names) if name not in activations]

    def _logged(self, kind: str, name: Any, field: str) -> dict[int, Any]:
        return self._facts.get((kind, name, field), {})

    def _event(self, name: str, steps: Sequence[int]) -> EventCurve:
        l2, zeros, nonfinite = (self._logged("forward", name, f) for f in ("l2", "zeros", "nonfinite"))
        gradient = self._logged("backward", name, "l2")
        return EventCurve(name, *(_course(c, steps) for c in (l2, zeros, nonfinite, gradient)))

    def _parameter(self, name: str, steps: Sequence[int]) -> ParameterCurve:
        said = {f: self._logged("parameter", name, f) for f in ("l2", "gradient", "update", "update_ratio")}
        said["gradient"] = self._logged("backward", name, "l2") | said["gradient"]
        said["update"] = self._logged("update", name, "l2") | said["update"]
        return ParameterCurve(name, *(_course(curve, steps) for curve in said.values()))

    def _position(self, position: int, watched: str, steps: Sequence[int]) -> PositionCurve:
        fields = ("p", "loss", "rank", "predicted")
        p, loss, rank, predicted = (self._logged("position", position, field) for field in fields)
        return PositionCurve(
            position=position,
            seen=watched[:position] or "BOS",
            target=self._targets[position],
            p=_course(p, steps),
            loss=_course(loss, steps),
            rank=_course(rank, steps),
            predicted=_course(predicted, steps),
            top=_course(self._logged("position", position, "top"), steps),
            learned=since_when({step: value == 1 for step, value in rank.items()}),
            halfway=_half_the_way(p),
        )

    def _attention(self, name: str, steps: Sequence[int]) -> AttentionCurve:
        return AttentionCurve(name, _course(self._logged("attention", name, "seen"), steps))

    def _layer(self, layer: int, steps: Sequence[int]) -> LayerUnits:
        logged = self._logged("relu", layer, "dead")
        measured = {step: logged[step] for step in sorted(logged) if logged[step] is not None}
        counts = _course({step: len(dead) for step, dead in measured.items()}, steps)
        dead, returned = list[DeadUnit](), list[ReturnedUnit]()
        for unit in sorted(frozenset().union(*measured.values())):
            last = max(step for step, units in measured.items() if unit in units)
            since = since_when({step: unit in units for step, units in measured.items() if step <= last})
            back = next((step for step in measured if step > last), None)
            assert since is not None  # it is dead at `last`
            if back is None:
                dead.append(DeadUnit(unit, since))
            else:
                returned.append(ReturnedUnit(unit, since, back))
        return LayerUnits(layer, self._units[layer], counts, tuple(dead), tuple(returned))

    def _absent(self) -> Iterator[str]:
        ranks = sum(len(self._logged("position", p, "rank")) for p in self._targets)
        predictions = sum(len(self._logged("position", p, "p")) for p in self._targets)
        if not predictions:
            yield "predictions: not logged"
        elif ranks < predictions:
            yield f"the target's rank, in {predictions - ranks:,} of {predictions:,} predictions: {EARLIER}"
        if not self._names("attention"):
            yield f"attention weights: {EARLIER}"
        if not self._names("parameter"):
            yield f"L2 of the parameters and update/weight: {EARLIER}"
        if not self._units:
            yield f"dead ReLU units: {EARLIER}"
        elif all(d is None for layer in self._units for d in self._logged("relu", layer, "dead").values()):
            yield "dead ReLU units: not measured, for no name is held out"

    def _cut_traces(self, traced: Sequence[int]) -> Iterator[str]:
        """Traces that hold less than the others: the run was stopped while they were written."""
        kinds = (("forward", "l2"), ("backward", "l2"), ("position", "p"))
        sizes = dict.fromkeys(traced, 0)
        for (kind, _, field), curve in self._facts.items():
            if (kind, field) in kinds:
                for step in curve:
                    sizes[step] += 1
        for step, size in sizes.items():
            if size < max(sizes.values()):
                yield f"the trace of step {step:,} is incomplete"

    def _gaps(self) -> Iterator[str]:
        """Training steps between others that the log lacks."""
        last = self._runs[0].step
        for step in self._losses:
            if step > last + 1:
                yield f"steps {last + 1:,} to {step - 1:,} were not logged"
            last = step


def _course(logged: Mapping[int, Any], steps: Sequence[int]) -> tuple[Any, ...]:
    return tuple(logged.get(step) for step in steps)


def _half_the_way(p: Mapping[int, float | None]) -> int | None:
    """From which step on P stays above the middle of its first and last value; None where it did not rise."""
    known = {step: value for step, value in sorted(p.items()) if value is not None}
    if not known:
        return None
    values = list(known.values())
    middle = (values[0] + values[-1]) / 2
    return since_when({step: value > middle for step, value in known.items()})
