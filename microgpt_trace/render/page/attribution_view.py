"""What the page of an attribution shows beside its sections: its positions one at a time, and what heads look
at as a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...attribution.results import AttributionResult, HeadRole, PositionAttribution
from ...text.printable import shown_token
from ..results.attribution import ROLE_WORDS
from .page_view import PageView

SHARES = ("itself", "previous", "first", "repeat")
FIRST = 2  # the number of the first position's section, behind the header's


def attribution_view(result: AttributionResult) -> PageView:
    """The sections of positions as tabs, and the shares of attention of all heads."""
    positions = result.positions
    several = len(positions) > 1
    tabs = {FIRST + n: (f"position-{p.contrast.position}", _label(p)) for n, p in enumerate(positions)}
    roles = FIRST + len(positions) + several
    facts = {role.name: _facts(role) for role in result.roles}
    added = {roles: _maps(result.roles)} if result.roles else {}
    names = [role.name for role in result.roles]
    return PageView(facts=facts, tabs=tabs if several else {}, added=added, names=names)


def _label(found: PositionAttribution) -> str:
    contrast = found.contrast
    ours, theirs = (shown_token(label) for label in (contrast.target_label, contrast.against_label))
    return f"{contrast.position} {ours} against {theirs}"


def _facts(role: HeadRole) -> list[tuple[str, float | None]]:
    return [(ROLE_WORDS[share], getattr(role.attention, share)) for share in SHARES]


def _maps(roles: Sequence[HeadRole]) -> list[dict[str, Any]]:
    """For each place that heads may look at a map, with a row for each layer and a column for each head."""
    heads, layers = (sorted({getattr(role, of) for role in roles}) for of in ("head", "layer"))
    by_place = {(role.layer, role.head): role for role in roles}
    grid = [[by_place[layer, head] for head in heads] for layer in layers]
    return [
        {
            "title": f"shares of attention, {ROLE_WORDS[share]}",
            "heading": ROLE_WORDS[share],
            "kind": "share",
            "rows": [f"layer {layer}" for layer in layers],
            "columns": list(map(str, heads)),
            "across": [f"head {head}" for head in heads],
            "values": [[getattr(role.attention, share) for role in row] for row in grid],
            "names": [[role.name for role in row] for row in grid],
        }
        for share in SHARES
        if any(getattr(role.attention, share) is not None for role in roles)
    ]
