"""Compare two dumps of one model, and judge each operation of both dumps by the dump's own inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..comparison.compared_runs import open_source
from ..comparison.diff import diff
from ..comparison.differences import Comparison, EventDifference, JudgedSide, jump_of
from ..dumps.recording import Recording, of_model
from ..errors import InputError
from ..models.language_model import LanguageModel
from ..naming.user_map import NameMap
from ..rounding.judging import OperationResult
from .diagnose import Diagnosis, diagnose

FOLLOWS = "each operation follows from its inputs"


def diff_by_model(
    a: str | Path | Recording, b: str | Path | Recording, model: str | Path | LanguageModel,
    text: str | None = None, *, tokens: Sequence[int] | None = None, map: NameMap | None = None,
    compute: str | None = None, **options: Any,
) -> Comparison:  # fmt: skip
    """Compare two dumps that engines wrote for the same model and tokens.

    Differences of events are measured as in `diff`. Then `diagnose` judges both dumps. If every operation of
    both dumps follows from its own inputs, the dumps differ only by rounding and agree. Otherwise the first
    event that differs is the first operation that follows from its inputs in only one of the dumps. `options`
    are those of `diff`. Raises InputError if a side is not a dump, or a dump cannot be judged.
    """
    opened = open_source(Path(model)) if isinstance(model, str | Path) else model
    if isinstance(opened, Recording):
        raise InputError(f"{opened.origin}: expected a model, found {opened.kind}")
    sides = [open_source(Path(own), map) if isinstance(own, str | Path) else own for own in (a, b)]
    for side in sides:
        if not isinstance(side, Recording):
            raise InputError(f"{side.origin} is a model: --model judges two dumps")
    dumps = [of_model(side, opened) for side in sides if isinstance(side, Recording)]
    about: dict[str, Any] = {"map": map, "layouts": options.get("layouts")}
    judged = [
        diagnose(dump, opened, text, tokens=tokens, compute=compute, **about).diagnosis for dump in dumps
    ]
    known = tokens or judged[0].tokens
    precision = compute or max((own.compute for own in judged), key=["f32", "q8", "f16", "bf16"].index)
    options["compute"] = "f32" if precision == "q8" else precision
    found = diff(dumps[0], dumps[1], tokens=known, map=map, **options)
    first, events = _first(found, judged), found.events
    if first is None and all(own.clean for own in judged):
        events = tuple(own if own.holds else replace(own, holds=True, measured=FOLLOWS) for own in events)
    elif first is not None:
        events = tuple(_marked(own, judged) if own.name == first else own for own in events)
    names = [event.name for event in events]
    since = names[names.index(first) - 1] if first in names[1:] else None
    return replace(
        found, first=first, events=events, since=since, between=(), missed=0,
        where=found.where if first == found.first else "", jump=jump_of(events) if first else None,
        judged=tuple([_side(own) for own in judged]),
    )  # fmt: skip


def _first(found: Comparison, judged: Sequence[Diagnosis]) -> str | None:
    """Return the first compared event that is wrong in only one dump, or wrong in both and different. If
    there is none, return the first event beyond its band, unless both dumps are right."""
    wrong = [{own.name for own in each.wrong} for each in judged]
    in_one = {event.name for event in found.events if (event.name in wrong[0]) != (event.name in wrong[1])}
    in_both = {event.name for event in found.events if event.name in wrong[0] and not event.holds}
    apart = [event.name for event in found.events if event.name in in_one | in_both]
    return apart[0] if apart else None if all(own.clean for own in judged) else found.first


def _marked(event: EventDifference, judged: Sequence[Diagnosis]) -> EventDifference:
    """Return the first event that differs, as beyond its band."""
    operation = next((own for each in judged for own in each.wrong if own.name == event.name), None)
    if operation is None or not event.holds:
        return event
    return replace(event, holds=False, position=operation.position, index=operation.element)


def _side(diagnosis: Diagnosis) -> JudgedSide:
    claims = tuple(finding.claim for finding in diagnosis.findings)
    claims += (str(diagnosis.offer),) if diagnosis.offer else ()
    wrong: OperationResult | None = next(iter(diagnosis.wrong), None)
    error = None if wrong is None else wrong.error
    return JudgedSide(
        diagnosis.compute, diagnosis.clean, diagnosis.judged, diagnosis.of, diagnosis.first_wrong, error,
        tuple(own.name for own in diagnosis.wrong), claims,
    )  # fmt: skip
