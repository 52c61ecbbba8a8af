"""What every model is to the rest of the program, and what it reads. Knows no implementation.

A model reads a text, has parameters, labels tokens, computes logits under hooks and emits an event for every
array on the way. What only some do is an ability that they name.
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

# "gradients": a backward pass, steps and training. "prompts": tokens in place of a text, chat templates, the
# lens and continuations.
Ability = Literal["gradients", "prompts"]
TapOf = Callable[[Sequence[int]], Tap]  # the tap of some of several sequences, by their numbers


@frozen
class TraceInput:
    """What was traced: tokens, and what follows each of them. A prompt's last token has no target.

    `notes` say what was changed before (capitals lowered) or taken (special tokens parsed).
    """

    text: str
    tokens: tuple[int, ...]
    targets: tuple[int | None, ...]
    labels: tuple[str, ...]
    target_labels: tuple[str | None, ...]
    notes: tuple[str, ...] = ()


class LanguageModel(Protocol):
    """A model one can trace: microGPT, or a decoder whose weights stay in their file."""

    family: ClassVar[str]  # "microgpt" or "decoder", as documents name it
    kind: ClassVar[str]  # what it is in words: "a microGPT"
    abilities: ClassVar[frozenset[Ability]]
    ends_with_bos: ClassVar[bool]  # whether what follows the last token is known: BOS, as after a name
    pack_size: ClassVar[int]  # how many texts are run together where there are many
    corpus_parts: ClassVar[tuple[str, ...]]  # whose predictions are measured apart

    @property
    def origin(self) -> str:
        """ "untrained, seed 42", or the file."""

    @property
    def assumed(self) -> tuple[str, ...]:
        """What the file does not say, and what was taken for it."""

    @property
    def config(self) -> Dimensions: ...
    @property
    def hooks(self) -> HookBus:
        """The bus of this model's events; a trace runs under it."""

    @property
    def plan(self) -> Plan:
        """How it computes, row by row."""

    @property
    def dtype(self) -> str:
        """Of the computation: "float32"."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The parameters that stay in a file, as it stores them; none of a microGPT's."""

    @property
    def bos(self) -> int | None:
        """The token that begins a text, where the model knows one."""

    @property
    def names_tokens(self) -> bool:
        """Whether it brings a tokenizer."""

    def describe(self) -> dict[str, Any]:
        """What identifies the model, as plain data."""

    def alone(self) -> LanguageModel:
        """The same model with a bus of its own, which no hook is subscribed to."""

    def for_many_passes(self) -> LanguageModel:
        """This model as it is best run over and over: a small one may keep its weights unpacked."""

    def read(self, text: str | None = None, tokens: Sequence[int] | None = None) -> TraceInput:
        """What it reads of a text (None: its usual one), or of token ids in place of one. Raises InputError
        for what does not fit it."""

    @property
    def pass_rows(self) -> int:
        """How many rows a pass over several texts has at most."""

    @property
    def longest_text(self) -> int:
        """No text of more characters fits it."""

    def read_many(
        self, texts: Sequence[str], most: int | None = None, chat: bool = False
    ) -> list[ReadText | str]:
        """What it reads of many texts, of each at most so many tokens, or as a message of a chat; of one
        that does not fit it the reason. Raises InputError for what it cannot do."""

    @property
    def trained_on(self) -> str:
        """Identifies the data that it was trained on, where that is known."""

    def corpus_part(self, text: str) -> int:
        """Which of the corpus's parts a text belongs to."""

    def training_texts(self, texts: Sequence[str]) -> list[str]:
        """What training would take of texts, as it would have it; nothing where it knows no training."""

    def run_pack(self, pack: Pack, tap: Tap) -> None:
        """One forward pass over texts that were read, up to the logits at least. The rows of all texts come
        together, scores and weights once for each group of equal lengths, [n, H, T, T], logits in parts where
        they are many."""

    def seen(self, inputs: TraceInput, position: int) -> str:
        """What it has read when it predicts the token after a position, in short; "" for nothing."""

    def label(self, token: int, target: bool = False) -> str:
        """A token's text. `target`: as what follows, which may be EOS."""

    def spelled(self, tokens: Sequence[int]) -> str:
        """The text of tokens that follow one another, which may make one character together."""

    def token(self, text: str) -> int:
        """The token of a text, with ␣ for blanks. Raises InputError where it is none."""

    def parameter(self, name: str, rows: slice | Array | None = None) -> Array:
        """A parameter [out, in] or [out] in Hugging Face order, or some of its rows."""

    def column(self, name: str, column: int) -> Array:
        """A column of a matrix: [out, in] -> [out]"""

    def product(self, x: Array, name: str) -> Array:
        """x @ W.T without a bias: [T, in] -> [T, out]"""

    def logits(self, inputs: TraceInput, rows: Sequence[int], tap: Tap = SILENT) -> Array:
        """One forward pass; the logits [n, V] of these positions, as used."""

    def run(self, inputs: TraceInput, tap_of: TapOf, n: int) -> None:
        """n forward passes over the same tokens up to the loss, each under its tap; what nobody listens to
        is left out where that saves work."""

    def edited_logits(
        self, inputs: TraceInput, edits: Sequence[Edit], rows: Sequence[int], report: Report = unreported
    ) -> Iterator[tuple[int, Array]]:
        """The logits [n, V] of these positions under each edit, with the edit's number, in any order."""


def file_order(model: LanguageModel | None, name: str) -> Array | None:
    """For each channel of q or k where an engine has it that computes with rows as the model's file has them;
    None for other events, and where the file has them in our order."""
    if model is None or name not in model.plan:
        return None
    kind = model.plan[model.plan.source(name)].kind
    tensor = model.tensors.get(kind.weight) if isinstance(kind, Linear) else None
    return tensor.order if tensor is not None and tensor.permuted else None
