"""Kinds of operations, as plain data. Each row of a plan has a kind.

A kind defines attributes, the names of parameters, and the shapes of the output and of the parameters. The
arithmetic is in operations/, one module per kind. microgpt/operations.py explains the letters in shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..text.frozen import frozen

if TYPE_CHECKING:
    from .rope import Rope

Shape = tuple[int, ...]


class Length(int):
    """The number of positions. The type distinguishes this size from other sizes of equal value."""


def first_key(query: Any, window: int | None) -> Any:
    """Return the first key in the window of a query, which may be below 0. A window of n > 0 has n keys. With
    a window of -n, the text is divided into chunks of n keys, and a query sees the keys of its own chunk.

    >>> first_key(9, 4), first_key(9, -4), first_key(9, None)
    (6, 8, 0)
    """
    if window is None:
        return query * 0
    return query // -window * -window if window < 0 else query - window + 1


def window_words(window: int) -> str:
    """Return a description of a window: "window 8", or "chunks of 8" for -8."""
    return f"window {window:,}" if window > 0 else f"chunks of {-window:,}"


class Kind:
    """The base class of kinds. By default, a kind has no parameters, and the output has the input's shape."""

    causal: ClassVar[bool] = False  # True if the causal mask hides entries of the output [H, T, T]
    mixes_positions: ClassVar[bool] = False  # True if a row of the output may depend on several positions

    @property
    def nonnegative(self) -> bool:
        """True if no element of the output can be negative."""
        return False

    def hides(self, inputs: Sequence[bool]) -> bool:
        """Return `causal` of a row, given `causal` of the rows of its inputs."""
        return self.causal

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        """Return the shape of the output for `length` positions and inputs of these shapes."""
        return inputs[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        names = (getattr(self, attribute, None) for attribute in ("table", "weight", "gain", "sinks", "bias"))
        return tuple(name for name in names if name is not None)

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        """Return the shape of each parameter, by name."""
        return {}

    def reads(self, channel: int) -> bool:
        """Return True if the operation reads this channel of its input."""
        return True


class Elementwise(Kind):
    """A kind that computes each element from the elements of the inputs at the same place."""

    def hides(self, inputs: Sequence[bool]) -> bool:
        return any(inputs)


@frozen(slots=False, eq=False)
class Lookup(Kind):
    """The rows of a table [rows, width] that the tokens or the positions select."""

    table: str
    by: Literal["tokens", "positions"]
    rows: int
    width: int

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, self.width)

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {self.table: (self.rows, self.width)}


@frozen(slots=False, eq=False)
class Linear(Kind):
    """y = x @ W.T + b, where W is [width, in]. `columns` (first, end) selects columns of x and W."""

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


@frozen(slots=False, eq=False)
class Norm(Kind):
    """RMSNorm of each row or head. If `centred` is true, LayerNorm of each row or head. If `by_head` is true,
    each head has its own gain and bias: [H, D] in place of [D]."""

    eps: float
    gain: str | None = None
    head_dim: int | None = None  # the width of a head, or None if whole rows are normalised
    centred: bool = False
    bias: str | None = None
    by_head: bool = False

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        width = inputs[0][-1]
        dim = self.head_dim or width
        return dict.fromkeys(self.names, (width // dim, dim) if self.by_head else (dim,))


@frozen(slots=False, eq=False)
class Rotation(Kind):
    """RoPE: of the first n `channels` of each head, channels j and j + n/2 turn by an angle that grows with
    the position. If `adjacent` is true, channels 2j and 2j + 1 turn. The other channels pass unchanged."""

    rope: Rope
    head_dim: int
    channels: int
    adjacent: bool = False

    @property
    def pairs(self) -> tuple[slice, slice]:
        """The first and the second channels of all pairs."""
        n = self.channels
        return (slice(0, n, 2), slice(1, n, 2)) if self.adjacent else (slice(n // 2), slice(n // 2, n))


@frozen(slots=False, eq=False)
class Scores(Kind):
    """scores = q @ k.T * scale, before the mask. Query head h reads the keys of key-value head group[h]."""

    causal: ClassVar[bool] = True
    mixes_positions: ClassVar[bool] = True
    head_dim: int
    group: tuple[int, ...]
    scale: float

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (len(self.group), length, length)


@frozen(slots=False, eq=False)
class Softmax(Kind):
    """The softmax of the scores over the keys that a query sees. A window hides keys that are far back, or in
    other chunks. With `sinks` [H], each head has a score without a key, so weights sum to less than 1."""

    causal: ClassVar[bool] = True
    mixes_positions: ClassVar[bool] = True
    window: int | None = None  # as in `first_key`
    sinks: str | None = None

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.names, inputs[0][:1])


@frozen(slots=False, eq=False)
class Context(Kind):
    """context = weights @ v, with heads side by side. Head h uses the values of key-value head group[h]."""

    mixes_positions: ClassVar[bool] = True
    head_dim: int
    group: tuple[int, ...]

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, len(self.group) * self.head_dim)


@frozen(slots=False, eq=False)
class Alibi(Elementwise):
    """ALiBi: scores + slope * (key - query), with a slope for each head."""

    slopes: tuple[float, ...]


@frozen(slots=False, eq=False)
class PositionScale(Elementwise):
    """y = x * (1 + strength * ln(1 + floor((position + shift) / period))), row by row."""

    strength: float
    period: int
    shift: int = 0


@frozen(slots=False, eq=False)
class Activation(Elementwise):
    """A function of each element: ReLU, SiLU, GELU (by tanh), sigmoid, or xIELU of two `learned` numbers."""

    function: str
    learned: tuple[str, ...] = ()

    @property
    def nonnegative(self) -> bool:
        return "ReLU" in self.function

    @property
    def names(self) -> tuple[str, ...]:
        return self.learned

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return dict.fromkeys(self.learned, (1,))


class Multiply(Elementwise):
    """The product of two inputs, element by element."""


class Add(Elementwise):
    """The sum of two inputs, element by element."""


@frozen(slots=False, eq=False)
class Scale(Elementwise):
    """y = factor * x, element by element."""

    factor: float


@frozen(slots=False, eq=False)
class Channels(Kind):
    """The `width` channels of x from channel `first` on."""

    first: int
    width: int

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, self.width)

    def reads(self, channel: int) -> bool:
        return self.first <= channel < self.first + self.width


@frozen(slots=False, eq=False)
class Cap(Elementwise):
    """y = limit * tanh(x / limit), element by element. Every element of y lies between -limit and limit."""

    limit: float


@frozen(slots=False, eq=False)
class Clip(Elementwise):
    """y = min(max(x, low), high) + plus, element by element."""

    low: float
    high: float
    plus: float = 0.0


@frozen(slots=False, eq=False)
class Shift(Elementwise):
    """y = x + b, where b has a number for each channel."""

    bias: str

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        return {self.bias: inputs[0][-1:]}


@frozen(slots=False, eq=False)
class Choice(Kind):
    """The numbers of the `count` experts with the largest scores in each row, the largest first, among the
    experts of the best `groups_used` of `groups` of equal size. The score of a group is the sum of its `best`
    largest scores. If `any_order` is true, correct engines return the chosen experts in any order."""

    count: int
    groups: int = 1
    groups_used: int = 1
    best: int = 1
    any_order: bool = False

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, self.count)


@frozen(slots=False, eq=False)
class Routing(Kind):
    """The share of each chosen expert: the softmax of the logits over the chosen experts. Unless `normalised`
    is true, the softmax is over all experts, and the shares of a row sum to less than 1. If `of_scores` is
    true, the first input contains scores instead of logits, and there is no softmax: a share is a score,
    divided by the sum of the scores of the chosen experts if `normalised`."""

    normalised: bool
    of_scores: bool = False

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return inputs[1]


@frozen(slots=False, eq=False)
class Experts(Kind):
    """y = x @ W[e].T + b[e] for each chosen expert e, with the results side by side. W is [experts, width,
    in]. If `beside` is true, x also has a part for each chosen expert, else all experts read the same x."""

    weight: str
    experts: int
    width: int
    bias: str | None = None
    beside: bool = False

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, inputs[1][1] * self.width)

    def parameters(self, inputs: Sequence[Shape]) -> dict[str, Shape]:
        (_, wide), (_, count) = inputs
        read = wide // count if self.beside else wide
        shapes: dict[str, Shape] = {self.weight: (self.experts, self.width, read)}
        return shapes if self.bias is None else {**shapes, self.bias: (self.experts, self.width)}


class Mixture(Kind):
    """The sum of parts of equal width, each multiplied by its share: [T, k*C], [T, k] -> [T, C]"""

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return (length, inputs[0][1] // inputs[1][1])


class Probabilities(Kind):
    """The softmax of logits over all tokens."""


class Loss(Kind):
    """The mean of -log P(target) over the positions whose target is known."""

    def shape(self, inputs: Sequence[Shape], length: int) -> Shape:
        return ()
