"""Kinds of operations, as plain data: the class of a plan's row.

A kind has attributes and names of parameters, and knows the shapes of its output and of its parameters. The
arithmetic is in operations/, one module per kind. Shape letters are those of microgpt/operations.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from .rope import Rope

Shape = tuple[int, ...]


class Length(int):
    """The number of positions, as a type of its own: other sizes may have the same value."""


class Kind:
    """The base of all kinds. By default the output has the shape of the first input, without parameters."""

    causal: ClassVar[bool] = False  # True for [H, T, T] where the causal mask hides entries
    mixes_positions: ClassVar[bool] = False  # True if a row of the output may depend on several positions

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        """Return the shape of the output over `length` positions, given the shapes of the inputs."""
        return inputs[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        names = (getattr(self, attribute, None) for attribute in ("table", "weight", "gain", "bias"))
        return tuple(name for name in names if name is not None)

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        """Return the shapes of the parameters by name."""
        return {}

    def reads(self, channel: int) -> bool:
        """Return True if the operation reads this channel of its input."""
        return True


@dataclass(frozen=True, eq=False, repr=False)
class Lookup(Kind):
    """Rows of a table [rows, width], chosen by tokens or by positions."""

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
    """y = x @ W.T + b, W [width, in]; with `columns` (first, end) only these columns of x and W are read."""

    weight: str
    width: int
    bias: str | None = None
    columns: tuple[int, int] | None = None

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, self.width)

    def reads(self, channel: int) -> bool:
        return self.columns is None or self.columns[0] <= channel < self.columns[1]

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        shapes: dict[str, Shape] = {self.weight: (self.width, inputs[0][-1])}
        return shapes if self.bias is None else {**shapes, self.bias: (self.width,)}


@dataclass(frozen=True, eq=False, repr=False)
class Norm(Kind):
    """RMSNorm of each row or head; with `centred` LayerNorm, which subtracts the mean first."""

    eps: float
    gain: str | None = None
    head_dim: int | None = None  # None: the whole row is normalised at once
    centred: bool = False
    bias: str | None = None

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.names, (self.head_dim or inputs[0][-1],))


@dataclass(frozen=True, eq=False, repr=False)
class Rotation(Kind):
    """RoPE: turns channels j and j + D/2 of each head by an angle that grows with the position."""

    rope: Rope
    head_dim: int


@dataclass(frozen=True, eq=False, repr=False)
class Scores(Kind):
    """scores = q @ k.T * scale before the mask; head h uses the keys of key-value head group[h]."""

    causal: ClassVar[bool] = True
    mixes_positions: ClassVar[bool] = True
    head_dim: int
    group: tuple[int, ...]
    scale: float

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (len(self.group), length, length)


@dataclass(frozen=True, eq=False, repr=False)
class Softmax(Kind):
    """The softmax of scores over the keys that a query sees: its own and earlier ones, within a window."""

    causal: ClassVar[bool] = True
    mixes_positions: ClassVar[bool] = True
    window: int | None = None  # positions, the query's own included; None: all


@dataclass(frozen=True, eq=False, repr=False)
class Context(Kind):
    """context = weights @ v, heads side by side; head h uses the values of key-value head group[h]."""

    mixes_positions: ClassVar[bool] = True
    head_dim: int
    group: tuple[int, ...]

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, len(self.group) * self.head_dim)


@dataclass(frozen=True, eq=False, repr=False)
class Activation(Kind):
    """A function of each element, given by its name: ReLU, SiLU, GELU, GELU by tanh."""

    function: str


class Multiply(Kind):
    """The product of two inputs, element by element."""


class Add(Kind):
    """The sum of two inputs, element by element."""


class Probabilities(Kind):
    """The softmax of logits over all tokens."""


class Loss(Kind):
    """The mean of -log P(target) over the positions whose next token is known."""

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return ()
