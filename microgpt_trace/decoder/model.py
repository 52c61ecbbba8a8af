"""Decoder: a production model, its stored weights and its tokens. Knows no file format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ..architecture.edits import Edit, Report, unreported
from ..architecture.interpreter.edited_runs import logits_of_edits
from ..architecture.interpreter.logits_forward import ROWS, logits_forward, run_packed, run_together
from ..architecture.model import Ability, TapOf, TraceInput
from ..architecture.packs import Pack, ReadText
from ..architecture.plans.event_words import steps_of
from ..architecture.plans.plan import Plan
from ..arrays.encodings import StoredTensor, stored_column
from ..arrays.linear import linear
from ..arrays.stats import Array
from ..arrays.threads import available_cores
from ..errors import InputError
from ..hooks.bus import SILENT, HookBus, Tap
from ..notebook import in_notebook
from ..text.brief import one_line
from .config import DecoderConfig
from .prompt import named_token_of, prepare, read_text

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

MOST = 1 << 28  # weights that are kept, of 4 bytes each: 1 GB


@dataclass(frozen=True, repr=False)
class Decoder:
    """A decoder one can trace: its weights stay in their file until a computation needs them."""

    family: ClassVar[Literal["decoder"]] = "decoder"
    kind: ClassVar[str] = "a production model"
    abilities: ClassVar[frozenset[Ability]] = frozenset({"prompts"})
    dtype: ClassVar[str] = "float32"
    corpus_parts: ClassVar[tuple[str, ...]] = ("",)
    trained_on: ClassVar[str] = ""
    ends_with_bos: ClassVar[bool] = False
    pack_size: ClassVar[int] = 8  # more gain little, and what is read as a whole should be small
    pass_rows: ClassVar[int] = ROWS
    config: DecoderConfig
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    origin: str  # the file
    format: str
    load_vocabulary: Callable[[], Vocabulary | None] = field(repr=False, default=lambda: None)
    metadata: Mapping[str, Any] = field(repr=False, default_factory=dict)
    assumed: tuple[str, ...] = ()

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        about = {"origin": self.origin, "format": self.format, "architecture": self.config.architecture}
        return one_line(self, **about, parameters=self.config.parameter_count)

    @cached_property
    def hooks(self) -> HookBus:
        """The hook bus of this model's events; `trace` runs under it."""
        return HookBus(list(self.plan.values()))

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The tokens, where the file brings them."""
        return self.load_vocabulary()

    @property
    def chain(self) -> tuple[str, ...]:
        """The events of a layer in the words that `apr trace` has for them."""
        return steps_of(self.plan.layers[0])

    def describe(self) -> dict[str, Any]:
        """What identifies the model, as plain data."""
        tensors, bytes_ = Counter[str](), Counter[str]()
        for tensor in self.tensors.values():
            tensors[tensor.encoding.name] += 1
            bytes_[tensor.encoding.name] += tensor.data.size
        return {
            "family": self.family,
            "origin": self.origin,
            "format": self.format,
            "parameters": self.config.parameter_count,
            "dtype": self.dtype,
            "config": self.config.describe(),
            "encodings": [
                {"type": kind, "tensors": tensors[kind], "bytes": size} for kind, size in bytes_.most_common()
            ],
            "layer": list(self.chain),
            "vocabulary": self.vocabulary.describe() if self.vocabulary else None,
            "assumed": list(self.assumed),
        }

    @property
    def plan(self) -> Plan:
        return self.config.plan

    @property
    def bos(self) -> int | None:
        return self.vocabulary.bos_id if self.vocabulary else None

    @property
    def names_tokens(self) -> bool:
        return self.vocabulary is not None

    def alone(self) -> Decoder:
        return replace(self)

    def for_many_passes(self) -> Decoder:
        if self.config.parameter_count > MOST:
            return self
        tensors = {name: tensor.unpacked() for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors, load_vocabulary=lambda: self.vocabulary)

    def read(self, text: str | None = None, tokens: Sequence[int] | None = None) -> TraceInput:
        found = prepare(self, text, tokens)
        return found if tokens is None else replace(found, notes=())  # which would say "tokens as given"

    @property
    def longest_text(self) -> int:
        return self.vocabulary.longest_text if self.vocabulary else 0

    def read_many(
        self, texts: Sequence[str], most: int | None = None, chat: bool = False
    ) -> list[ReadText | str]:
        return [read_text(self, text, most, chat) for text in texts]

    def corpus_part(self, text: str) -> int:
        return 0

    def training_texts(self, texts: Sequence[str]) -> list[str]:
        return []

    def run_pack(self, pack: Pack, tap: Tap) -> None:
        run_packed(self, pack, tap)

    def seen(self, inputs: TraceInput, position: int) -> str:
        return inputs.labels[position]

    def label(self, token: int, target: bool = False) -> str:
        return str(token) if self.vocabulary is None else self.vocabulary.label(token)

    def spelled(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens)) if self.vocabulary is None else self.vocabulary.spelled(tokens)

    def token(self, text: str) -> int:
        if self.vocabulary is None:
            raise InputError(f"token {text!r}: {self.origin} names no tokens; give an id like #7042")
        return named_token_of(self.vocabulary, text.replace("␣", " "))

    def parameter(self, name: str, rows: slice | Array | None = None) -> Array:
        tensor = self.tensors[name]
        if isinstance(rows, np.ndarray):
            return tensor.take(rows)
        start, stop, step = (rows or slice(None)).indices(tensor.shape[0])
        return tensor.rows(start, stop)[::step] if step > 0 else tensor.rows(0, tensor.shape[0])[rows]

    def column(self, name: str, column: int) -> Array:
        return stored_column(self.tensors[name], column)

    def product(self, x: Array, name: str) -> Array:
        return linear(x, self.tensors[name], min(2, available_cores()))

    def logits(self, inputs: TraceInput, rows: Sequence[int], tap: Tap = SILENT) -> Array:
        return logits_forward(self, inputs, rows, tap)

    def run(self, inputs: TraceInput, tap_of: TapOf, n: int) -> None:
        run_together(self, inputs, tap_of, n)

    def edited_logits(
        self, inputs: TraceInput, edits: Sequence[Edit], rows: Sequence[int], report: Report = unreported
    ) -> Iterator[tuple[int, Array]]:
        return logits_of_edits(self, inputs, edits, rows, report)
