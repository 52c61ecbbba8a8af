"""Norm: RMSNorm or LayerNorm of every row, or of each head of it.

Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ...arrays.stats import Array
from ..arithmetic import (
    Function,
    Operand,
    elements,
    mean_square,
    minus,
    product,
    reciprocal,
    result,
    root,
    sum_of,
    total,
    x_less,
)
from ..kinds import Norm
from ..plan import Operation
from ..steps import Step, Use, Worked, element_name, in_one_step
from ..traced_element import TracedElement, channels_of, no_path, short, strongest
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs
from .rounding import Sizes, Spread, terms


@dataclass(frozen=True, eq=False, repr=False)
class FaultyNorm(Norm):
    """What no model has: eps outside the root, another `power` of the mean square than 0.5, another
    `exponent` of |x| than 2, a sum in place of the mean, one over all but one (`unbiased`), a head's gain
    along the whole row."""

    eps_outside: bool = False  # x / (sqrt(mean(x^2)) + eps)
    power: float = 0.5  # 0: the gain alone
    exponent: float = 2.0
    summed: bool = False
    unbiased: bool = False
    per_head: bool = True


def forward(row: Operation, run: PassState, x: Array) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * gain + bias of each row, or head of it: [N, C] -> [N, C]"""
    kind = row.kind
    assert isinstance(kind, Norm)
    heads = x if kind.head_dim is None else x.reshape(len(x), -1, kind.head_dim)
    if kind.centred:
        heads = heads - heads.mean(axis=-1, keepdims=True)
    y = rmsnorm(heads, None if kind.gain is None else run.vector(kind.gain), kind.eps)
    return (y if kind.bias is None else y + run.vector(kind.bias)).reshape(x.shape)


def backward(row: Operation, run: PassState, dy: Array, y: Array, x: Array) -> Gradients:
    """dx = (g - u * mean(g * u)) / rms with u = x / rms and g = dy * gain, which where x was centred is
    centred too; dgain = sum(dy * u), dbias = sum(dy): [N, C] -> [N, C]"""
    kind = row.kind
    assert isinstance(kind, Norm)
    heads, dheads = x, dy
    if kind.head_dim is not None:
        heads, dheads = (a.reshape(len(x), -1, kind.head_dim) for a in (x, dy))
    if kind.centred:
        heads = heads - heads.mean(axis=-1, keepdims=True)
    rms = root_mean_square(heads, kind.eps)
    unit = heads / rms
    g = dheads if kind.gain is None else dheads * run.vector(kind.gain)
    dx = g - unit * (g * unit).mean(axis=-1, keepdims=True)
    if kind.centred:
        dx -= g.mean(axis=-1, keepdims=True)
    rows = tuple(range(heads.ndim - 1))
    found = {kind.gain: (dheads * unit).sum(axis=rows)} if kind.gain in run.wanted else {}
    if kind.bias in run.wanted:
        found[kind.bias] = dheads.sum(axis=rows)
    return Gradients(((dx / rms).reshape(x.shape),), {str(name): value for name, value in found.items()})


def rmsnorm(x: Array, gain: Array | None, eps: float) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * gain, row by row: [..., C] -> [..., C]"""
    y = x / root_mean_square(x, eps)
    return y if gain is None else y * gain


def root_mean_square(x: Array, eps: float) -> Array:
    """sqrt(mean(x^2) + eps): [..., C] -> [..., 1]"""
    rms: Array = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps)
    return rms


def reference(row: Operation, given: ReferenceInputs, x: Array) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * gain + bias, row by row: [..., C] -> [..., C]"""
    kind = row.kind
    assert isinstance(kind, Norm)
    gain = np.ones(1) if kind.gain is None else given.parameter(row, kind.gain)
    bias = None if kind.bias is None else given.parameter(row, kind.bias)
    if kind.head_dim is None:
        return normalise(kind, x, gain, bias)
    if isinstance(kind, FaultyNorm) and not kind.per_head:
        return normalise(kind, x, np.tile(gain, x.shape[1] // len(gain)), bias)
    return normalise(kind, x.reshape(len(x), -1, kind.head_dim), gain, bias).reshape(x.shape)


def normalise(kind: Norm, x: Array, gain: Array, bias: Array | None = None) -> Array:
    """The same with a given gain."""
    if kind.centred:
        x = x - x.mean(axis=-1, keepdims=True)
    if isinstance(kind, FaultyNorm) and _is_another(kind):
        y = _faulty(kind, x) * gain
    else:
        mean = np.einsum("...c,...c->...", x, x)[..., None] / x.shape[-1]
        y = x * gain * (mean + kind.eps) ** -0.5
    return y if bias is None else y + bias


def _is_another(kind: FaultyNorm) -> bool:
    return kind.eps_outside or kind.unbiased or (kind.power, kind.exponent, kind.summed) != (0.5, 2.0, False)


def _faulty(kind: FaultyNorm, x: Array) -> Array:
    if kind.eps_outside:
        return x / (np.sqrt(np.square(x).mean(axis=-1, keepdims=True)) + kind.eps)
    size = (np.abs(x) ** kind.exponent).mean(axis=-1, keepdims=True)
    size = size * x.shape[-1] if kind.summed else size
    size = size * x.shape[-1] / max(1, x.shape[-1] - 1) if kind.unbiased else size
    power = kind.power if kind.exponent == 2 else 1 / kind.exponent
    return x / (size + kind.eps) ** power


def spread(kind: Norm, sizes: Sizes) -> Spread:
    """A sum of squares, whose root halves their error."""
    return Spread(sizes.width // 4)


def size(row: Operation, given: ReferenceInputs, value: Array, x: Array) -> Array:
    """A mean of C squares; where the mean is subtracted, or a bias added, that may cancel. The mean's own
    rounding is relative to what is summed up."""
    kind = row.kind
    assert isinstance(kind, Norm)
    if not kind.centred and kind.bias is None:
        return np.abs(value) * terms(x.shape[-1])
    heads = x.reshape(*x.shape[:-1], -1, kind.head_dim or x.shape[-1])
    mean = heads.mean(axis=-1, keepdims=True) if kind.centred else np.zeros(1)
    scale = np.sqrt(np.square(heads - mean).mean(axis=-1, keepdims=True) + kind.eps)
    gain = np.ones(1) if kind.gain is None else np.abs(given.parameter(row, kind.gain))
    summed = np.abs(heads).mean(axis=-1, keepdims=True) if kind.centred else np.zeros(1)
    normed = ((np.abs(heads) + summed) / scale * gain).reshape(x.shape)
    return (normed + np.abs(value)) * terms(x.shape[-1])


def frozen(kind: Norm, along: Array, x: Array, gain: Array | None) -> Array:
    """The direction in which what a norm read moves a product with its output, its scale taken as it was for
    each row: [n, K, C] along which the output counts, [n, C] that it read -> [n, K, C]"""
    x = x.astype(np.float64)
    x = x - x.mean(axis=1, keepdims=True) if kind.centred else x
    scale = np.sqrt(np.square(x).mean(axis=1) + kind.eps)[:, None, None]
    along = (along if gain is None else along * gain) / scale
    return along - along.mean(axis=2, keepdims=True) if kind.centred else along


def worked(at: TracedElement) -> Worked:
    """y = x / sqrt(mean(x^2) + eps) * gain + bias, of x less its mean where that is subtracted"""
    kind = at.row.kind
    assert isinstance(kind, Norm)
    position, channel = at.index
    (source,) = at.row.inputs
    within = _within(at, kind, source, channel)
    x, row = at.factor(source, position, channel), at.along(source, position, within=within)
    steps, rms = _divided_by(at, kind, row)
    factors = [x]
    if kind.centred:
        steps.append(sum_of("(x - mean)", [x], [minus(steps[0])]))
        factors = [result(steps[-1])]
    factors.append(reciprocal(rms))
    if kind.gain:
        factors.append(at.factor(kind.gain, channel - within.start))
    added = [at.factor(kind.bias, channel - within.start)] if kind.bias else []
    last = sum_of(str(at.element), factors, added) if added else product(str(at.element), *factors)
    magnitude = last.magnitude
    if kind.centred:
        subtracted = abs(x.value) + steps[0].magnitude
        magnitude += subtracted * abs(math.prod(factor.value for factor in factors[1:]))
    times = f" × {factors[-1].name}" * bool(kind.gain) + "".join(f" + {factor.name}" for factor in added)
    shown = f"({x.name} - mean)" if kind.centred else x.name
    square = f"(x[{position},c] - mean)^2" if kind.centred else f"x[{position},c]^2"
    formula = (
        f"{at.own} = {shown} / rms{times}, rms = sqrt(mean of {square} + {kind.eps:g}), "
        f"c={within.start}..{within.stop - 1}"
    )
    return Worked(formula, (*steps, last), magnitude)


def _within(at: TracedElement, kind: Norm, source: str, channel: int) -> slice:
    """The channels that are normed with one: its row's, or its head's."""
    if kind.head_dim is None:
        return slice(0, at.numbers.shapes[source][-1])
    return channels_of(channel // kind.head_dim, kind.head_dim)


def _divided_by(at: TracedElement, kind: Norm, row: Operand) -> tuple[list[Step], Step]:
    """What a row is divided by: all the steps to it, of which the mean is the first where it is subtracted,
    and the last."""
    if not kind.centred:
        steps = [mean_square("mean square", row, at.most)]
    else:
        n = len(row.values)
        mean = total("mean", [row], at.most, Function(f"x/{n}", lambda x: x / n))
        m = mean.value
        squared = Function(f"({x_less(m)})**2/{n}", lambda x: (x - m) ** 2 / n)
        steps = [mean, total("mean square", [row], at.most, squared)]
    steps.append(root("rms", steps[-1], kind.eps))
    return steps, steps[-1]


def goes_to(at: TracedElement, reader: Operation) -> Use | None:
    """The same element, besides all those that are normed with it."""
    kind = reader.kind
    assert isinstance(kind, Norm)
    size, whole = kind.head_dim or at.numbers.shapes[at.name][-1], "head" if kind.head_dim else "row"
    words = f"divided by the rms of the {whole}, of {size} squares its own is one"
    words = "less the mean, " * kind.centred + words
    return at.use(reader.name, at.index, None, size, words)


def path(at: TracedElement, reader: Operation) -> Worked:
    """y = x / rms * g: dx = (dy * g - x * mean(dy * g * x) / rms^2) / rms; where the mean is subtracted,
    x stands for what is left of it, and the mean of dy * g is subtracted too"""
    kind, name = reader.kind, reader.name
    assert isinstance(kind, Norm)
    if not (kind.gain or kind.bias or kind.centred):
        return _of_plain(at, reader, kind)
    position, channel = at.index
    within = _within(at, kind, at.name, channel)
    own, row = channel - within.start, at.along(at.name, position, within=within)
    n = len(row.values)
    steps, rms = _divided_by(at, kind, row)
    values = row.values - (steps[0].value if kind.centred else 0.0)
    x = Operand(values, lambda i: f"(x[{i}] - mean)", "constant") if kind.centred else row
    gradients = [at.along(name, position, kind="backward", within=within)]
    if kind.gain:
        gradients.append(at.vector(kind.gain))
    share, divisor = Function(f"x/{n}", lambda x: x / n), reciprocal(rms)
    g = " × g" * bool(kind.gain)
    mean = total(f"mean of dy{g} × x", [*gradients, x], at.most, share)
    parts = [[*(operand.factor(own) for operand in gradients), divisor]]
    parts.append([x.factor(own), minus(mean), divisor, divisor, divisor])
    steps.append(mean)
    if kind.centred:
        steps.append(total(f"mean of dy{g}", gradients, at.most, share))
        parts.append([minus(steps[-1]), divisor])
    last = sum_of(at.label(name), *parts)
    magnitude = last.magnitude + abs(values[own] * divisor.value**3) * mean.magnitude
    magnitude += steps[-1].magnitude * divisor.value if kind.centred else 0.0
    less = f" - mean of dy{g}" * kind.centred
    text = f"(dy[{own}]{g}[{own}]" if kind.gain else f"(dy[{own}]"
    text += f" - x[{own}] × mean of dy{g} × x / rms^2{less}) / rms, y = {name} at position {position}"
    return Worked(text, (*steps, last), magnitude)


def _of_plain(at: TracedElement, reader: Operation, kind: Norm) -> Worked:
    """y = x / rms: dx = (dy - y * mean(dy * y)) / rms"""
    position, channel = at.index
    within, name = _within(at, kind, at.name, channel), reader.name
    own = channel - within.start
    dy = at.along(name, position, kind="backward", within=within)
    y, x = at.along(name, position, within=within), at.along(at.name, position, within=within)
    steps, rms = _divided_by(at, kind, x)
    n = len(y.values)
    mean = total("mean of dy × y", [dy, y], at.most, Function(f"x/{n}", lambda x: x / n))
    divisor = reciprocal(rms)
    scaled = [y.factor(own), minus(mean), divisor]
    last = sum_of(at.label(name), [dy.factor(own), divisor], scaled)
    text = f"(dy[{channel}] - y[{channel}] × mean of dy × y) / rms, y = {name} at position {position}"
    magnitude = last.magnitude + abs(scaled[0].value * divisor.value) * mean.magnitude
    return Worked(text, (*steps, mean, last), magnitude)


def gradient_goes_to(at: TracedElement) -> list[Use]:
    """Back to the row, and to gain and bias."""
    kind = at.row.kind
    assert isinstance(kind, Norm)
    (source,) = at.row.inputs
    within = _within(at, kind, source, at.index[1])
    size, own = within.stop - within.start, (at.index[1] - within.start,)
    whole = "head" if kind.head_dim else "row"
    found = [at.gradient_use(source, at.index, None, size, f"back through the norm of the {whole}")]
    words = f"one of {at.numbers.length * at.numbers.shapes[source][-1] // size} {whole}s"
    if kind.gain:
        found.append(at.gradient_use(kind.gain, own, None, 1, f"times x / rms, {words}"))
    if kind.bias:
        found.append(at.gradient_use(kind.bias, own, at.gradient, 1, words))
    return found


def parameter_used(at: TracedElement, reader: Operation) -> Use | None:
    """Where an element of the gain weighs most; of the bias the last position."""
    kind, (own,) = reader.kind, at.index
    assert isinstance(kind, Norm)
    if at.name == kind.bias:
        words = f"added at each of the {at.numbers.length} positions"
        return at.use(reader.name, (at.numbers.length - 1, own), at.value, 1, words)
    size = at.numbers.shapes[at.name][0]
    of_all_heads = at.numbers.array(reader.name)[:, own::size]
    values = of_all_heads.astype(np.float64)
    if kind.bias:
        values = values - at.numbers.value(kind.bias, at.index)
    position, head = np.unravel_index(strongest(values), values.shape)
    index = (int(position), int(head) * size + own)
    words = f"times {short(reader.inputs[0])} / rms"
    return at.use(reader.name, index, float(values[position, head]), values.size, words)


def parameter_gradient(at: TracedElement, reader: Operation) -> Worked:
    """The sum over all rows (or heads) of dy times x / rms; of the bias, of dy."""
    kind, name, (own,) = reader.kind, reader.name, at.index
    assert isinstance(kind, Norm)
    if at.is_cut(name):
        return no_path(at, name)
    (source,), size = reader.inputs, at.numbers.shapes[at.name][0]
    x = at.numbers.array(source).astype(np.float64)
    heads = x.reshape(len(x), -1, size)
    n = heads.shape[1]

    def place(i: int) -> tuple[int, int]:
        return i // n, i % n * size + own

    dy = at.numbers.array(name, "backward")[:, own::size].astype(np.float64).reshape(-1)
    operands, text = [elements(dy, name, place, "backward")], f"sum of d {name}[p,c]"
    if at.name == kind.gain:
        if kind.centred:
            heads = heads - heads.mean(axis=-1, keepdims=True)
        root = np.sqrt(np.square(heads).mean(axis=-1, keepdims=True) + kind.eps)
        normed = (heads / root)[..., own].reshape(-1)
        operands.append(
            Operand(normed, lambda i: f"{element_name(short(source), place(i))} / rms", "constant")
        )
        text += f" × {source}[p,c] / rms"
    step = total(at.label(name), operands, at.most, label_of=lambda i: at.tokens_from(0)(i // n))
    channels = str(own) if n == 1 else f"{own} of each head"
    return in_one_step(f"{text}, p=0..{len(x) - 1}, c={channels}", step)
