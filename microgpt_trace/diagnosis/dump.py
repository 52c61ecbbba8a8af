"""The arrays of a dump as a diagnosis reads them: laid out as our events, loaded when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..arrays.threads import one_blas_thread
from ..comparison.compared_runs import ModelRun, RecordedRun, Unpaired
from ..comparison.diff import compare
from ..comparison.pairing import labels_of, open_all, prepare_sides
from ..comparison.read_tokens import with_tokens
from ..dumps.recording import Recording
from ..errors import InputError
from ..notebook import in_notebook
from ..rounding.bands import RoundedPasses, tolerance_of
from ..rounding.judging import OVER_THE_PASS
from ..rounding.precision import precision_named
from ..text.brief import one_line
from .diagnose import Diagnosis, diagnose_values

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..dumps.mapping import NameMap


class DumpDiagnosis(NamedTuple):
    """A diagnosis with what it was made of: the dump's side and what the model calls its tokens."""

    diagnosis: Diagnosis
    dump: RecordedRun
    labels: tuple[str, ...]
    model: str

    def __repr__(self) -> str:
        return one_line(self)

    def _repr_html_(self) -> str:
        return in_notebook(self)


def diagnose(
    dump: str | Path | Recording,
    model: str | Path | LanguageModel,
    text: str | None = None,
    *,
    tokens: Sequence[int] | None = None,
    map: NameMap | None = None,
    layouts: Mapping[str, str] | None = None,
    compute: str | None = None,
) -> DumpDiagnosis:
    """Diagnose a recording, or one under a path, as `microgpt diagnose` does.

    The tokens are those given, those that the dump says, or those whose embedding it holds; a text
    beside them is what they should have been. Raises InputError where the dump holds no values, or none
    that has an event.
    """
    opened_dump, opened_model = open_all([dump, model], map)
    if not isinstance(opened_dump, Recording) or isinstance(opened_model, Recording):
        raise InputError(
            f"expected a dump, then a model, found {opened_dump.origin} and {opened_model.origin}"
        )
    opened_model = opened_model.alone()  # what the engine should compute, whatever hooks do
    known = _given_tokens(opened_dump, tokens, map)
    expected = opened_model.read(text).tokens if text is not None else None
    if known is None:  # the embedding tells, looked up once
        opened_dump = with_tokens(opened_dump, opened_model, expected)
        known = opened_dump.tokens
    sides = [opened_dump, opened_model]
    dumped, ours = prepare_sides(sides, text if known is None else None, known, map, layouts or {})
    assert isinstance(dumped, RecordedRun)
    assert isinstance(ours, ModelRun)
    names = [name for name in ours.names if name in set(dumped.names)]
    lacking = [name for name in dumped.names if name not in set(ours.names)]
    dumped.unpaired += [Unpaired(name, f"not in {ours.origin}") for name in lacking]
    if dumped.statistics:
        raise InputError(f"{dumped.origin} holds statistics alone: what an operation gives needs its values")
    if not names:
        raise InputError(
            f"{dumped.origin} has no event of {ours.origin}; `microgpt diff --suggest-map` drafts a map"
        )
    values, partial = dumped.whole_and_partial(names)
    found = diagnose_values(
        opened_model, ours.inputs.tokens, values, partial, compute=compute, text_tokens=expected
    )
    if found.offer is None:
        found = _over_the_pass(found, dumped, ours)
    return DumpDiagnosis(found, dumped, labels_of(ours.inputs), ours.origin)


def _over_the_pass(found: Diagnosis, dumped: RecordedRun, ours: ModelRun) -> Diagnosis:
    """Return the diagnosis, with an earlier first wrong operation where `diff` sees one. Errors that are
    small in each operation, or that the gaps of a dump hide, may add up to more than roundings pass on."""
    precision = precision_named(found.compute)
    passes = RoundedPasses(ours.model, ours.inputs, precision) if precision.coarse else None
    tolerance = tolerance_of(passes.compute, draws=passes.count) if passes else tolerance_of()
    try:
        with one_blas_thread(), np.errstate(all="ignore"):
            events = compare([ours, dumped], (), tolerance, passes, judge=False).events
    except InputError:  # no value of both is finite
        return found
    order = [own.name for own in found.operations]
    first = next((event for event in events if not event.holds and event.name in order), None)
    if first is None:
        return found
    at = order.index(first.name)
    if found.first_wrong and order.index(found.first_wrong) <= at:
        return found
    own, error, limit = found.operations[at], first.relative, first.tolerance
    wrong = replace(own, holds=False, error=error, tolerance=limit, measured=OVER_THE_PASS)
    operations = (*found.operations[:at], wrong, *found.operations[at + 1 :])
    return replace(found, operations=operations, first_wrong=first.name)


def _given_tokens(dump: Recording, tokens: Sequence[int] | None, map: NameMap | None) -> Sequence[int] | None:
    """The tokens that were given, or that the map or the dump says."""
    said = (tokens, map.tokens if map else None, dump.tokens)
    return next((known for known in said if known is not None), None)
