"""A dump beside its model: every operation judged by what follows from the dump's own inputs of it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from ..architecture.kinds import Linear
from ..architecture.model import LanguageModel
from ..architecture.operations.reference_inputs import ReferenceInputs
from ..architecture.plan import Operation, layer_of
from ..arrays.stats import Array
from .evaluation import Evaluation
from .judging import Judge, OperationResult
from .precision import PRECISIONS, Precision, ProductInputs

DRAWS = 24  # of roundings at random, to see how far they carry

Partial = Mapping[str, tuple[Array, tuple[int, ...] | None]]  # the rows of an event at some positions


class JudgedRun:
    """The values of a dump, all positions of an event or, in `partial`, the rows of some: these can be judged
    but not built upon."""

    def __init__(
        self, model: LanguageModel, tokens: Sequence[int], values: Mapping[str, Array], partial: Partial
    ) -> None:
        self.plan, self.given = model.plan, ReferenceInputs(model, np.array(tokens))
        known_next = len(self.given.targets) > 0
        self.known = [name for name in self.plan if name != "loss" or known_next]
        self.values, self.partial = values, partial

    def judge(self, precision: Precision) -> Judge:
        """A judge that knows the model's own plan."""
        rounding = self.rounding if precision.into_products else None

        def evaluation(noise: int | None) -> Evaluation:
            return Evaluation(self.given, self.plan, self.values, precision, noise, rounding)

        return Judge(evaluation(None), [evaluation(seed) for seed in range(DRAWS)])

    def operations(
        self, precision: Precision, names: Container[str] | None = None
    ) -> Iterator[OperationResult]:
        """Every event that the dump has, or those of these names, in order of computation."""
        judge = self.judge(precision)
        for name in self.known:
            own = self.own(name) if names is None or name in names else None
            if own is not None:
                yield judge.judge(name, *own)
            layer = layer_of(name)
            for evaluation in (judge.plain, *judge.noisy) if layer is not None else ():
                evaluation.forget_before(layer or 0)

    def own(self, name: str) -> tuple[Array, tuple[int, ...] | None] | None:
        """What the dump has of an event, and the positions of its rows; None where it has nothing."""
        return (self.values[name], None) if name in self.values else self.partial.get(name)

    @cached_property
    def plain(self) -> Evaluation:
        """What follows in float32, without noise."""
        return self.judge(PRECISIONS["f32"]).plain

    @cached_property
    def rounding(self) -> ProductInputs:
        """What the dump shows of how the inputs of products are rounded."""
        rounding, plain = ProductInputs(self.given), self.plain

        def read(name: str) -> tuple[Array, Array]:
            x = plain.value(plain.plan[name].inputs[0])
            return np.asarray(x, np.float32), np.asarray(self.values[name], np.float64)

        known = [name for name in self.known if name in self.values]
        alone = [name for name in known if self.products(name) == [self.plan[name]]]
        rounding.learn([self.plan[name] for name in alone], read)
        return rounding

    def products(self, name: str) -> list[Operation]:
        """The products since the dump's own inputs of an event, itself included."""
        rows = [self.plan[own] for own in (*self.plain.between(name), name)]
        return [row for row in rows if isinstance(row.kind, Linear)]
