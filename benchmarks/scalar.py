"""microGPT in plain Python, on scalars that record how they were computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

NORM_EPS = 1e-5


class Scalar:
    """A number, the numbers that it was computed from, and its derivative by each of them."""

    __slots__ = ("grad", "inputs", "slopes", "value")

    def __init__(self, value: float, inputs: tuple[Scalar, ...] = (), slopes: tuple[float, ...] = ()) -> None:
        self.value, self.inputs, self.slopes, self.grad = value, inputs, slopes, 0.0

    def __add__(self, other: Scalar) -> Scalar:
        return Scalar(self.value + other.value, (self, other), (1.0, 1.0))

    def __sub__(self, other: Scalar) -> Scalar:
        return Scalar(self.value - other.value, (self, other), (1.0, -1.0))

    def __mul__(self, other: Scalar) -> Scalar:
        return Scalar(self.value * other.value, (self, other), (other.value, self.value))

    def power(self, exponent: float) -> Scalar:
        return Scalar(self.value**exponent, (self,), (exponent * self.value ** (exponent - 1),))

    def times(self, factor: float) -> Scalar:
        return Scalar(self.value * factor, (self,), (factor,))

    def plus(self, term: float) -> Scalar:
        return Scalar(self.value + term, (self,), (1.0,))

    def exp(self) -> Scalar:
        value = math.exp(self.value)
        return Scalar(value, (self,), (value,))

    def log(self) -> Scalar:
        return Scalar(math.log(self.value), (self,), (1 / self.value,))

    def relu(self) -> Scalar:
        return Scalar(max(self.value, 0.0), (self,), (float(self.value > 0),))

    def backward(self) -> None:
        """Add d self / d number to the `grad` of every number that `self` was computed from."""
        self.grad, order = 1.0, list[Scalar]()
        visit(self, set(), order)
        for number in reversed(order):
            grad = number.grad
            for source, slope in zip(number.inputs, number.slopes):  # noqa: B905
                source.grad += grad * slope


def visit(number: Scalar, seen: set[Scalar], order: list[Scalar]) -> None:
    """Append `number` and everything that it was computed from to `order`, each after its inputs."""
    if number not in seen:
        seen.add(number)
        for source in number.inputs:
            visit(source, seen, order)
        order.append(number)


Vector = list[Scalar]


def total(terms: Sequence[Scalar]) -> Scalar:
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


def dot(a: Vector, b: Vector) -> Scalar:
    return total([x * y for x, y in zip(a, b, strict=True)])


def linear(x: Vector, weight: list[Vector]) -> Vector:
    return [dot(row, x) for row in weight]


def add(a: Vector, b: Vector) -> Vector:
    return [x + y for x, y in zip(a, b, strict=True)]


def rmsnorm(x: Vector) -> Vector:
    factor = dot(x, x).times(1 / len(x)).plus(NORM_EPS).power(-0.5)
    return [number * factor for number in x]


def softmax(x: Vector) -> Vector:
    largest = max(number.value for number in x)
    exps = [number.plus(-largest).exp() for number in x]
    inverse = total(exps).power(-1.0)
    return [e * inverse for e in exps]


class ScalarModel:
    """The model. Parameters are [out, in] lists of scalars, by name."""

    def __init__(self, n_layer: int, n_head: int, values: dict[str, list[list[float]]]) -> None:
        self.n_layer, self.n_head = n_layer, n_head
        self.w = {name: [[Scalar(v) for v in row] for row in rows] for name, rows in values.items()}

    def all_weights(self) -> Vector:
        return [weight for rows in self.w.values() for row in rows for weight in row]

    def loss(self, ids: list[int]) -> Scalar:
        """Return the mean of -log P(next id) over the positions of a name."""
        keys: list[list[Vector]] = [[] for _ in range(self.n_layer)]
        values: list[list[Vector]] = [[] for _ in range(self.n_layer)]
        losses = []
        for position, (token, target) in enumerate(pairwise(ids)):
            logits = self.logits(token, position, keys, values)
            losses.append(softmax(logits)[target].log())
        return total(losses).times(-1 / len(losses))

    def logits(
        self, token: int, position: int, keys: list[list[Vector]], values: list[list[Vector]]
    ) -> Vector:
        """Return the logits of one position, and append its keys and values to the cache."""
        w = self.w
        x = rmsnorm(add(w["wte"][token], w["wpe"][position]))
        for i in range(self.n_layer):
            x_n = rmsnorm(x)
            keys[i].append(linear(x_n, w[f"layer{i}.attn_wk"]))
            values[i].append(linear(x_n, w[f"layer{i}.attn_wv"]))
            context = self.attention(linear(x_n, w[f"layer{i}.attn_wq"]), keys[i], values[i])
            x = add(x, linear(context, w[f"layer{i}.attn_wo"]))
            hidden = [h.relu() for h in linear(rmsnorm(x), w[f"layer{i}.mlp_fc1"])]
            x = add(x, linear(hidden, w[f"layer{i}.mlp_fc2"]))
        return linear(x, w["lm_head"])

    def attention(self, query: Vector, keys: list[Vector], values: list[Vector]) -> Vector:
        """Return the weighted means of the values for one query, head after head."""
        head_dim, context = len(query) // self.n_head, []
        for start in range(0, len(query), head_dim):
            head = slice(start, start + head_dim)
            weights = softmax([dot(query[head], key[head]).times(head_dim**-0.5) for key in keys])
            context += [dot(weights, [v[c] for v in values]) for c in range(head.start, head.stop)]
        return context
