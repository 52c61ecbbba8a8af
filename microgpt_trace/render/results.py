"""Comparisons as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..comparison.differences import DIFF_SCHEMA, Comparison
from ..comparison.prompts import PROMPTS_SCHEMA, PromptComparison
from ..comparison.weights import WeightsComparison
from .document import plain
from .document import to_text as to_json

WEIGHTS_SCHEMA = "microgpt.weights/1"
__all__ = ["comparison_document", "prompts_document", "to_json", "weights_document"]


def comparison_document(result: Comparison) -> dict[str, Any]:
    """A comparison as plain data."""
    return {"schema": DIFF_SCHEMA, "agree": result.agree, "same": result.same, **plain(result)}


def weights_document(result: WeightsComparison) -> dict[str, Any]:
    """A comparison of parameters as plain data."""
    return {"schema": WEIGHTS_SCHEMA, **plain(result)}


def prompts_document(a: str, b: str, results: Sequence[PromptComparison]) -> dict[str, Any]:
    """The comparisons of many prompts as plain data."""
    verdicts = {"agree": all(result.agree for result in results), "same": all(r.same for r in results)}
    return {"schema": PROMPTS_SCHEMA, "a": a, "b": b, **verdicts, "prompts": plain(list(results))}
