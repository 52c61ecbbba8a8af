"""The two kinds of runs that can be compared: a model that runs now, and a recording."""

from __future__ import annotations

import math
import re
from collections import UserDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.stats import Array
from ..decoder.catalogue import has_keys, kind_named
from ..dumps.formats import is_recording, open_recording
from ..dumps.layouts import Fitted, OfRanks, Recorded, Shapes
from ..dumps.recording import Recording
from ..errors import InputError
from ..hooks.event import TraceEvent
from ..interpreter.event_stream import EventStream, Piece
from ..plans.kinds import Softmax
from ..readers.loading import load
from ..text.brief import one_line
from ..text.frozen import frozen

if TYPE_CHECKING:
    from ..models.language_model import LanguageModel, TraceInput
    from ..naming.user_map import NameMap
    from ..rounding.precision import Partial

# Products that apr and llama.cpp save without a bias: patterns of their names, and the missing biases
BEFORE_BIASES = (
    (re.compile("qkv_matmul"), {"attn_bq", "attn_bk", "attn_bv"}),
    (re.compile(r"ffn_(gate|up)-\d+"), {"mlp_bgate", "mlp_bup"}),
)
CACHED = 32  # the number of cached arrays: about as many as in a layer


@frozen
class Unpaired:
    """An event or tensor that was not compared, and the reason."""

    name: str
    reason: str


class ModelRun:
    """A model that runs on the tokens during the comparison."""

    kind = "model, run now"
    statistics: Mapping[str, TraceEvent] = {}  # empty, because a model computes values

    def __init__(self, model: LanguageModel, inputs: TraceInput) -> None:
        self.model, self.inputs, self.origin = model, inputs, model.origin
        self.shapes = model.plan.shapes(len(inputs.tokens))
        self.tokens: tuple[int, ...] | None = inputs.tokens
        self.names = [n for n in self.shapes if n != "loss" or any(t is not None for t in inputs.targets)]
        self.unpaired: list[Unpaired] = []
        self.notes = [*model.assumed, *inputs.notes]
        self._pieces: Iterator[Piece] = iter(())

    def run(self, names: Sequence[str]) -> EventStream:
        """Start the forward pass. After `run`, `pieces` and `take` return values while the model runs."""
        stream = EventStream(self.model, self.inputs, names)
        self._pieces = iter(stream)
        return stream

    def pieces(self, names: Sequence[str]) -> Iterator[Piece]:
        return self._pieces

    def take(self, piece: Piece) -> Piece:
        """Return the next piece of this model's run. `piece` is the current piece of the other model's run.
        Raises InputError if the two pieces belong to different events."""
        own = next(self._pieces)
        if (own.name, own.positions) != (piece.name, piece.positions):
            raise InputError(f"{self.origin} computes {own.name} where the other model computes {piece.name}")
        return own


@dataclass(repr=False)
class RecordedRun:
    """A recording of another run. The arrays are reshaped to `shapes`, the shapes of our events."""

    recording: Recording
    shapes: Shapes
    tokens: tuple[int, ...] | None
    layouts: Mapping[str, str] = field(default_factory=dict)
    model: LanguageModel | None = None  # the model on the other side, or None
    notes: list[str] = field(default_factory=list)
    unpaired: list[Unpaired] = field(default_factory=list)

    __repr__ = one_line

    def __post_init__(self) -> None:
        self.origin, self.kind = self.recording.origin, self.recording.kind
        self.statistics = {} if self.recording.tensors else self.recording.statistics
        self.notes += self.recording.notes
        self.unpaired += [Unpaired(left.recorded.source, left.reason) for left in self.recording.leftovers]
        events = self.recording.tensors or self.statistics
        refused = {name: reason for name in events if (reason := self._refused(name))}
        self.unpaired += refused.values()
        self.names = [name for name in events if name not in refused]

    def _refused(self, name: str) -> Unpaired | None:
        """Return the reason why an event cannot be compared, or None. For example, a tensor may contain
        several events of unknown widths, or values without the bias that our event includes."""
        recorded = self.recording.tensors.get(name)
        if recorded is None:
            return None
        if recorded.beside and name not in self.shapes:
            others = ", ".join(event for event in recorded.beside if event != name)
            return Unpaired(name, f"in one tensor with {others}; without a model the widths are unknown")
        choice = None if self.model is None else self.model.plan.chosen_by.get(name)
        if choice and recorded.shape[:1] == self.shapes[name][:1]:
            used = self.shapes[choice][1]
            found, rest = divmod(used * math.prod(recorded.shape), math.prod(self.shapes[name]))
            if found != used and not rest:
                return Unpaired(name, f"recorded for {found} experts at each position, the model uses {used}")
        biases = set(self.model.config.biases) if self.model is not None else set()
        stem = Path(recorded.source).stem
        if any(pattern.fullmatch(stem) and biases & missing for pattern, missing in BEFORE_BIASES):
            reason = "recorded without the bias, which our event includes"
            return Unpaired(f"{name} in {recorded.source}", reason)
        return None

    def ranks_of(self, name: str) -> OfRanks | None:
        """Return how an event was joined from ranks, or None."""
        return self.recording.tensors[name].ranks if name in self.recording.tensors else None

    def on_rank(self, name: str, rank: int) -> Array:
        """Return the values of a summed or copied event on one rank."""
        ranks = self.ranks_of(name)
        assert ranks is not None
        return self.fitted(name, ranks.parts[rank]).array

    def pieces(self, names: Sequence[str]) -> Iterator[Piece]:
        return map(self._piece, names)

    def take(self, piece: Piece) -> Piece:
        """Return this recording's values of the event that the other side computed. If ranks have different
        values, these are the values that differ most from the other side's."""
        own, ranks = self._piece(piece.name), self.ranks_of(piece.name)
        if ranks is None or not ranks.odd or ranks.how == "joined":
            return own
        copies = [own._replace(value=self.on_rank(piece.name, i)) for i in range(len(ranks.parts))]
        common = [position for position in piece.positions if position in own.positions]
        return max(copies, key=lambda one: float(np.linalg.norm(one.at(common) - piece.at(common))))

    def _piece(self, name: str) -> Piece:
        fitted = self.fitted(name)
        every = range(fitted.array.shape[-2] if fitted.array.ndim else 0)
        return Piece(name, fitted.array, fitted.positions or every)

    def fitted(self, name: str, part: Recorded | None = None) -> Fitted:
        """Return the array of an event, or a rank's `part` of it, reshaped to the shape of our event. Raises
        InputError if the layout is wrong or unclear."""
        recorded = _with_keys_of_the_text(name, part or self.recording.tensors[name], self.shapes[name])
        recorded = replace(recorded, layout=self.layouts.get(name, recorded.layout))
        fitted = self.recording.fitted(name, recorded, self.model, self.shapes)
        if fitted.note and (note := f"{name}: {fitted.note}") not in self.notes:
            self.notes.append(note)
        return fitted

    def whole_and_partial(self, names: Sequence[str]) -> tuple[RecordedEvents, Partial]:
        """Return the events recorded at all positions, and the arrays and positions of other events."""
        partial, recorded_names = dict[str, tuple[Array, tuple[int, ...]]](), set(self.names)
        names = [name for name in names if name in recorded_names]
        for name in names:
            recorded = self.recording.tensors[name]
            if not recorded.beside and math.prod(recorded.shape) < math.prod(self.shapes[name]):
                fitted = self.fitted(name)
                if fitted.positions is not None:
                    partial[name] = fitted.array, fitted.positions
        return RecordedEvents(self, [name for name in names if name not in partial]), partial


def _with_keys_of_the_text(name: str, recorded: Recorded, shape: tuple[int, ...]) -> Recorded:
    """Remove the padding from llama.cpp's attention weights: zeros for unused slots of the KV cache. Reading
    the result raises InputError if the padding is not all zeros. Give the queries of a pass the later keys of
    the text, with zeros."""
    more = shape[-1] - recorded.shape[-1] if shape and recorded.shape else 0
    if recorded.rows is not None and more > 0 and has_keys(name):
        width = [*[(0, 0)] * (len(recorded.shape) - 1), (0, more)]
        wider = (*recorded.shape[:-1], shape[-1])
        return replace(recorded, shape=wider, read=lambda: np.pad(recorded.read(), width))
    padded = isinstance(kind_named(name), Softmax) and Path(recorded.source).stem.startswith("kq_soft_max")
    if not padded or recorded.shape[-1] <= shape[-1]:
        return recorded
    keys = shape[-1]

    def read() -> Array:
        values = recorded.read()
        if values[..., keys:].any():
            raise InputError(f"{recorded.source}: expected attention weights of {keys} keys, found more")
        return values[..., :keys]

    return replace(recorded, shape=(*recorded.shape[:-1], keys), read=read)


class RecordedEvents(UserDict[str, Any]):
    """The events of a recording that cover all positions, in order of computation. The last arrays are
    cached, because each event is read as an output and again as an input."""

    def __init__(self, side: RecordedRun, names: Sequence[str]) -> None:
        super().__init__(dict.fromkeys(names))
        self._read = lru_cache(CACHED)(lambda name: side.fitted(name).array)

    def __getitem__(self, name: str) -> Array:
        if name not in self:
            raise KeyError(name)
        return self._read(name)


ComparedRun = ModelRun | RecordedRun


def first_model(sides: Sequence[ComparedRun]) -> ModelRun | None:
    """Return the first side that is a model, or None."""
    return next((side for side in sides if isinstance(side, ModelRun)), None)


def open_source(path: Path, names: NameMap | None = None, **options: Any) -> LanguageModel | Recording:
    """Open the model or the recording at a path. `options` are passed to `load`. Raises FileFormatError."""
    is_model = path.suffix in (".gguf", ".apr") or (path / "config.json").is_file()
    if not is_model and is_recording(path):
        return open_recording(path, names)
    return load(path, **options)
