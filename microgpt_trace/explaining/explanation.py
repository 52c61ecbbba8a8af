"""Explanation: the arithmetic of one element and its value in a run, as plain data. Needs no model."""

from __future__ import annotations

from collections.abc import Iterator

from ..formulas.steps import Factor, Pass, Step, Use, element_name
from ..models.language_model import Scalar
from ..notebook import in_notebook
from ..text.brief import one_line
from ..text.frozen import frozen
from ..text.json_writing import in_document


@frozen
class Explanation:
    """The computation of one number, and the elements that read it.

    `value` is the result of the last step, computed in float64 from the inputs that the operation read.
    `traced` is the value in the run. `deviation` is the distance of `value` from `traced`. Rounding can
    explain a distance of up to `tolerance`. `holds` is True if `deviation` is at most `tolerance`.
    """

    SCHEMA = "microgpt.explanation/1"

    name: str
    index: tuple[int, ...]
    phase: Pass
    model: str
    text: str
    tokens: tuple[int, ...]
    place: str
    scalar: Scalar | None  # the number whose gradient is explained, or None for a value
    expr: str
    formula: str
    steps: tuple[Step, ...]
    value: float
    traced: float
    deviation: float
    tolerance: float
    holds: bool
    uses: tuple[Use, ...]
    notes: tuple[str, ...]

    _repr_html_ = in_notebook

    def __repr__(self) -> str:
        about = {"element": self.element, "phase": self.phase, "model": self.model, "text": self.text}
        return one_line(self, **about, traced=self.traced, holds=self.holds)

    @property
    def prefix(self) -> str:
        """What precedes the name of the element: "d loss / d " for a gradient, "" for a value."""
        return f"d {self.scalar.name} / d " if self.scalar else ""

    @property
    @in_document
    def element(self) -> str:
        """The element's name with its index, such as "layer0.attn.q[3,4]"."""
        return element_name(self.name, self.index)

    def factors(self) -> Iterator[Factor]:
        """Yield the factors that can be explained in turn, in the order of the steps, each factor only
        once."""
        seen = set()
        for factor in (f for step in self.steps for term in step.terms for f in term.factors):
            if factor.kind != "constant" and (factor.name, factor.kind) not in seen:
                seen.add((factor.name, factor.kind))
                yield factor
