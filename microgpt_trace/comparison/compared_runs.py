"""What is compared: a model that is run now, or a recording. Either gives pieces of events by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architecture.plans.catalogue import kind_named
from ..architecture.plans.kinds import Softmax
from ..arrays.stats import Array
from ..dumps.layouts import Fitted, Recorded
from ..dumps.recording import Recording
from ..errors import InputError
from ..hooks.event import TraceEvent
from ..readers.loading import load
from ..running.event_stream import EventStream, Piece
from ..text.brief import frozen, one_line

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel, TraceInput
    from ..dumps.mapping import NameMap

# apr's and llama.cpp's names of products without their biases, and which biases these are
BEFORE_BIASES = (
    (re.compile("qkv_matmul"), {"attn_bq", "attn_bk", "attn_bv"}),
    (re.compile(r"ffn_(gate|up)-\d+"), {"mlp_bgate", "mlp_bup"}),
)
Shapes = Mapping[str, tuple[int, ...]]
KEPT = 32  # arrays, about a layer


@frozen
class Unpaired:
    """What one side has and the other lacks, and why it was not compared."""

    name: str
    reason: str


class ModelRun:
    """A model that runs on the tokens now."""

    kind = "model, run now"
    statistics: Mapping[str, TraceEvent] = {}  # it has values

    def __init__(self, model: LanguageModel, inputs: TraceInput) -> None:
        self.model, self.inputs, self.origin = model, inputs, model.origin
        self.shapes = model.plan.shapes(len(inputs.tokens))
        self.tokens: tuple[int, ...] | None = inputs.tokens
        self.names = [n for n in self.shapes if n != "loss" or any(t is not None for t in inputs.targets)]
        self.unpaired: list[Unpaired] = []
        self.notes = [*model.assumed, *inputs.notes]
        self._pieces: Iterator[Piece] = iter(())

    def run(self, names: Sequence[str]) -> EventStream:
        """Start the pass; `pieces` or `take` then give what comes."""
        stream = EventStream(self.model, self.inputs, names)
        self._pieces = iter(stream)
        return stream

    def pieces(self, names: Sequence[str]) -> Iterator[Piece]:
        return self._pieces

    def take(self, piece: Piece) -> Piece:
        """What this side has beside another side's piece."""
        own = next(self._pieces)
        if (own.name, own.positions) != (piece.name, piece.positions):
            raise InputError(f"{self.origin} computes {own.name} where the other computes {piece.name}")
        return own


@dataclass(repr=False)
class RecordedRun:
    """What another run left, laid out as `shapes` say."""

    recording: Recording
    shapes: Shapes
    tokens: tuple[int, ...] | None
    layouts: Mapping[str, str] = field(default_factory=dict)
    model: LanguageModel | None = None  # whose events these are taken for
    notes: list[str] = field(default_factory=list)
    unpaired: list[Unpaired] = field(default_factory=list)

    __repr__ = one_line

    def __post_init__(self) -> None:
        self.origin, self.kind = self.recording.origin, self.recording.kind
        self.statistics = {} if self.recording.tensors else self.recording.statistics
        self.notes += self.recording.notes
        self.unpaired += [Unpaired(left.recorded.source, left.reason) for left in self.recording.leftovers]
        known = self.recording.tensors or self.statistics
        refused = {name: reason for name in known if (reason := self._refused(name))}
        self.unpaired += refused.values()
        self.names = [name for name in known if name not in refused]

    def _refused(self, name: str) -> Unpaired | None:
        """Why an event cannot be compared: where it begins and ends is not known, or the tensor has a name
        that is before the bias, which our event is after."""
        recorded = self.recording.tensors.get(name)
        if recorded is None:
            return None
        if recorded.beside and name not in self.shapes:
            others = ", ".join(event for event in recorded.beside if event != name)
            return Unpaired(name, f"side by side with {others}, and no model tells their widths")
        biases = set(self.model.config.biases) if self.model is not None else set()
        stem = Path(recorded.source).stem
        if any(before.fullmatch(stem) and biases & of for before, of in BEFORE_BIASES):
            return Unpaired(f"{name} in {recorded.source}", "before the bias, which our event is after")
        return None

    def pieces(self, names: Sequence[str]) -> Iterator[Piece]:
        return map(self._piece, names)

    def take(self, piece: Piece) -> Piece:
        """What this side has beside another side's piece."""
        return self._piece(piece.name)

    def _piece(self, name: str) -> Piece:
        fitted = self.fitted(name)
        whole = range(fitted.array.shape[-2] if fitted.array.ndim else 0)
        return Piece(name, fitted.array, fitted.positions or whole)

    def fitted(self, name: str) -> Fitted:
        """The event's array in our shape. Raises InputError where its layout cannot be told."""
        recorded = _without_padding(name, self.recording.tensors[name], self.shapes[name])
        recorded = replace(recorded, layout=self.layouts.get(name, recorded.layout))
        found = self.recording.fitted(name, recorded, self.model, self.shapes)
        if found.note and (said := f"{name}: {found.note}") not in self.notes:
            self.notes.append(said)
        return found

    def whole_and_partial(
        self, names: Sequence[str]
    ) -> tuple[RecordedEvents, dict[str, tuple[Array, tuple[int, ...] | None]]]:
        """Those of the events that it has in whole, and those of which it has the rows of some positions."""
        partial, own = dict[str, tuple[Array, tuple[int, ...] | None]](), set(self.names)
        known = [name for name in names if name in own]
        for name in known:
            recorded = self.recording.tensors[name]
            if not recorded.beside and math.prod(recorded.shape) < math.prod(self.shapes[name]):
                fitted = self.fitted(name)
                partial[name] = fitted.array, fitted.positions
        return RecordedEvents(self, [name for name in known if name not in partial]), partial


def _without_padding(name: str, recorded: Recorded, shape: tuple[int, ...]) -> Recorded:
    """llama.cpp's attention weights without the columns of keys that no position has yet, which are 0."""
    if not isinstance(kind_named(name), Softmax) or not Path(recorded.source).stem.startswith("kq_soft_max"):
        return recorded
    keys = shape[-1]
    if recorded.shape[-1] <= keys:
        return recorded

    def read() -> Array:
        values = recorded.read()
        if values[..., keys:].any():
            raise InputError(f"{recorded.source}: expected {keys} keys, found weights of more")
        return values[..., :keys]

    return replace(recorded, shape=(*recorded.shape[:-1], keys), read=read)


class RecordedEvents(Mapping[str, Array]):
    """The events that a recording has in whole, in order of computation. The arrays read last are kept: an
    event is read as an output, and as an input or two."""

    def __init__(self, side: RecordedRun, names: Sequence[str]) -> None:
        self._names = dict.fromkeys(names)
        self._read = lru_cache(KEPT)(lambda name: side.fitted(name).array)

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


ComparedRun = ModelRun | RecordedRun


def first_model(sides: Sequence[ComparedRun]) -> ModelRun | None:
    """The first side that is a model, where one is."""
    return next((side for side in sides if isinstance(side, ModelRun)), None)


def opened(path: Path, names: NameMap | None = None, **options: Any) -> LanguageModel | Recording:
    """The model or the recording under a path; `options` are those of `load`. Raises FileFormatError."""
    surely_model = path.suffix in (".gguf", ".apr") or (path / "config.json").is_file()
    if not surely_model:
        from ..dumps.formats import is_recording, open_recording

        if is_recording(path):
            return open_recording(path, names)
    return load(path, **options)
