"""Relations: which patterns are which events because one of them is computed from the other.

A fault changes what one operation gives; all others still make their outputs of their inputs, of which
a few layers and positions are enough. Knows the operations of a decoder that keep positions apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, permutations

import numpy as np

from ..architecture.model import LanguageModel, bias_of
from ..architecture.operations.elementwise import silu
from ..arrays.stats import Array
from .layouts import fit
from .matching import Part, Shapes, Table
from .recording import Recorded

LAYERS, POSITIONS = 3, 8  # that are looked at, at most
HOLDS = 0.05  # relative L2 of most positions: a stream in bfloat16 says no more of what a layer adds
RELATED = 3.0  # what two layers say together; one says half
SUM = 0.5  # of what a product says: that of two terms does not tell which is which

PRODUCTS = {
    "attn.norm": {"attn.q": "attn_wq", "attn.k": "attn_wk", "attn.v": "attn_wv"},
    "attn.context": {"attn.out": "attn_wo"},
    "mlp.norm": {"mlp.gate": "mlp_wgate", "mlp.up": "mlp_wup"},
    "mlp.hidden": {"mlp.down": "mlp_wdown"},
}

Claim = tuple[int, str]  # a pattern, by its place, and the kind that it is


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """Some rows of each pattern as each kind of event that it may be, in one layer: [n, W]"""

    number: int
    values: Mapping[Claim, Array]

    def of(self, kind: str) -> list[tuple[int, Array]]:
        return [(p, value) for (p, other), value in self.values.items() if other == kind]


def related(
    model: LanguageModel, rows: Sequence[Mapping[int, int]], columns: Mapping[str, Mapping[int, int]],
    parts: Sequence[Part], names: Sequence[str], shapes: Shapes, table: Table,
) -> Array:  # fmt: skip
    """What relations say for patterns as kinds, [P, K]; `rows` are those of each pattern by layer."""
    counts = Counter(layer for one in rows for layer in one)
    chosen = sorted(sorted(counts, key=lambda layer: (-counts[layer], layer))[:LAYERS])

    def read(number: int) -> Layer:
        values = {}
        for p, one in enumerate(rows):
            if number not in one:
                continue
            part = parts[one[number]]
            once = replace(part.recorded, read=partial(np.asarray, part.recorded.read()))
            for kind, places in columns.items():
                pair = one[number], places[number]
                if table.score[pair] > 0:
                    recorded = replace(once, layout=str(table.layout[pair]))
                    values[p, kind] = _rows(model, recorded, names[pair[1]], shapes)
        return Layer(number, {claim: value for claim, value in values.items() if value.size})

    layers = {number: read(number) for number in {*chosen, *(number - 1 for number in chosen)}}
    votes: dict[Claim, float] = {}
    for number in chosen:
        layer = layers[number]
        told = {*_products(model, layer), *_activations(layer)}
        for claim in told | {*_sums(layer, layers[number - 1])}:
            votes[claim] = votes.get(claim, 0) + (1 if claim in told else SUM)
    kinds = list(columns)
    found = np.zeros((len(rows), len(kinds)))
    for (p, kind), times in votes.items():
        found[p, kinds.index(kind)] = RELATED * min(times, 2) / 2
    return found


def _rows(model: LanguageModel, recorded: Recorded, name: str, shapes: Shapes) -> Array:
    """The last rows of a tensor as an event, nothing where they are of other positions or heads."""
    array = np.asarray(fit(name, recorded, shapes, head_dim=model.config.head_dim).array)
    if array.shape != shapes[name] or array.ndim != 2:
        return np.empty(0)
    return np.asarray(array[-POSITIONS:], np.float32)


def _products(model: LanguageModel, layer: Layer) -> Iterator[Claim]:
    """One is the product of a matrix and the other, or and what act and up give, which say less of
    themselves: nobody sees from their product which is which."""
    for kind, matrices in PRODUCTS.items():
        inputs = [([p], value) for p, value in layer.of(kind)]
        if kind == "mlp.hidden":
            inputs += [([p, q], act * up) for (p, act), (q, up) in combinations(layer.of("mlp.act"), 2)]
        for made, matrix in matrices.items():
            outputs = layer.of(made)
            if not inputs or not outputs:
                continue
            name = f"layer{layer.number}.{matrix}"
            whole = model.product(np.concatenate([x for _, x in inputs]), name)
            bias = bias_of(model, name.replace("_w", "_b"))
            whole = whole if bias is None else whole + bias
            for (whose, _), computed in zip(inputs, np.split(whole, len(inputs)), strict=True):
                for q, value in outputs:
                    if q not in whose and _same(computed, value, value):
                        yield q, made
                        if len(whose) == 1:
                            yield whose[0], kind


def _activations(layer: Layer) -> Iterator[Claim]:
    for p, gate in layer.of("mlp.gate"):
        for q, act in layer.of("mlp.act"):
            if p != q and _same(silu(gate), act, act):
                yield from ((p, "mlp.gate"), (q, "mlp.act"))
    for (p, act), (q, up) in permutations(layer.of("mlp.act"), 2):
        for r, hidden in layer.of("mlp.hidden"):
            if r not in (p, q) and _same(act * up, hidden, hidden):
                yield from ((p, "mlp.act"), (q, "mlp.up"), (r, "mlp.hidden"))


def _sums(layer: Layer, before: Layer) -> Iterator[Claim]:
    """What a layer adds to the stream, in one step or two."""
    stream, outs, downs = layer.of("mlp.residual"), layer.of("attn.out"), dict(layer.of("mlp.down"))
    middle, start = dict(layer.of("attn.residual")), dict(before.of("mlp.residual"))
    for p, end in stream:
        for q, out in outs:
            for r, down in downs.items():
                if len({p, q, r}) == 3 and p in start and _same(start[p] + out + down, end, out + down):
                    yield from ((p, "mlp.residual"), (q, "attn.out"), (r, "mlp.down"))
            for r, half in middle.items():
                if len({p, q, r}) == 3 and p in start and _same(start[p] + out, half, out):
                    yield from ((p, "mlp.residual"), (q, "attn.out"), (r, "attn.residual"))
                if len({p, q, r}) == 3 and q in downs and _same(half + downs[q], end, downs[q]):
                    yield from ((p, "mlp.residual"), (q, "mlp.down"), (r, "attn.residual"))


def _same(computed: Array, found: Array, scale: Array) -> bool:
    """Whether two are the same at most positions, measured by the rows of `scale`: [n, W] each"""
    if computed.shape != found.shape:
        return False
    with np.errstate(all="ignore"):
        apart = np.linalg.norm(computed - found, axis=1) / np.linalg.norm(scale, axis=1)
    return 2 * int((apart < HOLDS).sum()) > len(apart)
