"""LanguageModel: the interface of a model for the rest of the program; TraceInput: the tokens of a run. Knows
no implementation.

A model encodes a text, has parameters, labels tokens, computes logits under hooks and emits an event for each
array on the way. What only some models can do is an ability that a model lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from ..arrays.stats import Array
from ..hooks.bus import SILENT, HookBus, Tap
from ..text.brief import frozen
from .edits import Edit, Report, unreported
from .packs import Pack, ReadText
from .plans.kinds import Linear
from .plans.plan import Plan

if TYPE_CHECKING:
    from ..arrays.encodings import StoredTensor
    from .plans.blocks import Dimensions

# "gradients": a backward pass, steps and training. "prompts": token ids instead of a text, chat templates,
# the lens and continuations.
Ability = Literal["gradients", "prompts"]
TapOf = Callable[[Sequence[int]], Tap]  # returns the tap of some sequences of a pass, given their numbers


@frozen
class TraceInput:
    """The tokens of a traced text and the token that follows each. A prompt's last token has no target.

    `notes` tell the user how the text was changed or parsed: capitals lowered, special tokens parsed.
    """

    text: str
    tokens: tuple[int, ...]
    targets: tuple[int | None, ...]
    labels: tuple[str, ...]
    target_labels: tuple[str | None, ...]
    notes: tuple[str, ...] = ()


class LanguageModel(Protocol):
    """A model that can be traced: a microGPT, or a decoder whose weights stay in their file."""

    family: ClassVar[str]  # "microgpt" or "decoder", as in JSON documents
    kind: ClassVar[str]  # the family in words: "a microGPT"
    abilities: ClassVar[frozenset[Ability]]
    ends_with_bos: ClassVar[bool]  # True if BOS follows the last token, as after a name
    pack_size: ClassVar[int]  # texts that share a pass where there are many
    corpus_parts: ClassVar[tuple[str, ...]]  # parts of the corpus whose predictions are measured separately

    @property
    def origin(self) -> str:
        """Where the model comes from: "untrained, seed 42", or its file."""

    @property
    def assumed(self) -> tuple[str, ...]:
        """The assumptions made where the file does not say something."""

    @property
    def config(self) -> Dimensions: ...
    @property
    def hooks(self) -> HookBus:
        """The bus of this model's events; a trace runs under its hooks."""

    @property
    def plan(self) -> Plan:
        """The rows of operations by which the model computes."""

    @property
    def dtype(self) -> str:
        """The dtype of the computation: "float32"."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The parameters that stay in a file, as the file stores them; empty for a microGPT."""

    @property
    def bos(self) -> int | None:
        """The token that begins a text, or None if the model has none."""

    @property
    def names_tokens(self) -> bool:
        """True if the model has a tokenizer."""

    def describe(self) -> dict[str, Any]:
        """Return what identifies the model, as plain data."""

    def alone(self) -> LanguageModel:
        """Return the same model with a new bus, which has no hooks."""

    def for_many_passes(self) -> LanguageModel:
        """Return this model prepared for many passes: a small one may keep its weights unpacked."""

    def read(self, text: str | None = None, tokens: Sequence[int] | None = None) -> TraceInput:
        """Encode a text (None: the default text), or take token ids instead of a text. Raises InputError if
        the text or an id does not fit the model."""

    @property
    def pass_rows(self) -> int:
        """The largest number of rows in a pass over several texts."""

    @property
    def longest_text(self) -> int:
        """The largest number of characters that a text may have."""

    def read_many(
        self, texts: Sequence[str], most: int | None = None, chat: bool = False
    ) -> list[ReadText | str]:
        """Encode many texts, at most `most` tokens of each, as chat messages if `chat`. A text that does not
        fit gives the reason instead. Raises InputError if the model cannot encode texts."""

    @property
    def trained_on(self) -> str:
        """An identifier of the training data, or "" where it is not known."""

    def corpus_part(self, text: str) -> int:
        """Return the number of the corpus part that a text belongs to."""

    def training_texts(self, texts: Sequence[str]) -> list[str]:
        """Return the texts as training would read them; empty if the model cannot be trained."""

    def run_pack(self, pack: Pack, tap: Tap) -> None:
        """Run one forward pass over texts, up to the logits at least. Rows of all texts are emitted together,
        scores and weights once for each group of equal lengths, [n, H, T, T], many logits in parts."""

    def seen(self, inputs: TraceInput, position: int) -> str:
        """Return a short label of what the model has read when it predicts the token after a position."""

    def label(self, token: int, target: bool = False) -> str:
        """Return a token's text; with `target`, as a token that follows, which may be EOS."""

    def spelled(self, tokens: Sequence[int]) -> str:
        """Return the text of consecutive tokens; several tokens may make one character."""

    def token(self, text: str) -> int:
        """Return the token with a text, where ␣ stands for a blank. Raises InputError if there is none."""

    def parameter(self, name: str, rows: slice | Array | None = None) -> Array:
        """Return a parameter [out, in] or [out] in Hugging Face order, or some of its rows."""

    def column(self, name: str, column: int) -> Array:
        """Return a column of a matrix: [out, in] -> [out]"""

    def product(self, x: Array, name: str) -> Array:
        """Return x @ W.T without a bias: [T, in] -> [T, out]"""

    def logits(self, inputs: TraceInput, rows: Sequence[int], tap: Tap = SILENT) -> Array:
        """Run one forward pass and return the logits [n, V] of the positions `rows`, as hooks left them."""

    def run(self, inputs: TraceInput, tap_of: TapOf, n: int) -> None:
        """Run n forward passes over the same tokens up to the loss, each under its own tap. Work that no
        listener needs may be skipped."""

    def edited_logits(
        self, inputs: TraceInput, edits: Sequence[Edit], rows: Sequence[int], report: Report = unreported
    ) -> Iterator[tuple[int, Array]]:
        """Yield, for each edit, its number and the logits [n, V] of the positions `rows`, in any order."""


def file_order(model: LanguageModel | None, name: str) -> Array | None:
    """Return the channels of q or k in the order of the model's file, which an engine may compute in; None if
    the file has them in our order, and for other events."""
    if model is None or name not in model.plan:
        return None
    kind = model.plan[model.plan.source(name)].kind
    tensor = model.tensors.get(kind.weight) if isinstance(kind, Linear) else None
    return tensor.order if tensor is not None and tensor.permuted else None
