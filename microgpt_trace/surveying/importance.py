"""What a survey says of the inputs of weights: the importance matrix that a quantiser asks for. Knows no
file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plan import layer_of
from ..errors import InputError
from ..text.brief import frozen
from ..text.wording import counted
from .imatrix import Imatrix, SquaredInputs
from .order import order_for
from .state import Survey, weights_of
from .summary import read_counts


def imatrix_of(survey: Survey, with_output: bool = False) -> Imatrix:
    """The sums of the squares of each weight's inputs, over all tokens of the corpus, each text one chunk; of
    the matrix that makes logits only `with_output`.

    Raises InputError where the model has no names in GGUF, an input was not measured, or is not finite.
    """
    entries: dict[str, SquaredInputs] = {}
    of, events = survey.model, survey.order.events
    for weight, event in _inputs(of.origin, of.weights, events, with_output).items():
        own = survey.channels(event)
        if own.nonfinite.any():
            lost = counted(int(own.nonfinite.sum()), "value")
            raise InputError(f"{weight}: {lost} of what it reads, {event}, are not finite")
        sums = survey.tallies[f"{event}/squares"].values()
        entries[weight] = SquaredInputs(sums[None], own.count[:1])
    texts, tokens = read_counts(survey)
    return Imatrix(entries, survey.corpus.sources, texts, -(-tokens // max(texts, 1)))


def check_inputs(model: LanguageModel, events: Sequence[str], with_output: bool) -> None:
    """Raises InputError where a survey of these events would give no importance matrix."""
    _inputs(model.origin, weights_of(model), order_for(model, events).events, with_output)


def _inputs(
    origin: str, weights: Mapping[str, str], events: Collection[str], with_output: bool
) -> dict[str, str]:
    """What is read by each weight of an importance matrix. Raises InputError where the model has none, or
    what one reads is not among the events."""
    if not weights:
        raise InputError(f"an importance matrix is for a production model, and {origin} is none")
    wanted = {
        weight: event for weight, event in weights.items() if with_output or layer_of(event) is not None
    }
    for weight, event in wanted.items():
        if event not in events:
            raise InputError(f"{weight}: what it reads, {event}, is not measured; --events chose others")
    return wanted


@frozen
class ImportantWeight:
    """A weight of an importance matrix: how many matrices it has, their input channels, over how many rows
    the squares were summed, the root of their mean, and the channel where that is largest, of all matrices
    together, with how many times the median that is."""

    name: str
    matrices: int
    channels: int
    rows: int
    rms: float | None
    channel: int | None
    times_median: float | None


@frozen(slots=False)
class ImatrixReport:
    """What an importance matrix says."""

    SCHEMA = "microgpt.imatrix/1"

    file: str
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int
    weights: tuple[ImportantWeight, ...]


def imatrix_report(file: str, imatrix: Imatrix) -> ImatrixReport:
    """What the importance matrix of a file says."""
    in_order = sorted(imatrix.entries, key=lambda name: [(len(part), part) for part in name.split(".")])
    weights = tuple(_weight(name, imatrix.entries[name]) for name in in_order)
    return ImatrixReport(file, imatrix.datasets, imatrix.chunk_count, imatrix.chunk_size, weights)


def _weight(name: str, given: SquaredInputs) -> ImportantWeight:
    matrices, channels = given.sums.shape
    rows = int(given.counts.sum())
    if not rows:
        return ImportantWeight(name, matrices, channels, rows, None, None, None)
    total = given.sums.sum(axis=0)
    top, middle = int(total.argmax()), float(np.median(total))
    times = float(np.sqrt(total[top] / middle)) if middle > 0 else None
    # Of several experts each has rows of its own; of one, all weights share them.
    rms = float(np.sqrt(total.sum() / (rows * channels)))
    return ImportantWeight(name, matrices, channels, rows, rms, top, times)
