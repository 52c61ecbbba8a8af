"""Relations: which patterns are which events because one of them is computed from the other.

A fault changes what one operation gives; all others still make their outputs of their inputs, of which
a few layers and positions are enough. Knows the operations that keep positions apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, permutations, product

import numpy as np

from ..architecture.kinds import Activation, Linear, Multiply
from ..architecture.model import LanguageModel
from ..architecture.operations.elementwise import ACTIVATIONS
from ..architecture.plan import Operation, Plan
from ..arrays.stats import Array
from .layouts import fit
from .matching import ScoreTable, Shapes, TensorPart
from .recorded import Recorded

LAYERS, POSITIONS = 3, 8  # that are looked at, at most
HOLDS = 0.05  # relative L2 of most positions: a stream in bfloat16 says no more of what a layer adds
RELATED = 3.0  # what two layers say together; one says half
SUM = 0.5  # of what a product says: that of two terms does not tell which is which

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
    parts: Sequence[TensorPart], names: Sequence[str], shapes: Shapes, table: ScoreTable,
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
        told = {*_products(model, layer), *_elementwise(model.plan.layers[number], layer)}
        for claim in told | {*_sums(model.plan, layer, layers[number - 1])}:
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
    """One is the product of a matrix and the other, or of what two others give multiplied (act and up), which
    say less of themselves: nobody sees from their product which is which."""
    for row in model.plan.layers[layer.number]:
        if not isinstance(row.kind, Linear) or row.kind.columns is not None:
            continue
        read = model.plan[row.inputs[0]]
        outputs = layer.of(_own(row.name)) if read.layer == row.layer else []
        inputs = [([p], value) for p, value in layer.of(_own(read.name))]
        if isinstance(read.kind, Multiply):
            factors = layer.of(_own(read.inputs[0]))
            inputs += [([p, q], one * other) for (p, one), (q, other) in combinations(factors, 2)]
        if not inputs or not outputs:
            continue
        whole = model.product(np.concatenate([x for _, x in inputs]), row.kind.weight)
        whole = whole if row.kind.bias is None else whole + model.parameter(row.kind.bias)
        for (whose, _), computed in zip(inputs, np.split(whole, len(inputs)), strict=True):
            for q, value in outputs:
                if q not in whose and _same(computed, value, value):
                    yield q, _own(row.name)
                    if len(whose) == 1:
                        yield whose[0], _own(read.name)


def _elementwise(rows: Sequence[Operation], layer: Layer) -> Iterator[Claim]:
    """What an activation makes of one, or the product of two."""
    for row in rows:
        made, read = _own(row.name), [_own(name) for name in row.inputs]
        if isinstance(row.kind, Activation):
            function = ACTIVATIONS[row.kind.function]
            for (p, x), (q, y) in product(layer.of(read[0]), layer.of(made)):
                if p != q and _same(function(x), y, y):
                    yield from ((p, read[0]), (q, made))
        if isinstance(row.kind, Multiply):
            for (p, a), (q, b) in permutations(layer.of(read[0]), 2):
                for r, whole in layer.of(made):
                    if r not in (p, q) and _same(a * b, whole, whole):
                        yield from ((p, read[0]), (q, read[1]), (r, made))


def _sums(plan: Plan, layer: Layer, before: Layer) -> Iterator[Claim]:
    """What a layer adds to the stream, in one step or branch by branch. What enters it is the pattern of
    what leaves it, in the layer before."""
    enters, leaves = plan.streams[layer.number], plan.streams[layer.number + 1]
    left, start = dict(layer.of(_own(leaves))), dict(before.of(_own(leaves)))
    sums = {name: read for name, read in plan.residuals.items() if plan[name].layer == layer.number}
    for name, (stream, branch) in sums.items():
        entered = [(p, _own(leaves), start[p]) for p in left if p in start]
        if stream != enters:
            entered = [(p, _own(stream), value) for p, value in layer.of(_own(stream))]
        for (p, kind, x), (q, write), (r, whole) in product(
            entered, layer.of(_own(branch)), layer.of(_own(name))
        ):
            apart = len({p, q, r}) == 3 if (stream, name) != (enters, leaves) else p == r != q
            if apart and _same(x + write, whole, write):
                yield from ((p, kind), (q, _own(branch)), (r, _own(name)))
    branches = [_own(name) for name, stream in plan.branches.items() if plan[name].layer == layer.number]
    for (p, end), *writes in product(left.items(), *map(layer.of, branches)):
        if p in start and len(writes) > 1 and len({p, *(q for q, _ in writes)}) == 1 + len(writes):
            added = sum(write for _, write in writes[1:]) + writes[0][1]
            if _same(start[p] + added, end, added):
                yield p, _own(leaves)
                yield from ((q, kind) for (q, _), kind in zip(writes, branches, strict=True))


def _own(name: str) -> str:
    """An event without its layer: layer3.attn.q -> attn.q"""
    return name.partition(".")[2]


def _same(computed: Array, found: Array, scale: Array) -> bool:
    """Whether two are the same at most positions, measured by the rows of `scale`: [n, W] each"""
    if computed.shape != found.shape:
        return False
    with np.errstate(all="ignore"):
        apart = np.linalg.norm(computed - found, axis=1) / np.linalg.norm(scale, axis=1)
    return 2 * int((apart < HOLDS).sum()) > len(apart)
