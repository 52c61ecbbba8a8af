"""Survey: what a model did over a corpus, or over the part of it that was read so far; merged exactly."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.kinds import Linear
from ..arrays.encodings import StoredTensor
from ..errors import InputError
from ..measuring.channels import ChannelStatistics, channel_statistics
from ..measuring.meter import MARK
from ..measuring.tallies import NOBODY, TopList, merge_all
from ..notebook import in_notebook
from ..readers.file_terms import TERMS
from ..text.brief import brief, frozen, one_line
from ..text.json_reading import from_json
from ..text.json_writing import dump

if TYPE_CHECKING:
    from ..decoder.model import Decoder

READ = "corpus"
CUT = "cut to the tokens allowed"
OPTIONS = {  # by the fields that they are for
    "events": "--events", "histograms": "--histograms", "units": "--top, for", "examples": "--top",
    "max_tokens": "--max-tokens", "chat": "--chat", "text_field": "--field", "limit": "--limit",
    "sample": "--sample", "seed": "--seed",
}  # fmt: skip
SAMPLED = 1 << 12  # bytes of a stored tensor, at its beginning, middle and end, that tell it from others


@frozen(slots=False)
class SurveyOrder:
    """Whose channels are measured, of which events magnitudes are counted and units listed, how many examples
    a unit has; how texts are read."""

    events: tuple[str, ...]
    histograms: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    examples: int = 0
    max_tokens: int | None = None
    chat: bool = False


@frozen(slots=False)
class SurveyedModel:
    """Which model was surveyed. The fingerprint is of its parameters, of stored ones of samples.

    `kinds` are the kinds of the events that were measured, by name; `streams` the events of the residual
    stream; `windows` those of the layers; `weights` which event each weight of a GGUF file reads; `labels`
    what tokens are called. The `origin` is a path that may differ from machine to machine.
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
    """A place in a corpus: the value there, the file with the row of the document, the document's number, the
    position, and what is read there, up to the token."""

    value: float
    place: str
    document: int
    position: int
    channel: int
    before: str
    token: str


@frozen(slots=False)
class SurveyedCorpus:
    """Which documents were read. `documents`, `fingerprint` and what follows are of all of them, and not
    known before the last one was read: `skipped` tells what was no document, with the first place, `files`
    with which document each file begins, and `data` is what a microGPT calls data that it was trained on."""

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
        """The entries of a unit's list."""
        found = []
        for own, excerpt in zip(top.entries[unit].tolist(), top.excerpt[unit], strict=True):
            value, document, row, position, channel = own
            if document == NOBODY:
                break
            before, _, token = excerpt.tobytes().rstrip(b"\0").decode().partition(MARK)
            at = bisect_right(self.files, document, key=lambda file: file[1]) - 1
            place = f"{self.files[at][0]}:{row}" if at >= 0 else f"row {row}"
            found.append(SurveyExample(sign * value, place, document, position, channel, before, token))
        return tuple(found)


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


def add_unfit(into: dict[str, Unfit], reason: str, more: Unfit) -> None:
    """Count more texts, of which the first of all is kept."""
    known = into.get(reason, Unfit(0, more.number, more.place))
    first = min(known, more, key=lambda unfit: unfit.number)
    into[reason] = Unfit(known.texts + more.texts, first.number, first.place)


@dataclass(kw_only=True, eq=False, repr=False)
class Survey(Measured):
    """Statistics of a model over a corpus: what was measured so far, of which model and which documents. The
    blocks of a whole survey are all that the corpus has."""

    model: SurveyedModel
    corpus: SurveyedCorpus
    order: SurveyOrder
    block_size: int

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        return one_line(self, model=self.model.origin, documents=self.corpus.documents, whole=self.whole)

    @property
    def whole(self) -> bool:
        """Whether all documents of the corpus were read."""
        documents = self.corpus.documents
        return documents is not None and len(self.blocks) == -(-documents // self.block_size)

    @property
    def read(self) -> tuple[int, int]:
        """How many texts were run, and how many tokens."""
        texts, tokens = self.tallies[f"{READ}/read"].values().tolist()
        return texts, tokens

    def channels(self, event: str) -> ChannelStatistics:
        """The statistics of every channel of an event, or of every head. Raises InputError where it was not
        measured."""
        if event not in self.order.events:
            raise InputError(f"{event!r}: this survey did not measure it")
        return channel_statistics(self.tallies, event, self.model.kinds[event])


def merged(surveys: Mapping[str, Survey]) -> Survey:
    """One survey of parts of it, which are named by their files. Raises InputError where they are not of one
    model, corpus and selection, where a part is not read to its end, or where two have the same documents."""
    (first, whole), *others = surveys.items()
    for name, survey in surveys.items():
        if survey.corpus.documents is None:
            raise InputError(f"{name}: it ended before the corpus did; --resume goes on with it")
    for name, survey in others:
        check_same(first, whole, name, survey)
        twice = whole.blocks.keys() & survey.blocks.keys()
        if twice:
            first_twice = min(twice) * whole.block_size + 1
            raise InputError(f"{name}: text {first_twice:,} of the corpus is in it, and in another part too")
        whole.take(survey)
    return whole


def check_same(name: str, survey: Survey, other_name: str, other: Survey) -> None:
    """Raises InputError naming what differs in what two surveys were made of."""
    if survey.model.fingerprint != other.model.fingerprint:
        theirs = f"of {other.model.origin}, where {name} is of {survey.model.origin}"
        raise InputError(f"{other_name}: of another model, {theirs}, which has other parameters")
    for what in ("order", "model", "corpus"):
        one, two = getattr(survey, what), getattr(other, what)
        for own in fields(one):
            a, b = getattr(one, own.name), getattr(two, own.name)
            if own.compare and a != b:
                said = OPTIONS.get(own.name, f"its {what} has {own.name}")
                raise InputError(f"{other_name}: {said} {brief(b)}, where {name} has {brief(a)}")
    if survey.block_size != other.block_size:
        raise InputError(f"{other_name}: blocks of {other.block_size}, where {name} has {survey.block_size}")


def surveyed_model(model: LanguageModel, order: SurveyOrder) -> SurveyedModel:
    """What a survey says of its model."""
    described = model.describe()
    return SurveyedModel(
        family=model.family,
        origin=model.origin,
        fingerprint=fingerprint_of(model),
        config=from_json(dump(described["config"])),  # as a file has it: lists, no tuples
        kinds={name: type(model.plan[name].kind).__name__ for name in order.events},
        streams=model.plan.streams,
        windows=model.config.windows,
        trained_on=model.trained_on,
        weights=weights_of(model),
        labels=tuple(model.label(token, target=True) for token in range(model.config.vocab_size)),
    )


def weights_of(model: LanguageModel) -> dict[str, str]:
    """The event that each weight's matrix reads, by the weight's name in GGUF, in order of computation:
    "blk.0.attn_q.weight" -> "layer0.attn.norm". Empty of a microGPT, which has no such file.

    A weight that GGUF fuses of several has one name; the output may be the table of the embedding. Channels
    are in the file's order: files permute rows, never columns.
    """
    if "prompts" not in model.abilities:
        return {}
    names, found = TERMS[cast("Decoder", model).config.architecture].names, dict[str, str]()
    for row in model.plan.of_kind(Linear):
        assert isinstance(row.kind, Linear)
        if row.kind.columns is None:  # else a share of another's
            found[names.gguf_name(row.kind.weight)] = row.inputs[0]
    return found


def fingerprint_of(model: LanguageModel) -> str:
    """Tells the parameters of a model from others: a hash of their names, shapes, encodings and values, of
    what is stored in a file of SAMPLED bytes at three places of each."""
    digest = blake2b(digest_size=16)
    for name, shape in model.config.shapes().items():
        tensor = model.tensors.get(name)
        digest.update(f"{name} {shape} {tensor.encoding.name if tensor else model.dtype}\n".encode())
        digest.update(_sample(tensor) if tensor else np.ascontiguousarray(model.parameter(name)).tobytes())
    return digest.hexdigest()


def _sample(tensor: StoredTensor) -> bytes:
    data = tensor.data
    places = (0, len(data) // 2, max(0, len(data) - SAMPLED))
    return b"".join(data[place : place + SAMPLED].tobytes() for place in places)
