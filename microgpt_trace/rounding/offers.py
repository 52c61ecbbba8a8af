"""Offers: precisions that were not requested, but that may explain the errors of a dump."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

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
        unsure = ", but this is uncertain: several products lie between dumped events, so dump more events"
        right = f"with `--compute {self.compute}`, rounding explains {count}"
        return right + unsure * (not self.shown)

    @property
    def look(self) -> str:
        """What the errors look like, in words."""
        return f"the errors {'look like' if self.shown else 'may be'} {self.looks_like}"


def offered(run: JudgedRun, operations: Sequence[OperationResult]) -> Offer | None:
    """Return a precision that rounds the inputs of products and explains most errors, or None. `operations`
    are all operations of the run, judged in float32."""
    products = {o.name: run.products(o.name) for o in operations if o.error is not None}
    errors = {o.name: o.error or 0 for o in operations if not o.holds and products.get(o.name)}
    judged = sum(bool(own) for own in products.values())
    if not errors or len(errors) < MOST_PRODUCTS * judged:
        return None
    right = {o.name: o.error or 0 for o in run.operations(PRECISIONS["q8"]) if o.holds}
    shown = [n for n in errors if n in right and right[n] <= EXPLAINED * errors[n]]
    explained = [n for n in errors if n in shown or (n in right and len(products[n]) > 1)]
    if len(explained) < MOST_PRODUCTS * len(errors):
        return None
    ways = Counter(run.rounding.way(own) for name in explained for own in products[name][-1:])
    way = ways.most_common(1)[0][0]
    looks_like = f"rounding of {'8-bit' if way.compute == 'q8' else way.words} inputs"
    return Offer(way.compute, looks_like, len(explained), len(errors), bool(shown))
