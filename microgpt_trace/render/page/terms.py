"""The largest terms of products whose matrix a page does not hold: logits of targets and candidates."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ...architecture.arithmetic import elements, one_term, total
from ...architecture.kinds import Linear
from ...architecture.model import LanguageModel
from ...architecture.steps import Factor, Step, Term, element_name
from ...arrays.stats import Array
from ...tracing.result import Candidate, Prediction, Trace
from .encodings import Held

TERMS = 16  # that are written out of a sum
MOST = 64  # elements of which they are


def logit_terms(trace: Trace, model: LanguageModel, recorded: Mapping[str, Held]) -> dict[str, Any]:
    """By the names of the elements, as sums of products of what the head read and a row of its matrix: all
    candidates and the target of the last position, and of others as far as there is room the target and the
    two likeliest. Nothing of a position of which the head's input was not recorded."""
    *_, row = model.plan.head
    kind, (source,) = row.kind, row.inputs
    if not isinstance(kind, Linear) or source not in recorded:
        return {}
    found: dict[str, Any] = {}
    for prediction in reversed(trace.predictions):
        x = _row_of(recorded[source], prediction.position, len(trace.input.tokens))
        for candidate in _telling(prediction, len(prediction.top) if not found else 2):
            if x is not None and len(found) < MOST:
                name = element_name(row.name, (prediction.position, candidate.token))
                found[name] = [_product(name, x, source, prediction.position, model, kind, candidate.token)]
    return found


def _row_of(held: Held, position: int, length: int) -> Array | None:
    """What is there in full of a position."""
    if held.picture is None:
        return held.numbers[position]
    return held.last if position == length - 1 else None


def _telling(prediction: Prediction, count: int) -> list[Candidate]:
    """The first candidates and the target, each once."""
    known = [c for c in (*prediction.top[:count], prediction.target) if c is not None]
    return list({candidate.token: candidate for candidate in known}.values())


def _product(
    name: str, x: Array, source: str, position: int, model: LanguageModel, kind: Linear, token: int
) -> dict[str, Any]:
    weights = model.parameter(kind.weight, slice(token, token + 1))[0].astype(np.float64)
    operands = [
        elements(x.astype(np.float64), source, partial(_place, position)),
        elements(weights, kind.weight, partial(_place, token)),
    ]
    extra = [] if kind.bias is None else _bias(model, kind.bias, token)
    return _step(total(name, operands, TERMS, extra=extra))


def _place(row: int, column: int) -> tuple[int, int]:
    return row, column


def _bias(model: LanguageModel, name: str, token: int) -> list[Term]:
    return [one_term([Factor(element_name(name, (token,)), float(model.parameter(name)[token]), "forward")])]


def _step(step: Step) -> dict[str, Any]:
    terms = list(map(_term, step.terms))
    return {"label": step.label, "count": step.count, "rest": step.rest, "value": step.value, "terms": terms}


def _term(term: Term) -> dict[str, Any]:
    factors = [{"words": factor.name, "value": factor.value} for factor in term.factors]
    return {"factors": factors, "value": term.value, "text": term.function}
