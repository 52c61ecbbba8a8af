"""Where an element of a parameter is used: in which events, and at which position it weighs most."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..architecture.steps import Use, element_name
from .elements import Element
from .place import Place, short
from .uses import strongest, use_of, value_of


def uses_of_parameter(at: Place) -> list[Use]:
    """Where a parameter's element is used: in which events, and at which position it weighs most."""
    name, kind = at.name, at.name.rpartition(".")[2]
    found = []
    if kind == "wte":
        own = [p for p, token in enumerate(at.traced.inputs.tokens) if token == at.index[0]]
        found += _looked_up(at, "embed.tok", own)
    if kind == "wpe":
        found += _looked_up(at, "embed.pos", [at.index[0]] if at.index[0] < at.traced.length else [])
    for reader in readers_of_parameter(at.traced.behind, name):
        found.append(_of_gain(at, reader) if "norm" in kind else _of_weight(at, reader))
    return found


def readers_of_parameter(behind: Mapping[str, str], name: str) -> list[str]:
    """The events whose operation multiplies with a parameter, or adds it; `behind` is the matrix of each
    kind of product."""
    prefix, kind = name[: name.rfind(".") + 1], name.rpartition(".")[2]
    if kind == "final_norm":
        return ["final.norm"]
    if "norm" in kind:
        return [prefix + kind.replace("_", ".", 1)]
    matrix = kind.replace("_b", "_w")
    return [prefix + event for event, of in behind.items() if of == matrix]


def _looked_up(at: Place, event: str, positions: list[int]) -> list[Use]:
    if not positions:
        return []
    index, many = (positions[0], at.index[1]), len(positions)
    words = "looked up" if many == 1 else f"looked up at {many} positions, of which this is the first"
    return [use_of(at, event, index, None, many, words)]


def _of_weight(at: Place, reader: str) -> Use:
    source = Place(at.traced, Element(reader, ()), at.most).inputs[0]
    if len(at.index) == 1:
        index = (at.traced.length - 1, at.index[0])
        words = f"added at each of the {at.traced.length} positions"
        return use_of(at, reader, index, value_of(at), 1, words)
    output, channel = at.index
    products = value_of(at) * at.traced.column(source, channel)
    best = strongest(products)
    words = f"times {element_name(source, (best, channel))}"
    return use_of(at, reader, (best, output), float(products[best]), len(products), words)


def _of_gain(at: Place, reader: str) -> Use:
    (own,) = at.index
    size = at.traced.shapes[at.name][0]
    values = at.traced.array(reader)[:, own::size].astype(np.float64)  # of every head, where it has heads
    position, head = np.unravel_index(strongest(values), values.shape)
    index = (int(position), int(head) * size + own)
    words = f"times {short(Place(at.traced, Element(reader, ()), at.most).inputs[0])} / rms"
    return use_of(at, reader, index, float(values[position, head]), values.size, words)
