"""Model: parameters with the tokenizer and the training they came with. Knows no file."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

from .brief import brief, one_line
from .errors import InputError
from .hooks.bus import HookBus
from .microgpt import event_specs
from .parameters import Config, Parameters, check_whole
from .stats import Array
from .tokenizer import Tokenizer

UNTRAINED = "untrained"  # the origin of a model that `init` drew
MAX_COUNT = 1 << 63  # of what a log can say
MAX_BATCH = 1 << 16  # names, twice the packaged data: 1.5 GB with the default model


def check_seed(seed: int) -> None:
    check_whole("seed", seed, 0, MAX_COUNT)


@dataclass(frozen=True)
class Schedule:
    """How a run trains: Adam with a learning rate that falls linearly to zero over `steps`."""

    steps: int = 5000
    batch_size: int = 1
    lr: float = 0.01
    seed: int = 42

    def __post_init__(self) -> None:
        check_whole("steps", self.steps, 1, MAX_COUNT)
        check_whole("batch_size", self.batch_size, 1, MAX_BATCH + 1)
        check_seed(self.seed)
        number = isinstance(self.lr, float | int) and not isinstance(self.lr, bool)
        if not (number and 0 < self.lr <= sys.float_info.max):
            raise InputError(f"lr: expected a positive number, found {brief(self.lr)}")

    def lr_at(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        return self.lr * (1 - step / self.steps)


@dataclass(frozen=True)
class TrainingState:
    """Where a training run stands: what it takes to go on bit for bit."""

    schedule: Schedule
    step: int
    data: str  # fingerprint of the documents
    moments: Array | None = field(default=None, repr=False, compare=False)
    run_id: str = field(default="", compare=False)  # drawn when the run began; empty in older checkpoints

    __repr__ = one_line


@dataclass(frozen=True)
class Model:
    """A microGPT one can trace, train and sample: parameters and tokenizer, and where they are from."""

    family: ClassVar[Literal["microgpt"]] = "microgpt"
    params: Parameters
    tokenizer: Tokenizer
    origin: str  # "untrained, seed 42" or the file
    training: TrainingState | None = None
    assumed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return one_line(self, origin=self.origin, parameters=self.config.parameter_count, config=self.config)

    @property
    def config(self) -> Config:
        return self.params.config

    @property
    def untrained(self) -> bool:
        """Whether it is known that no step was taken; of bare weights nothing is known."""
        return self.training.step == 0 if self.training else self.origin.startswith(UNTRAINED)

    @cached_property
    def hooks(self) -> HookBus:
        """The hook bus of this model's events; `trace` runs under it."""
        return HookBus(event_specs(self.config))

    def describe(self) -> dict[str, Any]:
        """What identifies the model, as plain data."""
        training = self.training
        return {
            "family": self.family,
            "origin": self.origin,
            "parameters": self.config.parameter_count,
            "dtype": str(self.params.flat.dtype),
            "config": asdict(self.config),
            "vocabulary": {
                "chars": self.tokenizer.chars,
                "bos": self.tokenizer.bos_id,
                "convention": self.tokenizer.describe(),
            },
            "trained_steps": training.step if training else 0,
            "assumed": list(self.assumed),
        }


def check_microgpt(model: Any, what: str) -> None:
    """Raises InputError for a production model, which can only be traced."""
    if not isinstance(model, Model):
        raise InputError(f"{what} is for a microGPT: {getattr(model, 'origin', model)!s:.200} is none")


def init(config: Config | None = None, *, seed: int = 42, tokenizer: Tokenizer | None = None) -> Model:
    """An untrained model, its parameters drawn from N(0, 0.08) by `seed`."""
    check_seed(seed)
    tokenizer = tokenizer or Tokenizer()
    config = config or Config(vocab_size=tokenizer.vocab_size)
    if config.vocab_size != tokenizer.vocab_size:
        raise InputError(
            f"vocab_size {config.vocab_size} does not fit the tokenizer's {tokenizer.vocab_size} tokens"
        )
    return Model(Parameters.random(config, seed), tokenizer, f"{UNTRAINED}, seed {seed}")
