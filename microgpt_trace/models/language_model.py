"""LanguageModel: the interface through which the program uses a model. TraceInput: the tokens of a run.
Scalar: the number that a backward pass differentiates. Knows no implementation.

A model encodes a text, has parameters, labels tokens and computes logits. A model emits each computed array
as an event, and hooks may replace the array. Properties say what only some models can do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..arrays.stats import Array
from ..hooks.bus import SILENT, HookBus, Tap
from ..hooks.edits import Edit
from ..plans.kinds import Linear
from ..plans.plan import Plan
from ..progress import Report, unreported
from ..text.frozen import frozen
from .packs import Pack, ReadText

if TYPE_CHECKING:
    from ..arrays.encodings import StoredTensor
    from ..plans.blocks import Dimensions

TapOf = Callable[[Sequence[int]], Tap]  # maps the numbers of sequences in a pass to a tap


@frozen
class TraceInput:
    """The tokens of a traced text, and the target of each token: the next token. The last token of a prompt
    has no target.

    `notes` tell the user how the model changed or parsed the text, for example that capitals were lowered.
    """

    text: str
    tokens: tuple[int, ...]
    targets: tuple[int | None, ...]
    labels: tuple[str, ...]
    target_labels: tuple[str | None, ...]
    notes: tuple[str, ...] = ()


@frozen
class Scalar:
    """The number whose gradients a run has: the loss, or the logit of the token `target` at a position,
    minus the logit of the token `against` if there is one. `note` says why it is not the loss."""

    name: str  # such as "loss" or "logit(␣Paris)"
    position: int | None = None
    target: int | None = None
    against: int | None = None
    note: str = ""


class LanguageModel(Protocol):
    """A model that can be traced: a microGPT, or a decoder whose weights stay in the model file."""

    family: ClassVar[str]  # "microgpt" or "decoder", as in JSON documents
    kind: ClassVar[str]  # the family in words: "a microGPT"
    trainable: ClassVar[bool]  # True if training can change the parameters, which are in memory
    takes_prompts: ClassVar[bool]  # True if a text may be token ids or a chat, and the model continues a text
    ends_with_bos: ClassVar[bool]  # True if BOS follows the last token of a text
    pack_size: ClassVar[int]  # the number of texts in one pass of a survey
    corpus_parts: ClassVar[tuple[str, ...]]  # a survey measures each part separately

    @property
    def origin(self) -> str:
        """The model's file, or a description such as "untrained, seed 42"."""

    @property
    def assumed(self) -> tuple[str, ...]:
        """The assumptions that replace information missing from the file."""

    @property
    def untrained(self) -> bool:
        """True if the parameters are known to be random."""

    @property
    def config(self) -> Dimensions: ...
    @property
    def hooks(self) -> HookBus:
        """The bus that delivers the model's events to hooks."""

    @property
    def plan(self) -> Plan:
        """The model as rows of operations in order of computation."""

    @property
    def dtype(self) -> str:
        """The dtype in which the model computes, such as "float32"."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The parameters as stored in the model's file. The mapping is empty for a microGPT."""

    @property
    def bos(self) -> int | None:
        """The token that begins a text, or None if the model has no such token."""

    @property
    def names_tokens(self) -> bool:
        """True if the model has a tokenizer."""

    def describe(self) -> dict[str, Any]:
        """Return a description that identifies the model, as plain data."""

    def alone(self) -> LanguageModel:
        """Return the same model with a new hook bus that has no hooks."""

    def for_many_passes(self) -> LanguageModel:
        """Return this model prepared for many passes. A small model may keep its weights unpacked."""

    def read(self, text: str | None = None, tokens: Sequence[int] | None = None) -> TraceInput:
        """Encode `text`, by default the model's default text. If `tokens` contains token ids, use the ids
        instead of a text. Raises InputError if the text or an id does not fit the model."""

    def prompt(
        self, text: str | None, tokens: Sequence[int] | None, special: bool, chat: bool, room: int
    ) -> TraceInput:
        """Encode the text of a trace like `read`, and say in a note how the text was read. `special` parses
        special tokens in the text, and `chat` applies the chat template. `room` more tokens must fit into the
        context. A model that takes no prompts ignores these three."""

    def ends_text(self, token: int) -> bool:
        """Return True if this token ends a text."""

    @property
    def pass_rows(self) -> int:
        """The largest number of rows in a pass over several texts."""

    @property
    def longest_text(self) -> int:
        """The largest number of characters in a text."""

    def read_many(
        self, texts: Sequence[str], most: int | None = None, chat: bool = False
    ) -> list[ReadText | str]:
        """Encode at most `most` tokens of each text. If `chat` is true, each text is a chat message. If a
        text does not fit, return the reason. Raises InputError if the model cannot encode texts."""

    @property
    def trained_on(self) -> str:
        """An identifier of the training data, or "" if the training data is not known."""

    def corpus_part(self, text: str) -> int:
        """Return the number of the corpus part that a text belongs to."""

    def training_texts(self, texts: Sequence[str]) -> list[str]:
        """Return the texts as training would read them, or [] if the model cannot be trained."""

    def run_pack(self, pack: Pack, tap: Tap) -> None:
        """Run one forward pass over texts, at least up to the logits. Each event contains the rows of all
        texts. Scores and weights are emitted once for each group of texts of equal length, as [n, H, T, T].
        Logits may be emitted in parts."""

    def seen(self, inputs: TraceInput, position: int) -> str:
        """Return a short label of the text that the model reads to predict the token after a position."""

    def label(self, token: int, target: bool = False) -> str:
        """Return a token's text. If `target` is true, label BOS as EOS, because the token ends the text."""

    def spelled(self, tokens: Sequence[int]) -> str:
        """Return the text of consecutive tokens. One character may consist of several tokens."""

    def token(self, text: str) -> int:
        """Return the token with this text, where ␣ means a space. Raises InputError if no token has this
        text."""

    def parameter(self, name: str, rows: slice | Array | None = None) -> Array:
        """Return a parameter [out, in] or [out] in Hugging Face order, or only its rows `rows`."""

    def column(self, name: str, column: int) -> Array:
        """Return a column of a matrix: [out, in] -> [out]"""

    def product(self, x: Array, name: str, expert: int | None = None) -> Array:
        """Return x @ W.T without a bias, where W may be the matrix of an expert: [T, in] -> [T, out]"""

    def product_backward(self, dy: Array, name: str, expert: int | None = None) -> Array:
        """Return dy @ W, the gradient of x in `product`: [T, out] -> [T, in]"""

    def logits(self, inputs: TraceInput, rows: Sequence[int], tap: Tap = SILENT) -> Array:
        """Run a forward pass. Return logits [n, V] of the positions `rows` after replacements by hooks."""

    def run(self, inputs: TraceInput, tap_of: TapOf, n: int) -> None:
        """Run n forward passes over the same tokens up to the loss. Each pass has a separate tap. Values that
        no listener requests may be skipped."""

    def training_gradients(self, inputs: TraceInput) -> Mapping[str, Array]:
        """Return the gradients of the loss as training computes them, but in float64, by parameter. The
        mapping is empty if the model is not trainable."""

    def edited_logits(
        self, inputs: TraceInput, edits: Sequence[Edit], rows: Sequence[int], report: Report = unreported
    ) -> Iterator[tuple[int, Array]]:
        """Yield the number of each edit and the logits [n, V] of the positions `rows`, in any order."""


def head_dim(model: LanguageModel, name: str) -> int:
    """Return the width of a head of an event, or of the config if the plan finds no heads in the event."""
    heads = model.plan.heads.get(name)
    return heads.dim if heads else model.config.head_dim


def file_order(model: LanguageModel | None, name: str) -> Array | None:
    """Return the order of q's or k's channels in the model's file. Another engine may use this order. Return
    None if the file has Hugging Face order, or if the event is not q or k."""
    if model is None or name not in model.plan:
        return None
    kind = model.plan[model.plan.source(name)].kind
    tensor = model.tensors.get(kind.weight) if isinstance(kind, Linear) else None
    return tensor.order if tensor is not None and tensor.permuted else None
