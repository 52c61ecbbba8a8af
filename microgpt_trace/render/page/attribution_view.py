"""What the page of an attribution shows beside its sections: its positions one at a time, and what heads look
at as a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...attribution.results import AttributionResult, HeadRole, PositionAttribution
from ...text.printable import shown_token
from ..attribution import ROLE_WORDS
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
    """A row for each head and a column for each place that it may look at; or of several layers a map for
    each place, with a row for each layer and a column for each head."""
    places = [ROLE_WORDS[share] for share in SHARES]
    if roles[-1].layer == 0:
        rows = {role.name: [(role, share) for share in SHARES] for role in roles}
        return [_map("", rows, places, places)]
    known = [share for share in SHARES if any(getattr(role.attention, share) is not None for role in roles)]
    heads = sorted({role.head for role in roles})
    by_place = {(role.layer, role.head): role for role in roles}
    layers = sorted({role.layer for role in roles})
    across = [f"head {head}" for head in heads]
    return [
        _map(
            ROLE_WORDS[share],
            {f"layer {i}": [(by_place[i, head], share) for head in heads] for i in layers},
            list(map(str, heads)),
            across,
        )
        for share in known
    ]


def _map(
    heading: str, rows: Mapping[str, Sequence[tuple[HeadRole, str]]], columns: Sequence[str],
    across: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    return {
        "title": f"shares of attention, {heading or 'every head'}",
        "heading": heading,
        "kind": "share",
        "rows": list(rows),
        "columns": columns,
        "across": across,
        "values": [[getattr(role.attention, share) for role, share in row] for row in rows.values()],
        "names": [[role.name for role, _ in row] for row in rows.values()],
    }
