"""Decoder: a production model with its stored weights and its vocabulary, and the encoding of prompts. This
module needs no file format."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import cached_property
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..arrays.encodings import StoredTensor
from ..arrays.kept_weights import KeptWeights
from ..arrays.products import linear, linear_backward
from ..arrays.stats import Array
from ..arrays.threads import MEMORY, available_cores
from ..errors import FileFormatError, InputError, MicrogptError
from ..grouping import grouped
from ..hooks.bus import HookBus
from ..interpreter.edited_runs import logits_of_edits
from ..interpreter.logits_forward import ROWS, logits_forward, run_packed, run_together
from ..models.language_model import TraceInput
from ..models.packs import UNKNOWN, ReadText
from ..notebook import in_notebook
from ..plans.event_words import steps_of
from ..plans.kinds import Activation, Experts, Rotation, Scores
from ..plans.plan import Plan, layer_of
from ..text.brief import one_line
from ..text.frozen import frozen
from ..text.printable import quoted, shown_token
from ..text.wording import counted
from ..untrusted_files import folder_of
from ..vocabulary.huggingface import convertible
from .config import DecoderConfig

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

DEFAULT = "The capital of France is"
MOST_PIECES = 8  # tokens of a text that an error shows


@frozen(slots=False)
class Decoder:
    """A decoder that can be traced. The weights stay in the file until a computation needs them."""

    family: ClassVar[str] = "decoder"
    kind: ClassVar[str] = "a production model"
    trainable: ClassVar[bool] = False
    takes_prompts: ClassVar[bool] = True
    untrained: ClassVar[bool] = False
    dtype: ClassVar[str] = "float32"
    corpus_parts: ClassVar[tuple[str, ...]] = ("",)
    trained_on: ClassVar[str] = ""
    ends_with_bos: ClassVar[bool] = False
    pack_size: ClassVar[int] = 8  # larger packs are hardly faster and need more memory
    pass_rows: ClassVar[int] = ROWS
    config: DecoderConfig
    tensors: Mapping[str, StoredTensor] = field(repr=False)
    origin: str  # the path of the model's file
    format: str
    load_vocabulary: Callable[[], Vocabulary | None] = field(repr=False, default=lambda: None)
    metadata: Mapping[str, Any] = field(repr=False, default_factory=dict)
    assumed: tuple[str, ...] = ()
    kept: KeptWeights | None = field(repr=False, default=None)  # None: only runs of many passes keep weights

    _repr_html_ = in_notebook
    run, run_pack, logits, edited_logits = run_together, run_packed, logits_forward, logits_of_edits

    def __repr__(self) -> str:
        about = {"origin": self.origin, "format": self.format, "architecture": self.config.architecture}
        return one_line(self, **about, parameters=self.config.parameter_count)

    @cached_property
    def hooks(self) -> HookBus:
        """The bus that delivers the model's events to hooks."""
        return HookBus(list(self.plan.values()))

    @cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The vocabulary of the model's file, or None if the file has no vocabulary."""
        return self.load_vocabulary()

    def describe(self) -> dict[str, Any]:
        """Return a description that identifies the model, as plain data."""
        tensors, bytes_ = Counter[str](), Counter[str]()
        for tensor in self.tensors.values():
            tensors[tensor.encoding.name] += 1
            bytes_[tensor.encoding.name] += tensor.size_in_bytes
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
            "layer": list(steps_of(self.plan.layers[0])),  # the names of the steps in `apr trace`
            **_differences_of_layers(self.plan),
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
        return self if self.kept is not None else self.keeping(MEMORY)

    def keeping(self, memory: int) -> Decoder:
        """Return this model. The new model keeps up to `memory` bytes of weights (KeptWeights)."""
        kept = KeptWeights(self.tensors.values(), memory)
        return replace(self, kept=kept, load_vocabulary=lambda: self.vocabulary)

    def read(self, text: str | None = None, tokens: Sequence[int] | None = None) -> TraceInput:
        inputs = prepare(self, text, tokens)
        return inputs if tokens is None else replace(inputs, notes=())  # omits the note on tokens

    def prompt(
        self, text: str | None, tokens: Sequence[int] | None, special: bool, chat: bool, room: int
    ) -> TraceInput:
        return prepare(self, text, tokens, special, chat, room)

    def ends_text(self, token: int) -> bool:
        return self.vocabulary is not None and self.vocabulary.ends_text(token)

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

    def training_gradients(self, inputs: TraceInput) -> dict[str, Array]:
        return {}

    def seen(self, inputs: TraceInput, position: int) -> str:
        return inputs.labels[position]

    def label(self, token: int, target: bool = False) -> str:
        return str(token) if self.vocabulary is None else self.vocabulary.label(token)

    def spelled(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens)) if self.vocabulary is None else self.vocabulary.spelled(tokens)

    def token(self, text: str) -> int:
        if self.vocabulary is None:
            raise InputError(f"token {text!r}: {self.origin} has no vocabulary; give an id such as #7042")
        return named_token_of(self.vocabulary, text.replace("␣", " "))

    def parameter(self, name: str, rows: slice | Array | None = None) -> Array:
        tensor = self.tensors[name]
        if isinstance(rows, np.ndarray):
            return tensor.take(rows)
        start, stop, step = (rows or slice(None)).indices(tensor.shape[0])
        return tensor.rows(start, stop)[::step] if step > 0 else tensor.rows(0, tensor.shape[0])[rows]

    def column(self, name: str, column: int) -> Array:
        return self.tensors[name].column(column)

    def product(self, x: Array, name: str, expert: int | None = None) -> Array:
        return linear(x, self._matrix(name, expert), min(2, available_cores()))

    def product_backward(self, dy: Array, name: str, expert: int | None = None) -> Array:
        return linear_backward(dy, self._matrix(name, expert), min(2, available_cores()))

    def _matrix(self, name: str, expert: int | None) -> StoredTensor:
        tensor = self.tensors[name]
        if self.kept is not None:
            return self.kept.matrix(tensor, expert)
        return tensor if expert is None else tensor.of_expert(expert)


def _differences_of_layers(plan: Plan) -> dict[str, Any]:
    """Describe the layers of a model whose layers differ, or whose RoPE turns a part of each head."""
    turns, differences = plan.of_kind(Rotation), dict[str, Any]()
    by_kind = grouped(turns, lambda row: (row.kind.rope, row.kind.channels))
    partial = any(row.kind.channels < row.kind.head_dim for row in turns)
    if partial or len(by_kind) > 1 or 0 < len({row.layer for row in turns}) < len(plan.layers):
        differences["rope"] = [
            {
                "theta": rope.theta,
                "scaling": rope.kind,
                "factor": rope.factor,
                "channels": channels,
                "layers": list(dict.fromkeys(row.layer for row in rows)),
            }
            for (rope, channels), rows in by_kind.items()
        ]
    sizes = grouped(range(len(plan.layers)), lambda layer: _sizes(plan, layer))
    if len(sizes) > 1:
        names = ("head_width", "key_value_heads", "inner", "keys_of")
        differences["sizes"] = [
            {**dict(zip(names, own, strict=True)), "layers": layers} for own, layers in sizes.items()
        ]
    if len({tuple(type(row.kind) for row in rows) for rows in plan.layers}) > 1:
        differences["layers_differ"] = True
    return differences


def _sizes(plan: Plan, layer: int) -> tuple[int, int, int | None, int | None]:
    """Return the width of a head, the number of key-value heads, the inner width of the MLP unless the model
    has experts, and the earlier layer whose keys and values the layer reads."""
    scores = next(row for row in plan.of_kind(Scores) if row.layer == layer)
    gate = next(row.inputs[0] for row in plan.layers[layer] if isinstance(row.kind, Activation))
    inner = None if plan.of_kind(Experts) else plan.open_shapes[gate][1]
    source = layer_of(scores.inputs[1])
    return scores.kind.head_dim, max(scores.kind.group) + 1, inner, None if source == layer else source


def prepare(
    model: Decoder, text: str | None, tokens: Sequence[int] | None = None, special: bool = False,
    chat: bool = False, room: int = 0,
) -> TraceInput:  # fmt: skip
    """Encode a prompt and check that `room` more tokens fit into the context.

    Raises InputError if the prompt is empty, is too long, or contains an unknown token id.
    """
    vocabulary, notes = model.vocabulary, []
    if tokens is not None:
        if text is not None or special or chat:
            raise InputError("--tokens cannot be combined with a text, --special or --chat")
        ids = list(map(index, tokens))
        text = vocabulary.decode([i for i in ids if 0 <= i < vocabulary.size]) if vocabulary else ""
        notes.append("the tokens are used as given")
    else:
        text = DEFAULT if text is None else text
        advice = "give the prompt as --tokens 1,2,3"
        vocabulary = _vocabulary(model, advice)
        text = vocabulary.chat(text) if chat else text
        try:
            ids = vocabulary.encode(text, special=special, chat=chat)
        except FileFormatError as error:
            raise FileFormatError(f"{error}; {advice}") from error
        if chat:
            notes.append("the text was rendered with the file's chat template; special tokens were parsed")
            if any("strftime_now" in template for template in vocabulary.templates.values()):
                notes.append("the chat template may contain today's date")
        elif special:
            notes.append("special tokens in the text were parsed")
    _check(model, ids, room)
    labels = tuple(map(model.label, ids))
    return TraceInput(text, tuple(ids), (*ids[1:], None), labels, (*labels[1:], None), tuple(notes))


def read_text(model: Decoder, text: str, most: int | None, chat: bool) -> ReadText | str:
    """Encode at most `most` tokens of a text, or return the reason why the text does not fit the model."""
    vocabulary = _vocabulary(model)
    text = vocabulary.chat(text) if chat and len(text) <= vocabulary.longest_text else text
    if len(text) > vocabulary.longest_text:
        return f"longer than {vocabulary.longest_text:,} characters"
    ids = vocabulary.encode(text, chat=chat)[:most]
    if not ids:
        return "without tokens"
    limit = model.config.context_length
    if len(ids) > limit + (most == limit + 1):  # a caller with `most` = limit + 1 cuts long texts
        return f"longer than the context of {limit:,} tokens"
    return ReadText(np.array([*ids, UNKNOWN]))


def _vocabulary(model: Decoder, otherwise: str = "") -> Vocabulary:
    """Return the model's vocabulary, or raise InputError with the advice `otherwise`."""
    if model.vocabulary is not None:
        return model.vocabulary
    folder = folder_of(Path(model.origin))
    source = convertible(folder) if model.format.startswith("Hugging Face") else ""
    if not source:
        raise InputError(f"{model.origin}: found no tokenizer; {otherwise or 'this model cannot read texts'}")
    name = json.dumps(str(folder), ensure_ascii=False)
    code = f"from transformers import AutoTokenizer as A; A.from_pretrained({name}).save_pretrained({name})"
    needs = " (with sentencepiece and protobuf)" if source == "tokenizer.model" else ""
    raise InputError(
        f"{model.origin}: found {source} but no tokenizer.json, which transformers{needs} can write: "
        f"python -c {quoted(code)}" + (f"; or {otherwise}" if otherwise else "")
    )


def _check(model: Decoder, ids: Sequence[int], room: int) -> None:
    limit, size = model.config.context_length, model.config.vocab_size
    if not ids:
        raise InputError("the prompt is empty: expected at least one token, because this model adds no BOS")
    wrong = next((i for i in ids if not 0 <= i < size), None)
    if wrong is not None:
        raise InputError(f"token {wrong}: expected an id from 0 to {size - 1:,}")
    if len(ids) + room > limit:
        found = counted(len(ids), "token") + (f" and {room:,} to generate" if room else "")
        raise InputError(f"the context holds at most {limit:,} tokens, found {found}")


def named_token_of(vocabulary: Vocabulary, text: str) -> int:
    """Return the token with this text. Raises InputError if no token has this text. The error shows how the
    text is split into tokens, or suggests the text with or without a leading space."""

    def spelled(text: str) -> int | None:
        piece = text.encode("utf-8", "surrogatepass")  # an argument may contain bytes that are not UTF-8
        return next((i for i in range(vocabulary.size) if piece and vocabulary.piece(i) == piece), None)

    token = spelled(text)
    if token is not None:
        return token
    near = " " + text if not text.startswith(" ") else text.strip()
    other = spelled(near)
    hint = f"; '{shown_token(near)}' is #{other}" if other is not None else _split(vocabulary, text)
    raise InputError(f"token '{shown_token(text)}': this model has no such token{hint}")


def _split(vocabulary: Vocabulary, text: str) -> str:
    """Return a hint with the tokens of a text, or "" if the text cannot be encoded."""
    try:
        pieces = [f"{shown_token(vocabulary.label(i))} (#{i})" for i in vocabulary.encode(text)]
    except MicrogptError:
        return ""
    return f"; the text is split into {' '.join(pieces[:MOST_PIECES])}" if pieces else ""
