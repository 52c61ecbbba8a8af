"""Offers: precisions that were not requested, but that may explain the errors of a dump."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..decoder.catalogue import kind_named
from ..plans.kinds import Context, Scores
from ..text.frozen import frozen
from .judging import JudgedRun, OperationResult
from .precision import PRECISIONS

MOST_PRODUCTS = 0.8  # an engine may round the inputs of products if this share of the products is wrong
EXPLAINED = 0.5  # an offered precision must reduce an error to at most this share


@frozen(slots=False)
class Offer:
    """A precision `compute` that was not requested but may explain the errors. `looks_like` describes this
    precision. `wrong` is the number of wrong operations that involve a product. `explains` is the number of
    these operations that are right under the precision. `shown` is True if the precision at least halves the
    error of at least one operation."""

    compute: str
    looks_like: str
    explains: int
    wrong: int
    shown: bool = True

    def __str__(self) -> str:
        count = f"{self.explains:,} of the {self.wrong:,} errors of operations with a product"
        unsure = ", but this is uncertain: no product of the dump shows how its inputs were rounded"
        right = f"with `--compute {self.compute}`, rounding explains {count}"
        return right + unsure * (not self.shown)

    @property
    def look(self) -> str:
        """What the errors look like, in words."""
        return f"the errors {'look like' if self.shown else 'may be'} {self.looks_like}"


def offered(run: JudgedRun, operations: Sequence[OperationResult]) -> Offer | None:
    """Return a precision that explains most errors of products, or None. q8 rounds inputs as the engine does.
    f16 and bf16 only allow for errors as large as those of TF32 and autocast, which round the products of
    attention too. If a product of attention is right, only q8 is tried, because the weights may be wrong.
    `operations` are all operations of the run, judged in float32."""
    products = {o.name: run.products(o.name) for o in operations if o.error is not None}
    errors = {o.name: o.error or 0 for o in operations if not o.holds and products.get(o.name)}
    judged = sum(bool(own) for own in products.values())
    if not errors or len(errors) < MOST_PRODUCTS * judged:
        return None
    attention = [
        o.holds for o in operations
        if o.error is not None and isinstance(kind_named(o.name), Scores | Context)
    ]  # fmt: skip
    for compute in ("q8", "f16", "bf16") if attention and not any(attention) else ("q8",):
        rounds, narrow = "rounding of products, as by TF32 or autocast", PRECISIONS[compute].narrow
        right = {o.name: o.error or 0 for o in run.operations(PRECISIONS[compute]) if o.holds}
        shown = [n for n in errors if n in right and right[n] <= EXPLAINED * errors[n] and not narrow]
        explained = [n for n in errors if n in shown or (n in right and (narrow or len(products[n]) > 1))]
        if len(explained) < MOST_PRODUCTS * len(errors):
            continue
        if not narrow:
            ways = Counter(run.rounding.way(own) for name in explained for own in products[name][-1:])
            way = ways.most_common(1)[0][0]
            compute, words = way.compute, "8-bit" if way.compute == "q8" else way.words
            rounds = f"rounding of {words} inputs"
        return Offer(compute, rounds, len(explained), len(errors), bool(shown))
    return None
