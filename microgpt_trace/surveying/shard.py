"""A shard: some documents of a corpus through a model, and what is measured there. Merges nothing.

Documents are packed by their numbers alone, so that each meets the same neighbours, and has the same values,
in whatever shard it is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.packs import ReadText, passes
from ..architecture.plans.kinds import Softmax
from ..arrays.linear import keep_freed_memory
from ..arrays.stats import Array
from ..measuring.channels import ChannelMeter, HistogramMeter, TopMeter
from ..measuring.heads import AttentionMeter
from ..measuring.meter import Meter, PackLayout
from ..measuring.predictions import PredictionMeter
from ..measuring.streams import StreamMeter
from ..measuring.tallies import Counts, merge_all
from .order import SurveyOrder, channels_of

if TYPE_CHECKING:
    from ..corpus.corpus import Document

READ = "corpus"
CUT = "cut to the tokens allowed"


class Unfit(NamedTuple):
    """How many texts could not be read for one reason, or were cut, and the first of them."""

    texts: int
    number: int
    place: str


@dataclass(kw_only=True, repr=False, eq=False)
class Measured:
    """What was measured of some documents: `tallies` by the names of what they count, those of events like
    "layer0.mlp.act/total", texts that did not fit, the fingerprints of the blocks that were read by their
    numbers, the libraries that computed, and in how many seconds."""

    tallies: dict[str, Any] = field(default_factory=dict)
    unfit: dict[str, Unfit] = field(default_factory=dict)
    blocks: dict[int, str] = field(default_factory=dict)
    arithmetic: tuple[str, ...] = ()
    seconds: float = 0.0

    def take(self, other: Measured) -> None:
        """Take in what was measured of other documents."""
        merge_all(self.tallies, other.tallies)
        for reason, unfit in other.unfit.items():
            add_unfit(self.unfit, reason, unfit)
        self.blocks |= other.blocks
        self.arithmetic = tuple(sorted({*self.arithmetic, *other.arithmetic}))
        self.seconds += other.seconds


class MeterTap:
    """Hands the values of a pass to the meters that want them."""

    def __init__(self, meters: Mapping[str, Sequence[Meter]], prefix: str = "") -> None:
        self._meters, self._prefix = meters, prefix

    def emit(self, name: str, value: Array) -> Array:
        whole = self._prefix + name
        for meter in self._meters.get(whole, ()):
            meter(whole, value)
        return value

    def wants(self, name: str) -> bool:
        return self._prefix + name in self._meters

    def layer(self, index: int) -> MeterTap:
        return MeterTap(self._meters, f"layer{index}.")


class Measurable(NamedTuple):
    """What there is to measure: how many channels or heads each event has, which are of heads, the windows of
    attention weights, the streams, the tokens of the vocabulary and the parts of a corpus."""

    channels: Mapping[str, int]
    causal: Collection[str]
    windows: Mapping[str, int | None]
    streams: Sequence[str]
    vocab_size: int
    parts: Sequence[str]


def measurable(model: LanguageModel, order: SurveyOrder) -> Measurable:
    """What there is to measure of a model."""
    plan, asked = model.plan, {*order.events, *order.histograms}
    rows = [row for row in plan.of_kind(Softmax) if row.name in order.events]
    windows = {row.name: row.kind.window for row in rows if isinstance(row.kind, Softmax)}
    causal = {name for name in asked if plan[name].kind.causal}
    channels = channels_of(plan, order.events)
    return Measurable(channels, causal, windows, plan.streams, model.config.vocab_size, model.corpus_parts)


def meters_of(found: Measurable, order: SurveyOrder) -> list[Meter]:
    """What measures all that was ordered."""
    channels = found.channels
    meters: list[Meter] = [ChannelMeter(channels, found.causal)]
    if order.histograms:
        meters.append(HistogramMeter(order.histograms, found.causal))
    if order.units:
        meters.append(TopMeter({name: channels[name] for name in order.units}, order.examples))
    if found.windows:
        meters.append(AttentionMeter({name: channels[name] for name in found.windows}, found.windows))
    if set(found.streams) <= set(order.events):
        meters.append(StreamMeter(found.streams))
    meters.append(PredictionMeter(found.vocab_size, found.parts))
    return meters


def tallies_of(meters: Iterable[Meter], read: Counts) -> dict[str, Any]:
    """All that meters know, with how many texts and tokens were read."""
    tallies: dict[str, Any] = {f"{READ}/read": read}
    for meter in meters:
        tallies |= meter.tallies
    return tallies


def survey_shard(model: LanguageModel, order: SurveyOrder, documents: Iterable[Document]) -> Measured:
    """Run the documents, which come in order of their numbers and in whole packs."""
    keep_freed_memory()
    meters = meters_of(measurable(model, order), order)
    wanted: dict[str, list[Meter]] = {}
    for meter in meters:
        for name in meter.names:
            wanted.setdefault(name, []).append(meter)
    tap, unfit, read = MeterTap(wanted), dict[str, Unfit](), Counts(2)
    for _, some in groupby(documents, lambda document: document.number // model.pack_size):
        for layout in _passes(model, _read(model, order, list(some), unfit)):
            read.numbers += len(layout.texts), layout.rows
            for meter in meters:
                meter.begin(layout)
            with np.errstate(all="ignore"):
                model.run_pack(layout, tap)
            for meter in meters:
                meter.finish()
    return Measured(tallies=tallies_of(meters, read), unfit=unfit)


def _read(
    model: LanguageModel, order: SurveyOrder, documents: Sequence[Document], unfit: dict[str, Unfit]
) -> list[tuple[ReadText, Document]]:
    """The documents that fit with what is read of them, shorter ones first."""
    most = None if order.max_tokens is None else order.max_tokens + 1  # one more tells that there are more
    fitting: list[tuple[ReadText, Document]] = []
    texts = model.read_many([document.text for document in documents], most, order.chat)
    for document, read in zip(documents, texts, strict=True):
        read = document.unfit or read
        if isinstance(read, str):
            add_unfit(unfit, read, Unfit(1, document.number, document.place))
            continue
        if order.max_tokens is not None and len(read.ids) - 1 > order.max_tokens:
            add_unfit(unfit, CUT, Unfit(1, document.number, document.place))
            read = ReadText(np.append(read.ids[:-2], read.ids[-1]))
        fitting.append((read, document))
    return sorted(fitting, key=lambda one: len(one[0].ids))


def _passes(model: LanguageModel, pack: Sequence[tuple[ReadText, Document]]) -> Iterator[PackLayout]:
    """A pack in the passes that the model makes of it."""
    texts, documents = [read for read, _ in pack], [document for _, document in pack]
    for own in passes(texts, model.pass_rows):
        parts = [model.corpus_part(document.text) for document in documents[own]]
        yield PackLayout(texts[own], documents[own], parts, model.label, model.spelled, model.bos)


def add_unfit(into: dict[str, Unfit], reason: str, more: Unfit) -> None:
    """Count more texts, of which the first of all is kept."""
    known = into.get(reason, Unfit(0, more.number, more.place))
    first = min(known, more, key=lambda unfit: unfit.number)
    into[reason] = Unfit(known.texts + more.texts, first.number, first.place)
