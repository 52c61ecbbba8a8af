"""TraceOptions: the options of a trace, and the checks that need no model's values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..text.frozen import frozen

if TYPE_CHECKING:
    from ..interventions.interventions import Intervention
    from ..models.language_model import LanguageModel

Token = str | int | None
# Options of models that read prompts. Other models refuse them.
OF_PROMPTS = (
    "tokens", "special", "chat", "positions", "lens", "target", "against", "position", "parameters",
    "on_gradient", "generate", "temperature", "seed", "recheck",
)  # fmt: skip
TOP, RUNNERS_UP = 5, 3  # default number of candidates of a prediction, and of runners-up of a generated token


class Conflict(NamedTuple):
    """The `options` cannot be combined with any option in `beside`. An entry "--a --b" of `beside` means that
    --a and --b are both given. If `options` is empty, the rule is about all options except `but_for`."""

    options: tuple[str, ...]
    beside: tuple[str, ...]
    reason: str = ""
    but_for: tuple[str, ...] = ()

    def broken(self, names: Sequence[str]) -> str:
        """Return an error message if the given options break the rule, else ""."""
        for others in map(str.split, self.beside):
            for option in self.options or names:
                if option in names and option not in (*others, *self.but_for) and {*others} <= {*names}:
                    return f"{described(option)} cannot be combined with {' and '.join(others)}"
        return ""

    def on_command_line(self) -> Conflict:
        """Return the rule about the options of the command line that have these names."""
        options, beside = (tuple(f"--{name}" for name in own) for own in (self.options, self.beside))
        return Conflict(options, beside, _spelled(self.reason))


class Needs(NamedTuple):
    """An option that has no effect without one of the options `one_of`."""

    option: str
    one_of: tuple[str, ...]
    reason: str = ""

    def broken(self, names: Sequence[str]) -> str:
        """Return an error message if the given options break the rule, else ""."""
        if self.option not in names or set(self.one_of) & set(names):
            return ""
        return f"{self.option} needs {' or '.join(self.one_of)}"

    def on_command_line(self) -> Needs:
        """Return the rule about the options of the command line that have these names."""
        return Needs(f"--{self.option}", tuple(f"--{name}" for name in self.one_of), _spelled(self.reason))


def _spelled(reason: str) -> str:
    return reason.replace("{", "--").replace("}", "")


def described(option: str) -> str:
    """Return the spelling of an option or a keyword, "a text" for TEXT, or "an argument" for any other
    argument."""
    return option if option.islower() else "a text" if option == "TEXT" else "an argument"


# The rules about keywords of `trace` and `explain`, and about the options of the command line with the same
# names. Names stand in braces in a reason.
OF_LOGITS = (
    Needs("against", ("backward",), "{against} is for gradients"),
    Needs("position", ("backward",), "{position} is for gradients"),
    Needs("against", ("target",), "{against} is subtracted from the logit of {target}"),
    Needs("position", ("target",), "{position} is the position of the logit of {target}"),
)
TRACE_RULES = (
    Needs("target", ("backward", "lens"), "{target} names the token of a gradient, or of the lens"),
    Needs("parameters", ("backward",), "{parameters} is for gradients"),
    *OF_LOGITS,
    Conflict(("backward",), ("generate",), "the backward pass is only for the text"),
    Needs("temperature", ("generate",), "{temperature} is for sampling tokens"),
)


@frozen(slots=False, kw_only=True, eq=False)
class TraceOptions:
    """The options of a trace. `trace` explains each option. Raises InputError if options do not fit."""

    text: str | None = None
    names: Sequence[str] | None = None
    values: bool | Sequence[str] | None = None
    top_k: int | None = None
    time: bool = False
    backward: bool = False
    step: bool = False
    interventions: Sequence[Intervention] = ()
    tokens: Sequence[int] | None = None
    special: bool = False
    chat: bool = False
    positions: str | Sequence[int] | None = None
    lens: bool = False
    target: Token | Sequence[Token] = None
    against: Token = None
    position: int | None = None
    parameters: Sequence[str] = ()
    on_gradient: Callable[[str, Any], object] | None = None
    generate: int = 0
    temperature: float = 0.0
    seed: int = 42
    recheck: bool = False

    @property
    def targets(self) -> Sequence[Token]:
        """The targets of backward passes. None stands for the loss."""
        if self.target is None or isinstance(self.target, str | int):
            return [self.target]
        return [*self.target]

    @property
    def differentiates(self) -> bool:
        """True if the trace has gradients."""
        return self.backward or self.step

    def check(self, model: LanguageModel) -> None:
        """Raise InputError if options do not fit each other or the model."""
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k: expected at least 1, found {self.top_k}")
        if self.text is not None and not isinstance(self.text, str):
            kind = type(self.text).__name__
            raise InputError(f"text: expected a string, found {kind}; pass token ids as tokens=")
        unfit = [name for name in OF_PROMPTS if _is_given(getattr(self, name), getattr(TraceOptions, name))]
        if unfit and not model.takes_prompts:
            raise InputError(f"{', '.join(unfit)}: expected a production model, found {model.origin}")
        if self.step and not model.trainable:
            raise InputError("step: expected a microGPT, because production models are not trained")
        given = [name for name in vars(self) if _is_given(getattr(self, name), getattr(TraceOptions, name))]
        for rule in TRACE_RULES:
            if broken := rule.broken(given):
                raise InputError(f"{broken}: {rule.reason.replace('{', '').replace('}', '')}")
        if self.generate < 0:
            raise InputError(f"generate: expected 0 or more, found {self.generate}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature: expected 0 or more, found {self.temperature}")
        of_parameters = self.parameters or self.on_gradient
        if of_parameters and not self.backward:
            raise InputError("on_gradient needs backward: it receives gradients")
        if not self.targets or (len(self.targets) > 1 and (self.lens or of_parameters)):
            raise InputError("target: the lens and the gradients of parameters are for one target")


def _is_given(value: Any, default: Any) -> bool:
    """Return True if a value is not the default. The value may be an array, which has no single equality."""
    return type(value) is not type(default) or bool(value != default)
