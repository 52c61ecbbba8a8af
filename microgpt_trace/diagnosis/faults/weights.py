"""Mistakes of matrices and biases: missing, doubled, another's, transposed, in another order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from ...architecture.kinds import Norm
from ...architecture.plan import Plan, kind_of, layer_of
from ...arrays.stats import Array
from ..fitting import Family
from ..hypothesis import Case, Hypothesis, Product
from .changes import with_instead
from .layers import gated
from .rope import in_halves, in_pairs


def biases(case: Case) -> Iterator[Hypothesis | Family]:
    """A bias that is missing, added twice or times another number, or another's."""
    own = case.biases
    for chosen in (*((bias,) for bias in own), *([own] if len(own) > 1 else [])):
        yield _scaled(case, chosen)
    for bias in own:
        for other in _alike(case, bias):
            plan = with_instead(case.plan, {bias: case.another(other)})
            yield Hypothesis("bias-of-another", f"the bias is {other}, not {bias}", plan)


def _scaled(case: Case, chosen: Sequence[str]) -> Family:
    def at(factor: float) -> Plan:
        return with_instead(case.plan, case.changed(chosen, lambda b: factor * b))

    words = f"the bias {', '.join(chosen)}"
    special = {
        0.0: ("bias-missing", f"{words} is missing"),
        2.0: ("bias-twice", f"{words} is added twice"),
        -1.0: ("bias-negated", f"{words} is subtracted"),
    }
    return Family(
        "bias-scaled", at, f"{words} is multiplied by {{}}".format,
        own=1.0, special=special, low=-math.inf, pivot=None, unit=1.0,
    )  # fmt: skip


def _another(case: Case, product: Product, other: str) -> Iterator[Hypothesis]:
    """Another matrix, and where both have a bias that with it."""
    instead = {product.weight: case.another(other)}
    claim = f"the matrix is {other}, not {product.weight}"
    yield Hypothesis("another-weight", claim, with_instead(case.plan, instead))
    its = case.bias_beside(other)
    if product.bias is not None and its is not None:
        claim = f"matrix and bias are those of {other}, not of {product.weight}"
        instead = instead | {product.bias: case.another(its)}
        yield Hypothesis("another-weight", claim, with_instead(case.plan, instead))


def _swapped_gate(case: Case) -> Iterator[Hypothesis]:
    """The matrices of gate and up the wrong way round, with their biases."""
    own = {product.row.name for product in case.products}
    of_layer = case.plan.layers[case.layer] if case.layer is not None else ()
    for mlp in filter(None, (gated(case, row) for row in of_layer)):
        if not {mlp.gate, mlp.up} & own:
            continue
        pairs = list(zip(*(case.plan[name].kind.names for name in (mlp.gate, mlp.up)), strict=False))
        instead = {kind_of(a): case.another(kind_of(b)) for pair in pairs for a, b in (pair, pair[::-1])}
        words = " and ".join(name.rpartition(".")[2] for name in (mlp.gate, mlp.up))
        claim = f"{words} are swapped: each has the other's matrix"
        yield Hypothesis("gate-up-swapped", claim, with_instead(case.plan, instead))


def _alike(case: Case, parameter: str) -> Iterator[str]:
    """The other parameters of the layer (or of the model's ends) with the same shape."""
    own = case.whole_name(parameter)
    for name, shape in case.shapes.items():
        same_place = layer_of(name) == layer_of(own)
        if name != own and same_place and shape == case.shapes[own]:
            yield kind_of(name)


def matrices(case: Case) -> Iterator[Hypothesis]:
    """A matrix that is transposed, another of the layer, or whose rows come in another order."""
    for product in case.products:
        out, width = case.shapes[case.whole_name(product.weight)]
        if product.row.name == "logits" and out > 8 * width:
            words = ""  # a vocabulary of rows read as columns: seldom, and large
        else:
            words = "is transposed" if out == width else f"[{out}, {width}] is read as [{width}, {out}]"
        if words:
            plan = with_instead(case.plan, case.changed([product.weight], _transposed))
            yield Hypothesis("weight-transposed", f"{product.weight} {words}", plan)
        for other in _alike(case, product.weight):
            yield from _another(case, product, other)
    yield from _swapped_gate(case)
    yield from _orders(case)


def _orders(case: Case) -> Iterator[Hypothesis]:
    """Rows of q, k and v in the order of pairs side by side, or put into halves once too often."""
    orders = (
        (
            "rows-in-pairs",
            "rows of {} are permuted: in GGUF's order (pairs side by side), not halves",
            in_pairs,
        ),
        ("rows-in-halves", "rows of {} are permuted: put from pairs into halves once too often", in_halves),
    )
    heads = case.plan.heads
    of_heads = [(own, heads[own.row.name].dim) for own in case.products if own.row.name in heads]
    for id, claim, order in orders:
        for chosen in (*([one] for one in of_heads), *([of_heads[:2]] if len(of_heads) > 1 else [])):
            instead: dict[str, Callable[[str], Array]] = {}
            for product, dim in chosen:
                names = filter(None, (product.weight, product.bias))
                instead |= case.changed(names, lambda w, order=order, dim=dim: order(w.T, dim).T)  # type: ignore[misc]
            words = " and ".join(product.weight for product, _ in chosen)
            yield Hypothesis(id, claim.format(words), with_instead(case.plan, instead))


def _transposed(weight: Array) -> Array:
    """W.T, or the same numbers read as [in, out] where they are not as many."""
    return weight.T if weight.shape[0] == weight.shape[1] else weight.reshape(weight.shape[::-1]).T


def layers(case: Case) -> Iterator[Hypothesis]:
    """The same matrix, gain or bias of another layer."""
    if case.layer is None or case.judge.plain.between(case.name):
        return
    own, count = case.layer, len(case.plan.layers)
    for parameter in _parameters(case):
        words = " and ".join(f"the bias {name}" if "_b" in name else name for name in parameter)
        verb = "are those" if len(parameter) > 1 else "is that"
        for other in sorted(set(range(count)) - {own}, key=lambda i: abs(i - own)):
            instead = {name: _of_layer(case, other - own, count) for name in parameter}
            claim = f"{words} {verb} of layer {other}"
            yield Hypothesis("another-layer", claim, with_instead(case.plan, instead))


def _parameters(case: Case) -> list[tuple[str, ...]]:
    """What the operation has: its matrix or gain, that with its bias, and the bias."""
    if isinstance(case.row.kind, Norm):
        single = [(name,) for name in (*case.gains, *case.biases)]
        return [*single, (*case.gains, *case.biases)] if len(single) > 1 else [*single]
    found: list[tuple[str, ...]] = []
    for product in case.products:
        found.append((product.weight,))
        if product.bias is not None:
            found += [(product.weight, product.bias), (product.bias,)]
    return found


def _of_layer(case: Case, away: int, count: int) -> Callable[[str], Array]:
    def instead(name: str) -> Array:
        own = layer_of(name)
        assert own is not None
        return case.parameter(f"layer{(own + away) % count}.{kind_of(name)}")

    return instead
