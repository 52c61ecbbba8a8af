"""TraceOptions: the options of a trace, and the checks that need no model's values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..text.frozen import frozen

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..running.interventions import Intervention

Token = str | int | None
# Options of models that read prompts. Other models refuse them.
OF_PROMPTS = (
    "tokens", "special", "chat", "positions", "lens", "target", "against", "position", "parameters",
    "on_gradient", "generate", "temperature", "seed", "recheck",
)  # fmt: skip
TOP, RUNNERS_UP = 5, 3  # default number of candidates of a prediction, and of runners-up of a generated token


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
        self._check_continuation()
        self._check_gradients()

    def _check_continuation(self) -> None:
        if self.generate < 0:
            raise InputError(f"generate: expected 0 or more, found {self.generate}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature: expected 0 or more, found {self.temperature}")
        if self.temperature and not self.generate:
            raise InputError("temperature: needs generate, the number of tokens to sample")
        if self.backward and self.generate:
            raise InputError("backward and generate: a backward pass is only for the text")

    def _check_gradients(self) -> None:
        if self.target is not None and not (self.lens or self.backward):
            raise InputError("target: needs lens=True, which follows the target, or backward=True")
        of_gradients = self.parameters or self.on_gradient
        if not self.backward and (self.against is not None or self.position is not None or of_gradients):
            raise InputError("against, position, parameters and on_gradient: need backward=True")
        if not self.targets or (len(self.targets) > 1 and (self.lens or of_gradients)):
            raise InputError("target: the lens and the gradients of parameters are for one target")


def _is_given(value: Any, default: Any) -> bool:
    """Return True if a value is not the default. The value may be an array, which has no single equality."""
    return type(value) is not type(default) or bool(value != default)
