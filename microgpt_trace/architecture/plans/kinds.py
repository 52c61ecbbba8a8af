"""Kinds of operations, as plain data: what a row of a plan says of its arithmetic.

A kind names its parameters and has its attributes; it knows the shape of what it gives and of its parameters.
The arithmetic itself is in operations/, one module a kind. Shape letters are those of microgpt/operations.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from .rope import Rope

Shape = tuple[int, ...]


class Length(int):
    """The number of positions, to be told from other sizes of the same value."""


class Kind:
    """What all kinds have. By default an output has the shape of the first input, and no parameters."""

    causal: ClassVar[bool] = False  # [H, T, T], of which what the causal mask hides does not count
    mixes_positions: ClassVar[bool] = False  # a row of the output may come from several positions

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        """The shape of the output over `length` positions, from those of the inputs."""
        return inputs[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters."""
        named = (getattr(self, attribute, None) for attribute in ("table", "weight", "gain", "bias"))
        return tuple(name for name in named if name is not None)

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        """The parameters by name, with their shapes."""
        return {}

    def reads(self, channel: int) -> bool:
        """Whether a channel of an input counts."""
        return True


@dataclass(frozen=True, eq=False, repr=False)
class Lookup(Kind):
    """Rows of a table [rows, width], by the tokens or by the positions."""

    table: str
    by: Literal["tokens", "positions"]
    rows: int
    width: int

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, self.width)

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {self.table: (self.rows, self.width)}


@dataclass(frozen=True, eq=False, repr=False)
class Linear(Kind):
    """y = x @ W.T + b, W [width, in]; of `columns` (first, end) only these of x and of W count."""

    weight: str
    width: int
    bias: str | None = None
    columns: tuple[int, int] | None = None

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, self.width)

    def reads(self, channel: int) -> bool:
        return self.columns is None or self.columns[0] <= channel < self.columns[1]

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        found: dict[str, Shape] = {self.weight: (self.width, inputs[0][-1])}
        return found if self.bias is None else {**found, self.bias: (self.width,)}


@dataclass(frozen=True, eq=False, repr=False)
class Norm(Kind):
    """RMSNorm of every row, or of each head of it; `centred`: LayerNorm, which subtracts the mean first."""

    eps: float
    gain: str | None = None
    head_dim: int | None = None  # None: the row as a whole
    centred: bool = False
    bias: str | None = None

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.names, (self.head_dim or inputs[0][-1],))


@dataclass(frozen=True, eq=False, repr=False)
class Rotation(Kind):
    """RoPE: channel j of each head turns with channel j + D/2 by an angle that grows with the position."""

    rope: Rope
    head_dim: int


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Kind):
    """scores = q @ k.T * scale, head h with the keys of key-value head group[h], before the mask."""

    causal: ClassVar[bool] = True
    mixes_positions: ClassVar[bool] = True
    head_dim: int
    group: tuple[int, ...]
    scale: float

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (len(self.group), length, length)


@dataclass(frozen=True, eq=False, repr=False)
class Softmax(Kind):
    """The softmax of scores over the keys that a query sees: itself and those before it, in a window."""

    causal: ClassVar[bool] = True
    mixes_positions: ClassVar[bool] = True
    window: int | None = None  # positions, itself included; None: all


@dataclass(frozen=True, eq=False, repr=False)
class Context(Kind):
    """context = weights @ v, head h with the values of key-value head group[h], heads side by side."""

    mixes_positions: ClassVar[bool] = True
    head_dim: int
    group: tuple[int, ...]

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, len(self.group) * self.head_dim)


@dataclass(frozen=True, eq=False, repr=False)
class Activation(Kind):
    """A function of each element, by its name: ReLU, SiLU, GELU, GELU by tanh."""

    function: str


class Multiply(Kind):
    """The product of two inputs, element by element."""


class Add(Kind):
    """The sum of two inputs."""


class Probabilities(Kind):
    """The softmax of logits over all tokens."""


class Loss(Kind):
    """The mean of -log P(target) over the positions whose next token is known."""

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return ()
