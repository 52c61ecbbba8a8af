"""Many prompts through two models as sections: the gate of a CI job."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...comparison.prompts import PromptComparison, PromptsComparison
from ...text.wording import counted
from ..numbers import distance, exponent
from ..sections import Column, Section, Table, Words, fields, words
from .comparison import WIDE


def prompts_sections(found: PromptsComparison) -> list[Section]:
    """A row per prompt, then the verdict over all."""
    results = found.prompts
    columns = [
        Column("", lambda r: "" if r.agree else "✗", style="red", whole=True),
        Column("prompt", lambda r: r.text, wrap=True),
        Column("same token", lambda r: f"{r.same_argmax}/{r.positions}", right=True),
        *fields(exponent, {"KL": "mean_kl", "max KL": "max_kl"}),
        Column("worst event", lambda r: r.worst, whole=True),
        *fields(distance, {"error": "relative", "band": "tolerance"}, from_width=WIDE),
        Column("of band", _of_band, right=True),
    ]
    agreed, positions = sum(r.same_argmax for r in results), sum(r.positions for r in results)
    same = words(f"the same token at {agreed:,} of {counted(positions, 'position')}")
    return [Section([Table(columns, results)]), Section([same, _verdict(results)])]


def _verdict(results: Sequence[PromptComparison]) -> Words:
    failed = [r for r in results if not r.agree]
    if failed:
        part = f"{len(failed)} of {len(results)} prompts part"
        return Words(((part, "bold red"), (f", the first at {failed[0].first}", "")))
    least = min(results, key=lambda r: r.events)
    which = f" in the {counted(least.events, 'event')} named (of {least.of:,})"
    named = "" if least.events == least.of else which
    lie = f"All {len(results)} prompts lie" if len(results) > 1 else "The one prompt lies"
    return words(f"{lie} within their bands{named}", "bold green")


def _of_band(result: PromptComparison) -> str:
    """The error as a share of its band."""
    share = result.relative / result.tolerance if result.tolerance else math.inf * result.relative
    return f"{share:.2g}" if math.isfinite(share) else "–"
