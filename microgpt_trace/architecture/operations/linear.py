"""Linear: y = x @ W.T + b, or the share of some columns of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...arrays.stats import Array
from ..arithmetic import sum_of, total
from ..kinds import Linear
from ..plan import Operation
from ..steps import Use, Worked, element_name, in_one_step
from ..traced_element import TracedElement, no_path, passed_on, short, strongest
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs
from .rounding import Sizes, Spread, terms


@dataclass(frozen=True, eq=False, repr=False)
class FaultyLinear(Linear):
    """With a `cap`: c * tanh(y / c)."""

    cap: float | None = None


def forward(row: Operation, run: PassState, x: Array) -> Array:
    """y = x @ W.T + b: [N, in] -> [N, out]"""
    kind = row.kind
    assert isinstance(kind, Linear)
    if kind.columns is None:
        return run.product(x, kind.weight, kind.bias)
    return columns_forward(x, run.matrix(kind.weight), slice(*kind.columns))


def backward(row: Operation, run: PassState, dy: Array, y: Array, x: Array) -> Gradients:
    """dx = dy @ W, dW = dy.T @ x, db = sum(dy): [N, out] -> [N, in]"""
    kind = row.kind
    assert isinstance(kind, Linear)
    found: dict[str, Array] = {}
    if kind.bias in run.wanted:
        found[str(kind.bias)] = dy.sum(axis=0)
    if kind.columns is None:
        if kind.weight in run.wanted:
            found[kind.weight] = dy.T @ x
        return Gradients((run.product_back(dy, kind.weight),), found)
    own, dx = slice(*kind.columns), np.zeros_like(x)
    dx[:, own] = dy @ run.matrix(kind.weight)[:, own]
    if kind.weight in run.wanted:
        found[kind.weight] = np.zeros((kind.width, x.shape[1]), dy.dtype)
        found[kind.weight][:, own] = dy.T @ x[:, own]
    return Gradients((dx,), found)


def columns_forward(x: Array, weight: Array, own: slice) -> Array:
    """The share of some columns: [N, in], [out, in] -> [N, out]"""
    return x[:, own] @ weight[:, own].T


def reference(row: Operation, given: ReferenceInputs, x: Array) -> Array:
    """y = x @ W.T + b in float64: [T, in] -> [T, out]"""
    kind = row.kind
    assert isinstance(kind, Linear)
    if kind.columns is not None:
        own = slice(*kind.columns)
        return x[:, own] @ given.parameter(row, kind.weight)[:, own].T.astype(np.float64)
    y = given.product(row, x, kind.weight)
    y = y if kind.bias is None else y + given.parameter(row, kind.bias)
    return capped(y, kind.cap) if isinstance(kind, FaultyLinear) else y


def capped(x: Array, cap: float | None) -> Array:
    """c * tanh(x / c)"""
    return x if cap is None else cap * np.tanh(x / cap)


def spread(kind: Linear, sizes: Sizes) -> Spread:
    """A sum over the width of the input."""
    return Spread(sizes.input if kind.columns is None else kind.columns[1] - kind.columns[0])


def size(row: Operation, given: ReferenceInputs, value: Array, x: Array) -> Array:
    """|x| |w|, of which the terms may cancel."""
    kind = row.kind
    assert isinstance(kind, Linear)
    if kind.columns is None:
        norms = given.norms[kind.weight]
        return np.linalg.norm(x, axis=-1, keepdims=True) * norms * terms(x.shape[-1]) + np.abs(value)
    own = slice(*kind.columns)
    norms = np.linalg.norm(given.parameter(row, kind.weight)[:, own].astype(np.float64), axis=1)
    return np.linalg.norm(x[:, own], axis=1, keepdims=True) * norms


def worked(at: TracedElement) -> Worked:
    """A sum of products and the bias; where a hook replaced one of the parts, the sum of the parts."""
    kind, parts = at.row.kind, at.row.parts
    assert isinstance(kind, Linear)
    if not parts:
        return _product(at, kind)
    if any(("forward", part) in at.numbers.replaced for part in parts):
        extra = [[at.factor(kind.bias, at.index[1])]] if kind.bias else []
        step = sum_of(str(at.element), *([at.factor(part, *at.index)] for part in parts), *extra)
        formula = f"{at.own} = the sum of the heads, of which a hook replaced some"
        return in_one_step(formula, step)
    more = " and the bias" if kind.bias else ""
    first, last = (element_name(parts[i], at.index) for i in (0, -1))
    note = f"{first} to {last}{more} add up to the same" if first != last or more else ""
    return replace(_product(at, kind), notes=(note,) if note else ())


def _product(at: TracedElement, kind: Linear) -> Worked:
    position, output = at.index
    (source,) = at.row.inputs
    within = slice(*kind.columns) if kind.columns else slice(0, at.numbers.shapes[source][-1])
    extra = [at.factor(kind.bias, output)] if kind.bias and not kind.columns else []
    operands = [at.along(source, position, within=within), at.along(kind.weight, output, within=within)]
    step = total(str(at.element), operands, at.most, extra=extra)
    plus = f" + {extra[0].name}" if extra else ""
    formula = (
        f"{at.own} = sum of {short(source)}[{position},c] × {short(kind.weight)}[{output},c]{plus}, "
        f"c={within.start}..{within.stop - 1}"
    )
    return in_one_step(formula, step)


def goes_to(at: TracedElement, reader: Operation) -> Use | None:
    """The output that the element weighs most in; of a part the same element of the sum."""
    kind = reader.kind
    assert isinstance(kind, Linear)
    if at.name in reader.parts:
        words = "one of the heads, which add up to it"
        return at.use(reader.name, at.index, at.value, 1, words)
    position, channel = at.index
    if not kind.reads(channel):
        return None
    products = at.value * at.numbers.column(kind.weight, channel)
    best = strongest(products)
    words = f"times {element_name(kind.weight, (best, channel))}"
    return at.use(reader.name, (position, best), float(products[best]), len(products), words)


def path(at: TracedElement, reader: Operation) -> Worked:
    """y = x @ W.T: dx = dy @ W. A part gets the gradient of the sum; by way of its own part an input does
    where a hook replaced something there."""
    kind = reader.kind
    assert isinstance(kind, Linear)
    if at.name in reader.parts:
        return passed_on(at, reader.name)
    position, channel = at.index
    part = _replaced_part(at, reader, channel)
    if part and at.is_cut(part):
        return no_path(at, part)
    label, column = at.label(reader.name), at.down(kind.weight, channel)
    step = total(label, [at.along(part or reader.name, position, kind="backward"), column], at.most)
    text = f"sum of d {short(part or reader.name)}[{position},o] × {short(kind.weight)}[o,{channel}]"
    return in_one_step(text if part else f"{text}, o=0..{len(column.values) - 1}", step)


def _replaced_part(at: TracedElement, reader: Operation, channel: int) -> str:
    """The part that a channel of the input goes into, if a hook replaced it or its gradient."""
    for part in reader.parts:
        kind = at.numbers.plan[part].kind
        if isinstance(kind, Linear) and kind.reads(channel):
            return part if {("forward", part), ("backward", part)} & at.numbers.replaced else ""
    return ""


def gradient_goes_to(at: TracedElement) -> list[Use]:
    """To the input and the parameters. A sum is worked out from its input too; the parts, which add up to
    it, have its gradient."""
    kind, parts = at.row.kind, at.row.parts
    assert isinstance(kind, Linear)
    if kind.columns:
        return []
    position, output = at.index
    (source,) = at.row.inputs
    found = []
    if parts:
        words = "each head has the same gradient"
        found = [at.gradient_use(parts[0], at.index, at.gradient, len(parts), words)]
    of_input = at.gradient * at.numbers.row(kind.weight, output)
    best, n = strongest(of_input), len(of_input)
    words = f"times {element_name(kind.weight, (output, best))}"
    found.append(at.gradient_use(source, (position, best), float(of_input[best]), n, words))
    of_weight = at.gradient * at.numbers.row(source, position)
    best = strongest(of_weight)
    words = f"times {element_name(source, (position, best))}"
    found.append(at.gradient_use(kind.weight, (output, best), float(of_weight[best]), n, words))
    if kind.bias:
        words = f"one of {at.numbers.length} positions"
        found.append(at.gradient_use(kind.bias, (output,), at.gradient, 1, words))
    return found


def parameter_used(at: TracedElement, reader: Operation) -> Use | None:
    """The position at which an element of the matrix weighs most; of the bias the last position."""
    (source,) = reader.inputs
    if len(at.index) == 1:
        index = (at.numbers.length - 1, at.index[0])
        words = f"added at each of the {at.numbers.length} positions"
        return at.use(reader.name, index, at.value, 1, words)
    output, channel = at.index
    products = at.value * at.numbers.column(source, channel)
    best = strongest(products)
    words = f"times {element_name(source, (best, channel))}"
    return at.use(reader.name, (best, output), float(products[best]), len(products), words)


def parameter_gradient(at: TracedElement, reader: Operation) -> Worked:
    """The sum over positions of dy times x; of the bias, of dy."""
    (source,) = reader.inputs
    event, output = reader.name, at.index[0]
    vector = len(at.index) == 1
    if not vector and not at.is_cut(event):
        event = _replaced_part(at, reader, at.index[1]) or event
    if at.is_cut(event):
        return no_path(at, event)
    operands = [at.down(event, output, kind="backward")]
    text = f"sum over the positions p of d {event}[p,{output}]"
    if not vector:
        operands.append(at.down(source, at.index[1]))
        text += f" × {source}[p,{at.index[1]}]"
    step = total(at.label(reader.name), operands, at.most, label_of=at.tokens_from(0))
    return in_one_step(f"{text}, p=0..{at.numbers.length - 1}", step)
