"""Model: a microGPT with its parameters, its tokenizer and the state of its training."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.bus import HookBus
from ..hooks.event import EventSpec
from ..interpreter.edited_runs import logits_of_edits
from ..interpreter.logits_forward import logits_forward, run_packed, run_together
from ..models.language_model import TraceInput
from ..models.packs import ReadText
from ..notebook import in_notebook
from ..plans.config_checks import check_whole_number
from ..plans.microgpt_plan import plan_of
from ..plans.plan import Plan, layer_of, stage_of
from ..text.brief import brief, one_line
from ..text.frozen import frozen
from ..text.wording import counted
from .documents import LONG_LINE, Documents, encoded_names, held_out
from .parameters import Config, Parameters
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from ..arrays.encodings import StoredTensor

NOTHING = "nothing"  # the training data of an untrained model
UNTRAINED = "untrained"  # beginning of the origin of a model from `init`
MAX_COUNT = 1 << 63  # seeds and numbers of steps must be smaller
PACK = 2048  # names per pass in a run of many names
MAX_BATCH = 1 << 16  # names in a batch: twice names.txt, 1.5 GB for the default model


def check_seed(seed: int) -> None:
    check_whole_number("seed", seed, 0, MAX_COUNT)


@frozen(slots=False)
class Schedule:
    """The settings of a training run. Adam's learning rate falls linearly from `lr` to zero over `steps`."""

    steps: int = 5000
    batch_size: int = 1
    lr: float = 0.01
    seed: int = 42

    def __post_init__(self) -> None:
        check_whole_number("steps", self.steps, 1, MAX_COUNT)
        check_whole_number("batch_size", self.batch_size, 1, MAX_BATCH + 1)
        check_seed(self.seed)
        number = isinstance(self.lr, float | int) and not isinstance(self.lr, bool)
        if not (number and 0 < self.lr <= sys.float_info.max):
            raise InputError(f"lr: expected a positive number, found {brief(self.lr)}")

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.lr * (1 - step / self.steps)


@frozen(slots=False)
class TrainingState:
    """The state of a training run. Training resumes from this state with the same result, bit for bit."""

    schedule: Schedule
    step: int
    data: str  # fingerprint of the documents
    moments: Array | None = field(default=None, repr=False, compare=False)
    run_id: str = field(default="", compare=False)  # a random id of the run; empty in older checkpoints


@frozen(slots=False)
class Model:
    """A microGPT that can be traced, trained and sampled: its parameters, its tokenizer and its origin."""

    family: ClassVar[str] = "microgpt"
    kind: ClassVar[str] = "a microGPT"
    trainable: ClassVar[bool] = True
    takes_prompts: ClassVar[bool] = False
    tensors: ClassVar[Mapping[str, StoredTensor]] = MappingProxyType({})
    names_tokens: ClassVar[bool] = True
    corpus_parts: ClassVar[tuple[str, ...]] = ("train", "held out")
    ends_with_bos: ClassVar[bool] = True
    pack_size: ClassVar[int] = PACK
    params: Parameters
    tokenizer: Tokenizer
    origin: str  # "untrained, seed 42", or the model's file
    training: TrainingState | None = None
    assumed: tuple[str, ...] = ()

    _repr_html_ = in_notebook
    run, run_pack, logits, edited_logits = run_together, run_packed, logits_forward, logits_of_edits

    def __repr__(self) -> str:
        return one_line(self, origin=self.origin, parameters=self.config.parameter_count, config=self.config)

    @property
    def config(self) -> Config:
        return self.params.config

    @property
    def untrained(self) -> bool:
        """True if the model is known to be untrained. The result is False for weights without metadata."""
        return self.training.step == 0 if self.training else self.origin.startswith(UNTRAINED)

    @cached_property
    def hooks(self) -> HookBus:
        """The hook bus that receives the events of this model's traces."""
        return HookBus([*self.plan.values(), *map(parameter_spec, self.config.shapes())])

    def describe(self) -> dict[str, Any]:
        """Return the identity of the model as plain data."""
        training = self.training
        return {
            "family": self.family,
            "origin": self.origin,
            "parameters": self.config.parameter_count,
            "dtype": self.dtype,
            "config": asdict(self.config),
            "vocabulary": {
                "chars": self.tokenizer.chars,
                "bos": self.tokenizer.bos_id,
                "convention": self.tokenizer.describe(),
            },
            "trained_steps": training.step if training else 0,
            "assumed": list(self.assumed),
        }

    @cached_property
    def plan(self) -> Plan:
        return plan_of(self.config)

    @property
    def dtype(self) -> str:
        return str(self.params.flat.dtype)

    @property
    def bos(self) -> int:
        return self.tokenizer.bos_id

    def alone(self) -> Model:
        return replace(self)

    def for_many_passes(self) -> Model:
        return self

    def read(self, text: str | None = None, tokens: Sequence[int] | None = None) -> TraceInput:
        block, tokenizer = self.config.block_size, self.tokenizer
        if tokens is not None:
            if text is not None:
                raise InputError("expected a text or tokens, found both")
            text = tokenizer.name_of(tokens)
        text = "emma" if text is None else text
        if len(text) >= block:
            expected = f"at most {counted(block - 1, 'character')} (block_size {block})"
            raise InputError(f"text {brief(text)}: expected {expected}, found {len(text):,}")
        lowered, ids = tokenizer.normalize(text), tokenizer.encode_name(text)
        labels = tuple(map(tokenizer.label, ids[:-1]))
        target_labels = tuple(tokenizer.label(i, target=True) for i in ids[1:])
        notes = (f"{text!r} was lowercased to {lowered!r}",) if lowered != text else ()
        return TraceInput(lowered, tuple(ids[:-1]), tuple(ids[1:]), labels, target_labels, notes)

    def prompt(
        self, text: str | None, tokens: Sequence[int] | None, special: bool, chat: bool, room: int
    ) -> TraceInput:
        return self.read(text, tokens)

    def ends_text(self, token: int) -> bool:
        return token == self.bos

    @property
    def longest_text(self) -> int:
        return max(self.config.block_size, LONG_LINE)

    def read_many(
        self, texts: Sequence[str], most: int | None = None, chat: bool = False
    ) -> list[ReadText | str]:
        for option, is_set in (("--max-tokens", most is not None), ("--chat", chat)):
            if is_set:
                raise InputError(
                    f"{option} is for a production model, and this is {self.kind} ({self.origin})"
                )
        tokenizer, block = self.tokenizer, self.config.block_size
        unknown = {c for c in set().union(*texts) if tokenizer.normalize(c) not in tokenizer.chars}
        outside = f"with a character outside {tokenizer.describe_chars()}"
        long = f"longer than {counted(block - 1, 'character')}"
        reasons = [
            outside if not unknown.isdisjoint(text) else long if len(text) >= block else "" for text in texts
        ]
        fit = [text for text, reason in zip(texts, reasons, strict=True) if not reason]
        stream, ends = encoded_names(fit, tokenizer), np.cumsum([len(text) + 1 for text in fit]).tolist()
        read = (ReadText(stream[end - len(text) - 1 : end + 1]) for text, end in zip(fit, ends, strict=True))
        return [reason or next(read) for reason in reasons]

    @property
    def trained_on(self) -> str:
        if self.untrained:
            return NOTHING
        return self.training.data if self.training else ""

    def corpus_part(self, text: str) -> int:
        return int(held_out(self.tokenizer.normalize(text)))

    def training_texts(self, texts: Sequence[str]) -> list[str]:
        return Documents.fit(texts, self.tokenizer, self.config.block_size).names

    @property
    def pass_rows(self) -> int:
        return PACK * self.config.block_size

    def seen(self, inputs: TraceInput, position: int) -> str:
        return inputs.text[:position]

    def label(self, token: int, target: bool = False) -> str:
        return self.tokenizer.label(token, target)

    def spelled(self, tokens: Sequence[int]) -> str:
        return "".join(map(self.label, tokens))

    def token(self, text: str) -> int:
        return self.tokenizer.token(text)

    def parameter(self, name: str, rows: slice | Array | None = None) -> Array:
        values = self.params[name][...] if rows is None else self.params[name][rows]
        values.flags.writeable = False
        return values

    def column(self, name: str, column: int) -> Array:
        return self.params[name][:, column]

    def product(self, x: Array, name: str, expert: int | None = None) -> Array:
        return x @ self.params[name].T

    def product_backward(self, dy: Array, name: str, expert: int | None = None) -> Array:
        return dy @ self.params[name]

    def training_gradients(self, inputs: TraceInput) -> dict[str, Array]:
        from .batch import Packer
        from .forward_backward import backward, forward

        params = self.params.copy(np.float64)
        grads = Parameters(self.config, np.zeros_like(params.flat))
        ids = np.array([*inputs.tokens, inputs.targets[-1]])
        backward(params, forward(params, Packer(self.config, np.float64).one(ids)), grads)
        return dict(grads.items())


def parameter_spec(name: str) -> EventSpec:
    """Return the event for the gradient and the update of a parameter."""
    return EventSpec(name, stage_of(name), layer_of(name), name, name)


def check_microgpt(model: Any, function: str) -> None:
    """Raise InputError unless the model is a microGPT, which `function` needs."""
    if not isinstance(model, Model):
        raise InputError(f"{function} needs a microGPT, found {getattr(model, 'origin', model)!s:.200}")


def init(config: Config | None = None, *, seed: int = 42, tokenizer: Tokenizer | None = None) -> Model:
    """Return an untrained model whose parameters are random numbers from N(0, 0.08), fixed by `seed`."""
    check_seed(seed)
    tokenizer = tokenizer or Tokenizer()
    config = config or Config(vocab_size=tokenizer.vocab_size)
    if config.vocab_size != tokenizer.vocab_size:
        raise InputError(
            f"vocab_size: expected {tokenizer.vocab_size} as in the tokenizer, found {config.vocab_size}"
        )
    return Model(Parameters.random(config, seed), tokenizer, f"{UNTRAINED}, seed {seed}")
