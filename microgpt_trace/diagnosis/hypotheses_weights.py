"""Mistakes of matrices and biases: missing, doubled, another's, transposed, in another order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from ..architecture.plan import kind_of, layer_of
from ..arrays.stats import Array
from .fitting import Family
from .hypotheses import Case, Hypothesis
from .hypotheses_norms import GAINS
from .operations import in_halves, in_pairs
from .rules import Rules


def biases(case: Case) -> Iterator[Hypothesis | Family]:
    """A bias that is missing, added twice or times another number, or another's."""
    own = {w.replace("_w", "_b"): kind for w, kind in case.products.items() if "_w" in w}
    own = {bias: kind for bias, kind in own.items() if case.has(bias)}
    for chosen in (*((bias,) for bias in own), *([tuple(own)] if len(own) > 1 else [])):
        yield _scaled(case, chosen)
    for bias in own:
        for other in _alike(case, bias):
            rules = case.rules.with_instead({bias: _from(case, other)})
            yield Hypothesis("bias-of-another", f"the bias is {other}, not {bias}", rules)


def _scaled(case: Case, chosen: Sequence[str]) -> Family:
    def at(factor: float) -> Rules:
        return case.rules.with_instead(dict.fromkeys(chosen, _changed(case, lambda b: factor * b)))

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


def _changed(case: Case, change: Callable[[Array], Array]) -> Callable[[str], Array]:
    return lambda name: change(case.weights.array(name))


def _from(case: Case, other: str) -> Callable[[str], Array]:
    """Another parameter of the same layer, or of the whole model."""

    def instead(name: str) -> Array:
        layer = layer_of(name)
        return case.weights.array(other if layer is None else f"layer{layer}.{other}")

    return instead


def _another(case: Case, weight: str, other: str) -> Iterator[Hypothesis]:
    """Another matrix, and where both have a bias that with it."""
    instead = {weight: _from(case, other)}
    claim = f"the matrix is {other}, not {weight}"
    yield Hypothesis("another-weight", claim, case.rules.with_instead(instead))
    bias, its = weight.replace("_w", "_b"), other.replace("_w", "_b")
    if bias != weight and its != other and case.has(bias) and case.has(its):
        claim = f"matrix and bias are those of {other}, not of {weight}"
        instead = instead | {bias: _from(case, its)}
        yield Hypothesis("another-weight", claim, case.rules.with_instead(instead))


def _swapped_gate(case: Case) -> Iterator[Hypothesis]:
    """The matrices of gate and up the wrong way round, with their biases."""
    if case.layer is None or not case.has("mlp_wgate") or not {"mlp_wgate", "mlp_wup"} & set(case.products):
        return
    instead = {"mlp_wgate": _from(case, "mlp_wup"), "mlp_wup": _from(case, "mlp_wgate")}
    if case.has("mlp_bgate"):
        instead |= {"mlp_bgate": _from(case, "mlp_bup"), "mlp_bup": _from(case, "mlp_bgate")}
    claim = "gate and up are swapped: each has the other's matrix"
    yield Hypothesis("gate-up-swapped", claim, case.rules.with_instead(instead))


def _alike(case: Case, parameter: str) -> Iterator[str]:
    """The other parameters of the layer (or of the model's ends) with the same shape."""
    weights, own = case.weights, case.whole_name(parameter)
    for name, shape in weights.shapes.items():
        same_place = layer_of(name) == layer_of(own)
        if name != own and same_place and shape == weights.shapes[own]:
            yield kind_of(name)


def matrices(case: Case) -> Iterator[Hypothesis]:
    """A matrix that is transposed, another of the layer, or whose rows come in another order."""
    rules, dim = case.rules, case.weights.head_dim
    for weight in case.products:
        out, width = case.weights.shapes[case.whole_name(weight)]
        if case.weights.behind["logits"] == weight and out > 8 * width:
            words = ""  # a vocabulary of rows read as columns: seldom, and large
        else:
            words = "is transposed" if out == width else f"[{out}, {width}] is read as [{width}, {out}]"
        if words:
            rules_ = rules.with_instead({weight: _changed(case, _transposed)})
            yield Hypothesis("weight-transposed", f"{weight} {words}", rules_)
        for other in _alike(case, weight):
            yield from _another(case, weight, other)
    yield from _swapped_gate(case)
    orders = (
        (
            "rows-in-pairs",
            "rows of {} are permuted: in GGUF's order (pairs side by side), not halves",
            in_pairs,
        ),
        ("rows-in-halves", "rows of {} are permuted: put from pairs into halves once too often", in_halves),
    )
    rotated = [w for w, kind in case.products.items() if kind in ("attn.q", "attn.k", "attn.v")]
    for id, claim, order in orders:
        changed = _changed(case, lambda w, order=order: order(w.T, dim).T)  # type: ignore[misc]
        for chosen in (*([w] for w in rotated), *([rotated[:2]] if len(rotated) > 1 else [])):
            instead = dict.fromkeys(chosen, changed)
            instead |= {b: changed for b in (w.replace("_w", "_b") for w in chosen) if case.has(b)}
            yield Hypothesis(id, claim.format(" and ".join(chosen)), rules.with_instead(instead))


def _transposed(weight: Array) -> Array:
    """W.T, or the same numbers read as [in, out] where they are not as many."""
    return weight.T if weight.shape[0] == weight.shape[1] else weight.reshape(weight.shape[::-1]).T


def layers(case: Case) -> Iterator[Hypothesis]:
    """The same matrix, gain or bias of another layer."""
    if case.layer is None or case.judge.plain.between(case.name):
        return
    own, count = case.layer, len(case.rules.windows)
    for parameter in _parameters(case):
        words = " and ".join(f"the bias {name}" if "_b" in name else name for name in parameter)
        verb = "are those" if len(parameter) > 1 else "is that"
        for other in sorted(set(range(count)) - {own}, key=lambda i: abs(i - own)):
            instead = {name: _of_layer(case, other - own, count) for name in parameter}
            claim = f"{words} {verb} of layer {other}"
            yield Hypothesis("another-layer", claim, case.rules.with_instead(instead))


def _parameters(case: Case) -> list[tuple[str, ...]]:
    """What the operation has: its matrix with its bias, or its gain."""
    gain = GAINS.get(case.kind)
    if gain and case.has(gain):
        return [(gain,)]
    found: list[tuple[str, ...]] = []
    for weight in case.products:
        bias = weight.replace("_w", "_b")
        found.append((weight,))
        if bias != weight and case.has(bias):
            found += [(weight, bias), (bias,)]
    return found


def _of_layer(case: Case, away: int, count: int) -> Callable[[str], Array]:
    def instead(name: str) -> Array:
        own = layer_of(name)
        assert own is not None
        return case.weights.array(f"layer{(own + away) % count}.{kind_of(name)}")

    return instead
