"""What a page shows beside its sections, as data: of an attribution and of a patching. Knows no markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from ...arrays.stats import Array
from ...attribution.results import AttributionResult, HeadRole, PositionAttribution
from ...measuring.definitions import ROLES
from ...patching.results import PairsResult, PatchResult
from ...text.printable import shown_token
from ..results.attribution import ROLE_WORDS, SHARES


@dataclass(frozen=True, eq=False, repr=False)
class PageView:
    """`facts` are numbers of names in full, each with what it is; `tabs` are sections of which one is shown
    at a time, by their numbers, with an address and a label; `added` are maps by the number of the section
    that they begin; `names` lead to commands though no section has them. `script` is the module that shows
    `content` and `arrays`, before section number `before`.
    """

    facts: Mapping[str, Sequence[tuple[str, float | None]]] = field(default_factory=dict)
    tabs: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    added: Mapping[int, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    names: Sequence[str] = ()
    script: str = "sections"
    content: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    before: int = 1


def no_view(result: Any) -> PageView:
    """Return the view of a result whose page has its sections alone."""
    return PageView()


def patch_view(result: PatchResult) -> PageView:
    """Of each site how much it restores, and from which logit difference that comes."""
    ends = [("corrupted", result.corrupt.difference), ("clean", result.clean.difference)]
    told = {"restored": "restored", "logit difference": "difference"}
    return PageView(facts={cell.site: [*_facts(cell, told), *ends] for cell in result.cells})


def pairs_view(result: PairsResult) -> PageView:
    """Of each site how much it restores on average."""
    told = {"mean": "mean", "std": "spread", "pairs": "count"}
    return PageView(facts={cell.site: _facts(cell, told) for cell in result.cells})


def _facts(row: Any, told: Mapping[str, str]) -> list[tuple[str, float | None]]:
    """Attributes of a row, or of what it holds, by what they are called."""
    return [(words, attrgetter(path)(row)) for words, path in told.items()]


FIRST = 2  # the number of the first position's section, behind the header's


def attribution_view(result: AttributionResult) -> PageView:
    """The sections of positions as tabs, and the shares of attention of all heads."""
    positions = result.positions
    several = len(positions) > 1
    tabs = {FIRST + n: (f"position-{p.contrast.position}", _label(p)) for n, p in enumerate(positions)}
    roles = FIRST + len(positions) + several
    facts = {role.name: _facts(role, SHARES) for role in result.roles}
    added = {roles: _maps(result.roles)} if result.roles else {}
    names = [role.name for role in result.roles]
    return PageView(facts=facts, tabs=tabs if several else {}, added=added, names=names)


def _label(found: PositionAttribution) -> str:
    contrast = found.contrast
    ours, theirs = (shown_token(label) for label in (contrast.target_label, contrast.against_label))
    return f"{contrast.position} {ours} against {theirs}"


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
        for share in ROLES
        if any(getattr(role.attention, share) is not None for role in roles)
    ]
