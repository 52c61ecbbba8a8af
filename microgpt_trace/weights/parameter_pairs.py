"""Walk over the parameters of two models, side by side, and find how each pair is related."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap
from typing import NamedTuple

import numpy as np

from ..architecture.edits import Report, unreported
from ..arrays.encodings import StoredTensor
from ..arrays.expert_tensor import in_pieces
from .relations import Cause, find_cause
from .stored_rounding import QuantisationDistance, Values, measure


class PairNames(NamedTuple):
    """The name of a parameter, and the names of the parameters that A and B use for it. They differ if one
    side uses "wte" for "lm_head"."""

    name: str
    a: str
    b: str


class ParameterPair(NamedTuple):
    """A parameter of model B, and the parameter of model A that should be equal. `distance` is None if the
    shapes differ, or if the parameter is a single number. `cause` is None if the distance is allowed, or if
    no relation explains the distance."""

    names: PairNames
    a: Values
    b: Values
    distance: QuantisationDistance | None = None
    allowed: bool = False
    cause: Cause | None = None


def parameter_pairs(
    a: Mapping[str, Values], b: Mapping[str, Values], pairs: Sequence[PairNames], head_dims: tuple[int, ...],
    limit: float, rtol: float | None = None, report: Report = unreported,
) -> Iterator[ParameterPair]:  # fmt: skip
    """Compare these parameters of two models.

    `limit` is the relative L2 distance that exact types may have. If `rtol` is set, it limits all types.
    `head_dims` lists the head widths of both models. `report(done, of)` is called with the number of compared
    pairs and of all pairs.
    """
    for done, names in enumerate(pairs):
        report(done, len(pairs))
        left, right = a[names.a], b[names.b]
        if left.shape != right.shape or not left.shape:
            yield ParameterPair(names, left, right)
            continue
        distance = distance_of(left, right)
        allowed = distance.holds(limit, rtol)
        cause = None if allowed else find_cause(names.a, a, right, distance, head_dims)
        yield ParameterPair(names, left, right, distance, allowed, cause)


def distance_of(left: Values, right: Values) -> QuantisationDistance:
    """Measure the distance of two parameters of equal shapes. Equal stored bytes are not decoded."""
    if left.tensor and right.tensor and all(starmap(_same_blocks, in_pieces(left.tensor, right.tensor))):
        return QuantisationDistance.none(left.shape)
    return measure(left, right)


def _same_blocks(left: StoredTensor, right: StoredTensor) -> bool:
    """Return True if two stored tensors have the same bytes and decode the bytes in the same way."""
    alike = (left.encoding, left.scale, left.stride) == (right.encoding, right.scale, right.stride)
    if not (alike and left.in_order_of(right)):
        return False
    return left.data is right.data or np.array_equal(left.data, right.data)
