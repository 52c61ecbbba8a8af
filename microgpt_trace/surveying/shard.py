"""Choose the measurements of a survey, and run a shard, which is a part of the documents.

Only the numbers of documents decide which documents share a pass. Therefore the values of a document do not
depend on the shard.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import keep_freed_memory
from ..corpus.corpus import Document
from ..errors import OptionError
from ..hooks.names import select_names
from ..measuring.attention_meter import AttentionMeter
from ..measuring.channels import UNITS, ChannelMeter, HistogramMeter, TopMeter
from ..measuring.head_tokens import HeadTokenMeter
from ..measuring.meter import Meter, PackLayout
from ..measuring.prediction_meter import PredictionMeter
from ..measuring.router_meter import RouterMeter
from ..measuring.streams import StreamMeter
from ..measuring.tallies import Counts
from ..models.language_model import LanguageModel
from ..models.packs import ReadText, passes
from ..plans.kinds import Choice, Linear, Routing, Softmax
from ..plans.plan import Plan, over_tokens
from .options import SurveyOptions
from .state import CUT, READ, Measured, SurveyOrder, Unfit, add_unfit


def order_for(model: LanguageModel, options: SurveyOptions) -> SurveyOrder:
    """Build the order of a survey.

    By default, measure all events except the numbers of chosen experts, and events that need extra
    computation or have a channel for each token. The channels of the events in `histograms` are also
    measured. If `top` is set, list the largest values of the MLP units among the measured events. Raises
    InputError if a name matches no event of the model, or if `top` is set without measured units.
    """
    plan = model.plan
    names = [name for name in plan if plan.open_shapes[name]]  # all except the loss, which has no channels
    usual = (name for name in names if not plan[name].extra and not over_tokens(name))
    default = [name for name in usual if not isinstance(plan[name].kind, Choice)]
    counted = select_names(options.histograms, names) if options.histograms else []
    chosen = [name for name in names if name in {*default, *counted}]
    if options.events:
        chosen = select_names([*options.events, *counted], names)
    units = [name for name in units_of(plan) if name in chosen] if options.top else []
    if options.top and not units:
        if such := ", ".join(units_of(plan)[:3]):
            raise OptionError("{top}: expected {events} to include units, such as {such}", such=such)
        raise OptionError("{top}: expected a model with MLP units outside experts, found none")
    return SurveyOrder(
        tuple(chosen), tuple(counted), tuple(units), options.top, options.max_tokens, options.chat
    )


def units_of(plan: Plan) -> list[str]:
    """Return the events of MLP units: the activations that the last product of each layer's MLP reads. The
    units of experts are left out, because each position has other experts."""
    products = (row for row in plan.of_kind(Linear) if row.stage == "mlp")
    read = {row.layer: row.inputs[0] for row in products if type(plan[row.inputs[0]].kind).__name__ in UNITS}
    return list(read.values())


def meters_of(
    order: SurveyOrder, channels: Mapping[str, int], windows: Mapping[str, int | None],
    routers: Mapping[str, str], streams: Sequence[str], vocab_size: int, parts: Sequence[str],
    causal: Collection[str] = (),
) -> list[Meter]:  # fmt: skip
    """Return the meters for the measurements in an order. `channels` has the number of channels (or heads) of
    each event. `windows` has the attention window of each event of attention weights. `routers` maps each
    event of a router's logits to the event of the chosen experts. `streams` are the events of the residual
    stream, `parts` are the parts of the corpus, and `causal` are the events that are measured per head."""
    meters: list[Meter] = [ChannelMeter(channels, causal)]
    if order.histograms:
        meters.append(HistogramMeter(order.histograms, causal))
    if order.units:
        meters.append(TopMeter({name: channels[name] for name in order.units}, order.examples))
    if windows:
        heads = {name: channels[name] for name in windows}
        meters += [AttentionMeter(heads, windows), HeadTokenMeter(heads, windows, vocab_size)]
    if routers:
        meters.append(RouterMeter(routers, channels))
    if set(streams) <= set(order.events):
        meters.append(StreamMeter(streams))
    meters.append(PredictionMeter(vocab_size, parts))
    return meters


def _meters(model: LanguageModel, order: SurveyOrder) -> list[Meter]:
    """Return the meters for the measurements of a model in an order."""
    plan, shapes = model.plan, model.plan.shapes(1)
    causal = {name for name in order.events if plan[name].causal}
    channels = {name: shapes[name][0 if name in causal else -1] for name in order.events}
    windows = {row.name: row.kind.window for row in plan.of_kind(Softmax) if row.name in order.events}
    choices = (row.inputs for row in plan.of_kind(Routing))
    routers = {logits: chosen for logits, chosen in choices if logits in order.events}
    return meters_of(
        order, channels, windows, routers, plan.streams, model.config.vocab_size, model.corpus_parts, causal
    )


def tallies_of(meters: Iterable[Meter], read: Counts) -> dict[str, Any]:
    """Return the tallies of all meters by name, together with `read`, the tally of texts and tokens."""
    return {f"{READ}/read": read} | {name: own for meter in meters for name, own in meter.tallies.items()}


class MeterTap:
    """An observer of a model that passes each event to the meters of this event."""

    def __init__(self, meters: Mapping[str, Sequence[Meter]], prefix: str = "") -> None:
        self._meters, self._prefix = meters, prefix

    def emit(self, name: str, value: Array) -> Array:
        event = self._prefix + name
        for meter in self._meters.get(event, ()):
            meter(event, value)
        return value

    def wants(self, name: str) -> bool:
        return self._prefix + name in self._meters

    def layer(self, index: int) -> MeterTap:
        return MeterTap(self._meters, f"layer{index}.")


def survey_shard(model: LanguageModel, order: SurveyOrder, documents: Iterable[Document]) -> Measured:
    """Run documents and return the measurements. The documents must be in order and form complete packs."""
    keep_freed_memory()
    meters = _meters(model, order)
    by_event: dict[str, list[Meter]] = {}
    for meter in meters:
        for name in meter.names:
            by_event.setdefault(name, []).append(meter)
    tap, unfit, read = MeterTap(by_event), dict[str, Unfit](), Counts(2)
    for _, pack in groupby(documents, lambda document: document.number // model.pack_size):
        for layout in _passes(model, _read(model, order, list(pack), unfit)):
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
    """Return the documents that fit, with their tokens, the shortest first. Count the others in `unfit`."""
    most = None if order.max_tokens is None else order.max_tokens + 1  # plus 1 to detect longer texts
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
    return sorted(fitting, key=lambda pair: len(pair[0].ids))


def _passes(model: LanguageModel, pack: Sequence[tuple[ReadText, Document]]) -> Iterator[PackLayout]:
    """Divide the texts of a pack into passes that the model runs one by one."""
    texts, documents = [read for read, _ in pack], [document for _, document in pack]
    for rows in passes(texts, model.pass_rows):
        yield PackLayout(model, texts[rows], documents[rows])
