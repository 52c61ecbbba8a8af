"""What a survey measures of a model, and a shard: some documents of a corpus through it. Merges nothing.

Documents are packed by their numbers alone, so that each meets the same neighbours, and has the same values,
in whatever shard it is read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.packs import ReadText, passes
from ..architecture.plans.kinds import Linear, Softmax
from ..architecture.plans.plan import HEAD_EVENTS, Plan
from ..arrays.stats import Array
from ..arrays.threads import keep_freed_memory
from ..errors import InputError
from ..hooks.names import select_names
from ..measuring.channels import ChannelMeter, HistogramMeter, TopMeter
from ..measuring.heads import AttentionMeter
from ..measuring.meter import Meter, PackLayout
from ..measuring.predictions import PredictionMeter
from ..measuring.streams import StreamMeter
from ..measuring.tallies import Counts
from ..text.brief import brief
from .state import CUT, READ, Measured, SurveyOrder, Unfit, add_unfit

if TYPE_CHECKING:
    from ..corpus.corpus import Document

MOST_EXAMPLES = 10_000  # of a unit, each of which takes some 100 bytes


def order_for(
    model: LanguageModel, events: Sequence[str] = (), histograms: Sequence[str] = (), top: int = 0,
    max_tokens: int | None = None, chat: bool = False,
) -> SurveyOrder:  # fmt: skip
    """What names and globs ask for. Without any, events are all that cost nothing extra and have no channel
    for each token; those whose magnitudes are counted come too. Units are what the last product of an MLP
    reads, of the events asked for.

    Raises InputError where a name means no event of the model.
    """
    plan = model.plan
    names = [name for name in plan if plan.open_shapes[name]]  # the loss has no channels
    usual = [name for name in names if not plan[name].extra and name not in HEAD_EVENTS]
    asked = select_names(histograms, names) if histograms else []
    chosen = select_names([*events, *asked], names) if events else [n for n in names if n in {*usual, *asked}]
    if not 0 <= top <= MOST_EXAMPLES:
        raise InputError(f"top: expected 0 to {MOST_EXAMPLES:,} examples of each unit, found {brief(top)}")
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens: expected 1 or more, found {max_tokens}")
    units = [name for name in units_of(plan) if name in chosen] if top else []
    if top and not units:
        raise InputError(
            f"no unit of an MLP is among the events, which are {', '.join(units_of(plan)[:3])} ..."
        )
    return SurveyOrder(tuple(chosen), tuple(asked), tuple(units), top, max_tokens, chat)


def units_of(plan: Plan) -> list[str]:
    """What MLPs write from: the input of the last product of every layer's."""
    products = (row for rows in plan.layers for row in rows if isinstance(row.kind, Linear))
    return list({row.layer: row.inputs[0] for row in products if row.stage == "mlp"}.values())


def meters_of(
    order: SurveyOrder, channels: Mapping[str, int], windows: Mapping[str, int | None],
    streams: Sequence[str], vocab_size: int, parts: Sequence[str], causal: Collection[str] = (),
) -> list[Meter]:  # fmt: skip
    """What measures all that was ordered, by how many channels or heads each event has, the windows of
    attention weights, the streams, the tokens of the vocabulary, the parts of a corpus and the events that
    are of heads."""
    meters: list[Meter] = [ChannelMeter(channels, causal)]
    if order.histograms:
        meters.append(HistogramMeter(order.histograms, causal))
    if order.units:
        meters.append(TopMeter({name: channels[name] for name in order.units}, order.examples))
    if windows:
        meters.append(AttentionMeter({name: channels[name] for name in windows}, windows))
    if set(streams) <= set(order.events):
        meters.append(StreamMeter(streams))
    meters.append(PredictionMeter(vocab_size, parts))
    return meters


def _meters(model: LanguageModel, order: SurveyOrder) -> list[Meter]:
    """What measures all that was ordered of a model."""
    plan, shapes = model.plan, model.plan.shapes(1)
    causal = {name for name in order.events if plan[name].kind.causal}
    channels = {name: shapes[name][0 if name in causal else -1] for name in order.events}
    rows = [row for row in plan.of_kind(Softmax) if row.name in order.events]
    windows = {row.name: row.kind.window for row in rows if isinstance(row.kind, Softmax)}
    return meters_of(
        order, channels, windows, plan.streams, model.config.vocab_size, model.corpus_parts, causal
    )


def tallies_of(meters: Iterable[Meter], read: Counts) -> dict[str, Any]:
    """All that meters know, with how many texts and tokens were read."""
    return {f"{READ}/read": read} | {name: own for meter in meters for name, own in meter.tallies.items()}


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


def survey_shard(model: LanguageModel, order: SurveyOrder, documents: Iterable[Document]) -> Measured:
    """Run the documents, which come in order of their numbers and in whole packs."""
    keep_freed_memory()
    meters = _meters(model, order)
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
