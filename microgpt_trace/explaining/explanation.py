"""Explanation: the arithmetic of one element, and what a run had there, as plain data. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..architecture.formulas.steps import Factor, Pass, Step, Use, element_name
from ..notebook import in_notebook
from ..text.brief import one_line
from ..text.json_writing import in_document


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """Where one number comes from and where it goes.

    `value` is the result of the last step, in float64 from the numbers that the operation had read;
    `traced` is what the run had. They agree if `deviation` is at most `tolerance`, which is what
    rounding explains.
    """

    SCHEMA = "microgpt.explanation/1"

    name: str
    index: tuple[int, ...]
    phase: Pass
    model: str
    text: str
    tokens: tuple[int, ...]
    place: str
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
    @in_document
    def element(self) -> str:
        """As one asks for it: "layer0.attn.q[3,4]" """
        return element_name(self.name, self.index)

    def factors(self) -> Iterator[Factor]:
        """The factors of all the steps that can be explained in turn, each once, step by step."""
        seen = set()
        for factor in (f for step in self.steps for term in step.terms for f in term.factors):
            if factor.kind != "constant" and (factor.name, factor.kind) not in seen:
                seen.add((factor.name, factor.kind))
                yield factor
