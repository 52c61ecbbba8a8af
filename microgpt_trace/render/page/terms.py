"""The largest terms of products whose matrix a page does not hold: of the logits predicted last."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ...architecture.arithmetic import elements, total
from ...architecture.kinds import Linear
from ...architecture.model import LanguageModel
from ...architecture.steps import Factor, Step, Term, element_name
from ...tracing.result import Trace
from .encodings import Held

TERMS = 16  # that are written out of a sum


def logit_terms(
    trace: Trace, model: LanguageModel, recorded: Mapping[str, Held], most: int = TERMS
) -> dict[str, Any]:
    """By the names of the elements: the candidates and the target of the last position, as sums of products
    of what the head read and a row of its matrix. Nothing where the head's input was not recorded."""
    *_, row = model.plan.head
    kind, (source,) = row.kind, row.inputs
    if not isinstance(kind, Linear) or source not in recorded or not trace.predictions:
        return {}
    last, own = trace.predictions[-1], recorded[source]
    x = own.numbers[last.position] if own.picture is None else own.last
    if x is None or (own.picture is not None and last.position != len(trace.input.tokens) - 1):
        return {}
    known = [c for c in (*last.top, last.target) if c is not None]
    found: dict[str, Any] = {}
    for token in dict.fromkeys(candidate.token for candidate in known):
        weights = model.parameter(kind.weight, slice(token, token + 1))[0].astype(np.float64)
        operands = [
            elements(x.astype(np.float64), source, partial(_place, last.position)),
            elements(weights, kind.weight, partial(_place, token)),
        ]
        extra = [] if kind.bias is None else _bias(model, kind.bias, token)
        name = element_name(row.name, (last.position, token))
        found[name] = [_step(total(name, operands, most, extra=extra))]
    return found


def _place(row: int, column: int) -> tuple[int, int]:
    return row, column


def _bias(model: LanguageModel, name: str, token: int) -> list[Factor]:
    return [Factor(element_name(name, (token,)), float(model.parameter(name)[token]), "forward")]


def _step(step: Step) -> dict[str, Any]:
    terms = list(map(_term, step.terms))
    return {"label": step.label, "count": step.count, "rest": step.rest, "value": step.value, "terms": terms}


def _term(term: Term) -> dict[str, Any]:
    factors = [{"words": factor.name, "value": factor.value} for factor in term.factors]
    return {"factors": factors, "value": term.value, "text": term.function}
