"""Mistakes of matrices and biases: missing, doubled, another's, transposed, in another order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from ...architecture.plans.kinds import Linear, Norm
from ...architecture.plans.plan import Plan, kind_of, layer_of
from ...arrays.stats import Array
from ..fitting import Family
from ..hypothesis import Case, Hypothesis
from .changes import with_instead
from .layers import gated
from .rope import in_halves, in_pairs


def biases(case: Case) -> Iterator[Hypothesis | Family]:
    """A bias that is missing, added twice or times another number."""
    own = case.biases(Linear, Norm)
    for chosen in (*([bias] for bias in own), *([own] if len(own) > 1 else [])):
        yield _scaled(case, chosen)


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


def _others(case: Case) -> Iterator[Hypothesis]:
    """Another matrix, gain or bias, and where both have a bias that with it."""
    matrices, gains = ([own.weight for own in case.parameters(kind)] for kind in (Linear, Norm))
    for id, what, names in (
        ("another-weight", "matrix", matrices),
        ("gain-of-another-norm", "gain", gains),
        ("bias-of-another", "bias", case.biases(Linear, Norm)),
    ):
        for name, other in ((own, other) for own in names for other in _alike(case, own)):
            instead = {name: case.another(other)}
            yield Hypothesis(id, f"the {what} is {other}, not {name}", with_instead(case.plan, instead))
            bias, its = case.bias_beside(name), case.bias_beside(other)
            if bias and its:
                both = with_instead(case.plan, instead | {bias: case.another(its)})
                yield Hypothesis(id, f"{what} and bias are those of {other}, not of {name}", both)


def _swapped_gate(case: Case) -> Iterator[Hypothesis]:
    """The matrices of gate and up the wrong way round, with their biases."""
    own = {product.row.name for product in case.parameters(Linear)}
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
    """The other parameters with the same shape, of the layer and the model's ends; of those at the ends also
    the last layer's, by whole names."""
    own = case.whole_name(parameter)
    layer, last = layer_of(own), len(case.plan.layers) - 1
    for name, shape in case.shapes.items():
        near = layer_of(name) in (last if layer is None else layer, None)
        if near and name != own and shape == case.shapes[own]:
            yield name if layer is None else kind_of(name)


def matrices(case: Case) -> Iterator[Hypothesis]:
    """A matrix that is transposed, another parameter of the layer, rows that come in another order."""
    for product in case.parameters(Linear):
        out, width = case.shapes[case.whole_name(product.weight)]
        if product.row.name == "logits" and out > 8 * width:
            words = ""  # a vocabulary of rows read as columns: seldom, and large
        else:
            words = "is transposed" if out == width else f"[{out}, {width}] is read as [{width}, {out}]"
        if words:
            plan = with_instead(case.plan, case.changed([product.weight], _transposed))
            yield Hypothesis("weight-transposed", f"{product.weight} {words}", plan)
    yield from _others(case)
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
    of_heads = [(own, heads[own.row.name].dim) for own in case.parameters(Linear) if own.row.name in heads]
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
    for parameters in case.parameters(Linear, Norm):
        weight, bias = parameters[1:]
        for names in ((weight,), (weight, bias), (bias,)) if bias else ((weight,),):
            words = " and ".join(f"the bias {name}" if name == bias else name for name in names)
            verb = "are those" if len(names) > 1 else "is that"
            for other in sorted(set(range(count)) - {own}, key=lambda i: abs(i - own)):
                instead = {name: _of_layer(case, other - own, count) for name in names}
                claim = f"{words} {verb} of layer {other}"
                yield Hypothesis("another-layer", claim, with_instead(case.plan, instead))


def _of_layer(case: Case, away: int, count: int) -> Callable[[str], Array]:
    def instead(name: str) -> Array:
        own = layer_of(name)
        assert own is not None
        return case.parameter(f"layer{(own + away) % count}.{kind_of(name)}")

    return instead
