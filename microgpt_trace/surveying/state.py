"""Survey: statistics of a model over the texts of a corpus read so far. Merging surveys loses no
precision."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from ..arrays.encodings import StoredTensor
from ..arrays.expert_tensor import ExpertTensor
from ..decoder.catalogue import architecture_named
from ..errors import InputError, OptionError
from ..measuring.channels import ChannelStatistics, channel_statistics
from ..measuring.meter import MARK
from ..measuring.tallies import NOBODY, TopList, merge_all
from ..models.language_model import LanguageModel
from ..notebook import in_notebook
from ..plans.kinds import Linear, Softmax
from ..text.brief import brief, one_line
from ..text.frozen import frozen
from ..text.json_reading import from_json
from ..text.json_writing import dump

if TYPE_CHECKING:
    from ..decoder.decoder import Decoder

READ = "corpus"
CUT = "cut to the tokens allowed"
OPTIONS = {  # the option for each field
    "events": "events", "histograms": "histograms", "units": "top", "examples": "top", "chat": "chat",
    "max_tokens": "max_tokens", "text_field": "field", "limit": "limit", "sample": "sample", "seed": "seed",
}  # fmt: skip
SAMPLED = 1 << 12  # bytes that the fingerprint covers at the start, middle and end of a stored tensor


@frozen(slots=False)
class SurveyOrder:
    """The measurements of a survey, and the options for reading texts. A survey measures the channels of the
    events in `events`, and counts the magnitudes of the events in `histograms`. `units` are events with MLP
    units, and the survey lists the `examples` largest values of each unit."""

    events: tuple[str, ...]
    histograms: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    examples: int = 0
    max_tokens: int | None = None
    chat: bool = False


@frozen(slots=False)
class SurveyedModel:
    """The model of a survey. `fingerprint` is a hash of the parameters, or of samples of stored parameters.

    `kinds` has the kind of each measured event. `streams` are the events of the residual stream, and
    `windows` are the attention windows of the layers. `weights` maps each weight of a GGUF file to the event
    that the weight reads. `labels` has the readable text of each token. `origin` is a path, which may differ
    between machines.
    """

    family: str
    origin: str = field(compare=False)
    fingerprint: str
    config: Mapping[str, Any]
    kinds: Mapping[str, str]
    streams: tuple[str, ...]
    windows: tuple[int | None, ...]
    trained_on: str
    weights: Mapping[str, str]
    labels: tuple[str, ...] = field(compare=False)


@frozen
class SurveyExample:
    """A value at a token of a corpus. `place` is file and row, and `before` is the text before the token."""

    value: float
    place: str
    document: int
    position: int
    channel: int
    before: str
    token: str


@frozen(slots=False)
class SurveyedCorpus:
    """The documents of a survey.

    `documents` is the number of documents. The fields from `documents` to `data` are set after the last
    document was read. For each reason to skip a row, `skipped` has the number of skipped rows and the place
    of the first skipped row. `files` has the number of each file's first document. `data` is a checksum that
    identifies training data of a microGPT.
    """

    sources: tuple[str, ...]
    text_field: str
    limit: int | None
    sample: int | None
    seed: int
    documents: int | None = None
    fingerprint: str | None = None
    skipped: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    files: tuple[tuple[str, int], ...] = ()
    data: str = ""

    def examples(self, top: TopList, unit: int, sign: float = 1.0) -> tuple[SurveyExample, ...]:
        """Return the largest values of a unit as examples. Each value is multiplied by `sign`."""
        examples = []
        for entry, excerpt in zip(top.entries[unit].tolist(), top.excerpt[unit], strict=True):
            value, document, row, position, channel = entry
            if document == NOBODY:
                break
            before, _, token = excerpt.tobytes().rstrip(b"\0").decode().partition(MARK)
            at = bisect_right(self.files, document, key=lambda file: file[1]) - 1
            place = f"{self.files[at][0]}:{row}" if at >= 0 else f"row {row}"
            examples.append(SurveyExample(sign * value, place, document, position, channel, before, token))
        return tuple(examples)


class Unfit(NamedTuple):
    """A count of texts that were skipped or cut for one reason, and the first text's number and place."""

    texts: int
    number: int
    place: str


@dataclass(kw_only=True, repr=False, eq=False)
class Measured:
    """The measurements of a set of documents. `tallies` have names such as "layer0.mlp.act/total". `unfit`
    counts the texts that did not fit, by reason. `blocks` has the hash of each block that was read, by block
    number. `arithmetic` names the libraries that computed the measurements."""

    tallies: dict[str, Any] = field(default_factory=dict)
    unfit: dict[str, Unfit] = field(default_factory=dict)
    blocks: dict[int, str] = field(default_factory=dict)
    arithmetic: tuple[str, ...] = ()
    seconds: float = 0.0

    def merge(self, other: Measured) -> None:
        merge_all(self.tallies, other.tallies)
        for reason, unfit in other.unfit.items():
            add_unfit(self.unfit, reason, unfit)
        self.blocks |= other.blocks
        self.arithmetic = tuple(sorted({*self.arithmetic, *other.arithmetic}))
        self.seconds += other.seconds


def add_unfit(into: dict[str, Unfit], reason: str, more: Unfit) -> None:
    """Add the texts of `more` to the count for a reason, and store the place of the first text."""
    before = into.get(reason, Unfit(0, more.number, more.place))
    first = min(before, more, key=lambda unfit: unfit.number)
    into[reason] = Unfit(before.texts + more.texts, first.number, first.place)


@dataclass(kw_only=True, eq=False, repr=False)
class Survey(Measured):
    """The measurements of a model over the corpus read so far, and descriptions of model and corpus."""

    model: SurveyedModel
    corpus: SurveyedCorpus
    order: SurveyOrder
    block_size: int

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        return one_line(self, model=self.model.origin, documents=self.corpus.documents, whole=self.whole)

    @property
    def whole(self) -> bool:
        """True if all documents of the corpus were read."""
        documents = self.corpus.documents
        return documents is not None and len(self.blocks) == -(-documents // self.block_size)

    @property
    def read(self) -> tuple[int, int]:
        """The number of texts and the number of tokens that were run."""
        texts, tokens = self.tallies[f"{READ}/read"].values().tolist()
        return texts, tokens

    def channels(self, event: str) -> ChannelStatistics:
        """Return the statistics of each channel or head of a measured event, or raise InputError."""
        if event not in self.order.events:
            raise InputError(f"{event!r}: this survey did not measure the event")
        return channel_statistics(self.tallies, event, self.model.kinds[event])


def merge_surveys(parts: Mapping[str, Survey]) -> Survey:
    """Merge the parts of one survey into the first part, and return the first part. The keys of `parts` are
    file names. Raises InputError if two parts differ in their model, corpus or options, if a part ended
    early, or if two parts share documents."""
    (first, whole), *others = parts.items()
    for name, part in parts.items():
        if part.corpus.documents is None:
            raise InputError(f"{name}: the survey is unfinished; continue the survey with --resume")
    for name, part in others:
        check_same(first, whole, name, part)
        if shared := whole.blocks.keys() & part.blocks.keys():
            text = min(shared) * whole.block_size + 1
            raise InputError(f"{name}: text {text:,} of the corpus is in this part and in another part")
        whole.merge(part)
    return whole


def check_same(name: str, survey: Survey, other_name: str, other: Survey) -> None:
    """Raise InputError if two surveys differ in their model, corpus or options."""
    if survey.model.fingerprint != other.model.fingerprint:
        raise InputError(
            f"{other_name}: expected the model of {name}, {survey.model.origin}, found "
            f"{other.model.origin}, which has other parameters"
        )
    for part in ("order", "model", "corpus"):
        one, two = getattr(survey, part), getattr(other, part)
        for own in fields(one):
            a, b = getattr(one, own.name), getattr(two, own.name)
            if own.compare and a != b:
                what = f"{{{OPTIONS[own.name]}}}" if own.name in OPTIONS else f"{part} {own.name}"
                values = f"expected {brief(a)} as in {name}, found {brief(b)}"
                raise OptionError(f"{{other}}: {what}: {{values}}", other=other_name, values=values)
    if survey.block_size != other.block_size:
        sizes = f"expected {survey.block_size} as in {name}, found {other.block_size}"
        raise InputError(f"{other_name}: the sizes of blocks differ: {sizes}")


def surveyed_model(model: LanguageModel, order: SurveyOrder) -> SurveyedModel:
    return SurveyedModel(
        family=model.family,
        origin=model.origin,
        fingerprint=fingerprint_of(model),
        config=from_json(dump(model.describe()["config"])),  # JSON turns tuples into lists
        kinds={name: type(model.plan[name].kind).__name__ for name in order.events},
        streams=model.plan.streams,
        windows=tuple(kind.window for kind in model.plan.kinds(Softmax)),
        trained_on=model.trained_on,
        weights=weights_of(model),
        labels=tuple(model.label(token, target=True) for token in range(model.config.vocab_size)),
    )


def weights_of(model: LanguageModel) -> dict[str, str]:
    """Map the GGUF name of each weight to the event that the weight reads, in order of computation. For
    example, the weight "blk.0.attn_q.weight" reads the event "layer0.attn.norm". For a microGPT, the result
    is an empty dict.

    If GGUF fuses several weights, the weights share one name. The output weight may have the name of the
    embedding. The channels of an event are in the file's order, because files permute the rows of weights,
    not the columns.
    """
    if not model.takes_prompts:
        return {}
    names, events = architecture_named(cast("Decoder", model).config.architecture).names, dict[str, str]()
    for row in model.plan.of_kind(Linear):
        if row.kind.columns is None:  # skip rows with `columns`, which compute the product for one head
            events[names.gguf_name(row.kind.weight)] = row.inputs[0]
    return events


def fingerprint_of(model: LanguageModel) -> str:
    """Return a hash of the names, shapes, encodings and values of a model's parameters. The hash covers all
    values of a tensor in memory, but only SAMPLED bytes at three places of a tensor in a file."""
    digest = blake2b(digest_size=16)
    for name, shape in model.config.shapes().items():
        tensor = model.tensors.get(name)
        digest.update(f"{name} {shape} {tensor.encoding.name if tensor else model.dtype}\n".encode())
        digest.update(_sample(tensor) if tensor else np.ascontiguousarray(model.parameter(name)).tobytes())
    return digest.hexdigest()


def _sample(tensor: StoredTensor) -> bytes:
    if isinstance(tensor, ExpertTensor):
        experts = sorted({0, tensor.shape[0] // 2, tensor.shape[0] - 1})
        return b"".join(_sample(tensor.of_expert(expert)) for expert in experts)
    data = tensor.data
    places = (0, len(data) // 2, max(0, len(data) - SAMPLED))
    return b"".join(data[place : place + SAMPLED].tobytes() for place in places)
