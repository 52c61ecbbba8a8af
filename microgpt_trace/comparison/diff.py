"""Compare two runs event by event, and find the first event that differs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.threads import one_blas_thread
from ..decoder.catalogue import kind_named
from ..dumps.recording import Recording
from ..errors import InputError
from ..hooks.event import EventSpec
from ..hooks.names import select_names
from ..interpreter.event_stream import Piece
from ..models.language_model import LanguageModel
from ..plans.kinds import Choice, Scores
from ..progress import Report, unreported
from ..rounding.bands import ENOUGH, PASSES, Bands, RoundedPasses, Tolerance, tolerance_of
from ..rounding.judging import JudgedRun, OperationResult, unseen
from ..rounding.offers import Offer, offered
from ..rounding.precision import PERTURBED, PRECISIONS, Precision, precision_named, precision_of
from ..selection.token_names import chosen_positions
from .compared_runs import ComparedRun, ModelRun, RecordedRun, Unpaired, first_model
from .comparers import RowComparer, StatisticsComparer
from .differences import (
    GIVEN,
    RECORDED_EXPERTS,
    Comparison,
    EventDifference,
    RoutingFlip,
    SideSummary,
    jump_of,
)
from .own_names import where_apart
from .pairing import event_specs_of, labels_of, paired_names, prepare_sides
from .routing_comparer import consequences, explained, following

if TYPE_CHECKING:
    from ..naming.user_map import NameMap

Watch = Callable[[Sequence[Piece | None], Callable[[str], EventDifference]], None]
Source = str | Path | LanguageModel | Recording
# Float32 rounding does not explain a larger difference of a row. If a sum of 3e6 cancels to a row of size 1,
# the difference is 0.05.
AMPLIFIED_MOST = 0.05


def diff(
    a: Source, b: Source, text: str | None = None, *, tokens: Sequence[int] | None = None,
    names: Sequence[str] = (), map: NameMap | None = None, layouts: Mapping[str, str] | None = None,
    compute: str | None = None, calibrate: Source | None = None, factor: float | None = None,
    rtol: float | None = None, atol: float | None = None, positions: str | Sequence[int] = "all",
    report: Report = unreported, watch: Watch | None = None,
) -> Comparison:  # fmt: skip
    """Compare two runs. A run is a recording, a model that runs on the text or tokens, or the path of a
    recording or model.

    `names` selects events by globs or by stages of apr. `map` assigns tensors of a dump to events, and
    `layouts` names the layouts of these tensors. `positions` selects the positions that the view by position
    shows.

    An event agrees if its distance lies within its band. `compute` ("f32", "bf16", "f16", "q8") is the
    precision of an engine. If `compute` is None, the precision of a dump is recognised from its values, as in
    `diagnose`; other comparisons use float32. In float32, the band is float32 rounding. In other precisions,
    the band is `factor` times the largest distance between our own pass and several passes rounded to this
    precision. `calibrate` is a third run. The band is then `factor` times the distance between the third run
    and `a`. `rtol` sets the band of a row, `atol` the band of an element.

    `report(done, of)` is called with the number of compared events and of all events. `watch` is called with
    the values of each event, and with a function that returns the current difference of an event. Raises
    InputError if the two runs cannot be compared.
    """
    options = {"compute": compute, "calibrate": calibrate, "rtol or atol": rtol if atol is None else atol}
    bands = [option for option, value in options.items() if value is not None]
    if len(bands) > 1:
        raise InputError(f"{' and '.join(bands)} cannot be combined: each sets the band")
    for option, value in (("rtol", rtol), ("atol", atol), ("factor", factor)):
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{option}: expected a number of at least 0, found {value}")
    if factor is not None and compute is None and calibrate is None:
        raise InputError("factor multiplies the band that compute or calibrate measures: give one of them")
    sources = [a, b] if calibrate is None else [a, b, calibrate]
    sides = prepare_sides(sources, text, tokens, map, layouts or {})
    origin = sides[2].origin if calibrate is not None else None
    with one_blas_thread(), np.errstate(all="ignore"):
        precision = _precision(sides, compute) if compute or not bands else PRECISIONS["f32"]
        passes = _rounded_passes(sides, precision) if precision.coarse else None
        measured, count = (precision, passes.count if passes else 0) if precision.coarse else (None, PASSES)
        tolerance = tolerance_of(measured, origin, factor, rtol, atol, count)
        result = compare(sides, names, tolerance, passes, positions, report, watch, judge=factor is None)
        return result if bands or passes else replace(result, offer=_offer(sides, result.first))


def compare(
    sides: Sequence[ComparedRun], names: Sequence[str], tolerance: Tolerance, passes: RoundedPasses | None,
    positions: str | Sequence[int] = "all", report: Report = unreported, watch: Watch | None = None,
    judge: bool = True,
) -> Comparison:  # fmt: skip
    """Compare two prepared sides. A third side or rounded `passes`, if any, determine the band. With `judge`,
    also test each operation on its recorded inputs. Raises InputError if no event can be compared.

    In float32, the passes that measure the band run only if a difference exceeds the band without passes.
    """
    found = _compared(sides, names, tolerance, passes, positions, report, watch, judge)
    model, first = first_model(sides), found.event(found.first) if found.first else None
    if first is None or model is None or tolerance.kind != "float32" or GIVEN in first.measured:
        return found
    if not first.relative <= AMPLIFIED_MOST:
        return found
    passes = RoundedPasses(model.model, model.inputs, PERTURBED)
    tolerance = tolerance_of(passes.compute, passes=passes.count)
    return _compared(sides, names, tolerance, passes, positions, judge=judge)


def _compared(
    sides: Sequence[ComparedRun], names: Sequence[str], tolerance: Tolerance, passes: RoundedPasses | None,
    positions: str | Sequence[int] = "all", report: Report = unreported, watch: Watch | None = None,
    judge: bool = True,
) -> Comparison:  # fmt: skip
    """Compare two prepared sides once, with one kind of band."""
    a, b, *third = sides
    specs, model = event_specs_of(sides), first_model(sides)
    dump = _first_dump(sides)
    paired = paired_names(a, b, specs)
    with_band = [name for name in paired if all(name in side.names for side in third)]
    lacking = [name for name in paired if name not in with_band]
    a.unpaired += [Unpaired(name, f"not in {third[0].origin}, which sets the band") for name in lacking]
    recorded = {name for side in (a, b) if isinstance(side, RecordedRun) for name in side.names}
    usual = [name for name in with_band if not specs[name].extra or name in recorded]
    chosen = select_names(names, with_band) if names else usual
    if not chosen:
        raise InputError(f"{third[0].origin}, which sets the band, contains none of the events to compare")
    comparer = _comparer(sides, specs, tolerance, passes)
    by_bands = _by_bands(comparer, sides, chosen, passes, report, watch)
    flips = _flips(comparer)
    excused, alike, remaining = explained(by_bands, flips), by_bands, flips
    run = _judged_run(model, dump) if model and dump and not third else None
    if run and model and not all(event.holds for event in by_bands):
        with following(model.model, run, tolerance.precision or PRECISIONS["bf16"]) as choices:
            if choices:
                again = _comparer(sides, specs, tolerance, passes)
                alike, remaining = _by_bands(again, sides, chosen, passes), _flips(again)
                excused = {event.name for event in alike if event.holds}
    operations = _judged(run, tolerance, alike) if judge and run else []
    events = tuple(_with_judgement(by_bands, alike, operations))
    wrong = {own.name for own in operations if not own.holds}
    if not any(event.comparable for event in events):
        raise InputError(
            f"{a.origin} and {b.origin} have nothing to compare: all values are NaN or infinite, and the "
            "same on both sides"
        )
    differ = [event.name for event in events if not event.holds]
    first = next((name for name in differ if name not in excused - wrong), None)
    after = {*consequences(alike, remaining), *(n for n in excused if not isinstance(kind_named(n), Choice))}
    every = [name for name, spec in specs.items() if not spec.extra and (not model or name in model.names)]
    left_out = tuple(name for name in every if name not in chosen)
    since, between, missed = _gap(events, first, list(specs), left_out)
    length = len(a.tokens or b.tokens or ())
    return Comparison(
        a=_summary(a, b, paired, specs), b=_summary(b, a, paired, specs), tokens=a.tokens or b.tokens,
        labels=labels_of(model.inputs) if model is not None else (), tolerance=tolerance, events=events,
        first=first, since=since, between=between, missed=missed, jump=jump_of(events) if first else None,
        agreement=comparer.agreement.result(),
        positions=tuple(chosen_positions(positions, length)) if length or positions != "all" else (),
        left_out=left_out, of_statistics=isinstance(comparer, StatisticsComparer),
        unseen=unseen(operations, tolerance.precision), routing=flips,
        consequences=tuple(name for name in differ if name in after - wrong), where=where_apart(sides, first),
    )  # fmt: skip


def _by_bands(
    comparer: RowComparer | StatisticsComparer, sides: Sequence[ComparedRun], names: Sequence[str],
    passes: RoundedPasses | None, report: Report = unreported, watch: Watch | None = None,
) -> list[EventDifference]:  # fmt: skip
    """Compare the values of these events while the models run, and return the differences."""
    remaining = set(names)
    for pieces in _side_by_side(sides, names, passes):
        remaining.difference_update(piece.name for piece in pieces if piece is not None)
        report(len(names) - len(remaining), len(names))
        comparer.add(pieces)
        if watch is not None:
            watch(pieces, lambda name: next(iter(comparer.finish([name]))))
    return list(comparer.finish(names))


def _flips(comparer: RowComparer | StatisticsComparer) -> tuple[RoutingFlip, ...]:
    return tuple(comparer.routing.flips()) if isinstance(comparer, RowComparer) else ()


def _side_by_side(
    sides: Sequence[ComparedRun], names: Sequence[str], passes: RoundedPasses | None = None
) -> Iterator[list[Piece | None]]:
    """For each event, yield one piece from each side and from each rounded pass, or None for a side with only
    statistics. Also yield other attention scores of the first model, because bands depend on scores."""
    models = [side for side in sides if isinstance(side, ModelRun)]
    dumps = [side for side in sides if isinstance(side, RecordedRun) and not side.statistics]
    dumps.sort(key=lambda side: any((own := side.ranks_of(name)) and own.odd for name in names))
    driver = models[0] if models else dumps[0] if dumps else None
    if driver is None:  # all sides have only statistics
        return
    chosen, observed = set(names), [*names, *_other_scores(models, names)]
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(model.run(observed))
        if passes is not None:
            stack.enter_context(passes.run(names))
        for piece in driver.pieces(names):
            if piece.name not in chosen:
                for model in models[1:]:  # a model waits until its piece is taken
                    model.take(piece)
                yield [piece]
                continue
            own = [
                piece if side is driver else None if side.statistics else side.take(piece) for side in sides
            ]
            yield [*own, *(passes.take_all(piece) if passes is not None else ())]


def _other_scores(models: Sequence[ModelRun], names: Sequence[str]) -> list[str]:
    """Return the names of attention scores that all models compute, except the names in `names`."""
    common = [n for n in models[0].names if all(n in side.names for side in models)] if models else []
    return [name for name in common if isinstance(kind_named(name), Scores) and name not in names]


def _first_dump(sides: Sequence[ComparedRun]) -> RecordedRun | None:
    """Return the first side that is a recording with values, or None."""
    return next((side for side in sides if isinstance(side, RecordedRun) and not side.statistics), None)


def _precision(sides: Sequence[ComparedRun], compute: str | None) -> Precision:
    """Return the precision named `compute`. If `compute` is None, recognise the precision of each dump, note
    it beside the dump, and return the coarsest. Without a dump, the precision is float32."""
    if compute is not None:
        return precision_named(compute)
    model, found = first_model(sides), PRECISIONS["f32"]
    for dump in [side for side in sides if isinstance(side, RecordedRun) and not side.statistics]:
        names = model.names if model else [name for name in dump.names if name in dump.shapes]
        precision, how = precision_of(None, *dump.whole_and_partial(names))
        dump.notes += [f"computes in {precision.name}: {how}"] * precision.narrow
        found = max(found, precision, key=lambda own: own.unit)
    return found


def _offer(sides: Sequence[ComparedRun], first: str | None) -> Offer | None:
    """Return a precision that explains the errors of a dump, if the first wrong event involves a product."""
    model, dump = first_model(sides), _first_dump(sides)
    if first is None or model is None or dump is None or len(model.model.hooks):
        return None
    run = _judged_run(model, dump)
    return offered(run, list(run.operations(PRECISIONS["f32"]))) if run.products(first) else None


def _rounded_passes(sides: Sequence[ComparedRun], compute: Precision) -> RoundedPasses | None:
    """Prepare passes of the model that round to `compute`, or return None without a model. Raises InputError
    if only a model can measure the band."""
    model = first_model(sides)
    if model is None and compute.narrow:
        return None
    if model is None:
        raise InputError(
            f"--compute {compute.name} needs a model to measure rounding: give a model as one of the two "
            "sides, or use --rtol"
        )
    return RoundedPasses(model.model, model.inputs, compute)


def _comparer(
    sides: Sequence[ComparedRun], specs: Mapping[str, EventSpec], tolerance: Tolerance,
    passes: RoundedPasses | None,
) -> RowComparer | StatisticsComparer:  # fmt: skip
    layers = 1 + max((s.layer for s in specs.values() if s.layer is not None), default=-1)
    varied = passes is None or len(set(passes.inputs.tokens)) >= ENOUGH
    bands = Bands(tolerance, layers, None if passes is None else passes.compute, varied)
    models = [i for i, side in enumerate(sides[:2]) if isinstance(side, ModelRun)]
    base = models[0] if models and passes is not None else 0  # rounded passes are compared with this side
    if any(side.statistics for side in sides):
        return StatisticsComparer(sides, specs, bands, base)
    side = first_model(sides)
    return RowComparer(specs, bands, None if side is None else side.model, base)


def _judged_run(model: ModelRun, dump: RecordedRun) -> JudgedRun:
    return JudgedRun(model.model, model.inputs.tokens, *dump.whole_and_partial(model.names))


def _judged(run: JudgedRun, tolerance: Tolerance, events: Sequence[EventDifference]) -> list[OperationResult]:
    """Compute the operations of these events from the recorded inputs, and judge the recorded outputs, as
    `diagnose` does. Return [] if the precision is not known or the model has hooks. In float32, stop at the
    first event beyond its band."""
    precision = tolerance.precision
    if precision is None or len(run.given.model.hooks):
        return []
    first = next((event.name for event in events if not event.holds), None)
    names = {event.name for event in events if not isinstance(kind_named(event.name), Choice)}
    operations = run.operations(precision, names)
    return list(operations if precision.coarse else takewhile(lambda own: own.name != first, operations))


def _with_judgement(
    events: Sequence[EventDifference], alike: Sequence[EventDifference], operations: Sequence[OperationResult]
) -> Iterator[EventDifference]:
    """Yield the differences in `alike`, of runs with the same experts, if they lie beyond their band. Mark
    events that lie within their band, but whose recorded output does not follow from the recorded inputs. In
    a marked event, differences of earlier events hide an error of the operation. A marked event stores the
    error, position and values of its operation."""
    wrong = {own.name: own for own in operations if not own.holds}
    for event, same in zip(events, alike, strict=True):
        own = wrong.get(event.name) if same.holds else None
        if own is None:
            words = "" if isinstance(kind_named(event.name), Choice) else RECORDED_EXPERTS
            measured = f"{same.measured} {words}".strip()
            yield event if same.holds or same == event else replace(same, measured=measured)
            continue
        head = own.element[0] if len(own.element) == 3 else None
        values: dict[str, Any] = {"relative": own.error, "a": own.expected, "b": own.found}
        yield replace(
            event, holds=False, tolerance=own.tolerance, measured=f"{own.measured} {GIVEN}".strip(),
            position=own.position, head=head, index=own.element, **values,
        )  # fmt: skip


def _gap(
    events: Sequence[EventDifference], first: str | None, order: Sequence[str], left_out: Sequence[str]
) -> tuple[str | None, tuple[str, ...], int]:  # fmt: skip
    """Return the last compared event before `first`, the events between the last compared event and `first`,
    and the number of earlier events that were not compared."""
    if first is None:
        return None, (), 0
    before, compared = order[: order.index(first)], {event.name for event in events if event.comparable}
    unknown = {*left_out, *(event.name for event in events if not event.comparable)}
    since = next((name for name in reversed(before) if name in compared), None)
    start = before.index(since) + 1 if since else 0
    missed = sum(name in unknown for name in before[:start])
    return since, tuple(name for name in before[start:] if name in unknown), missed


def _summary(
    side: ComparedRun, other: ComparedRun, paired: Sequence[str], specs: Mapping[str, EventSpec]
) -> SideSummary:
    expected = {*paired, *(name for name, spec in specs.items() if spec.extra)}
    alone = [name for name in side.names if name not in expected]
    unpaired = (*(Unpaired(name, f"not in {other.origin}") for name in alone), *side.unpaired)
    return SideSummary(side.origin, side.kind, tuple(side.notes), unpaired)
