"""Build the data of an attribution or of patching that a page contains besides its sections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from operator import attrgetter
from typing import Any

from ...arrays.stats import Array
from ...attribution.results import AttributionResult, HeadRole, PositionAttribution, PromptsAttribution
from ...measuring.definitions import ROLES
from ...patching.patch_results import PairsResult, PatchResult
from ...text.frozen import frozen
from ...text.printable import shown_token
from ..results.attribution_sections import ROLE_WORDS, SHARES


@frozen(slots=False, eq=False)
class PageView:
    """The contents of a page besides its sections. Sections are numbered from 1.

    - `facts`: pairs of a label and a number, by the name of an event, site or head.
    - `tabs`: the address and the label of a section's tab, by the number of the section.
    - `added`: maps at the beginning of a section, by the number of the section.
    - `names`: further names that lead to commands, besides the names in the sections.
    - `script`: the script module that shows `content` and `arrays` above section number `before`.
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
    """Return the view of a page that contains only sections."""
    return PageView()


def patch_view(result: PatchResult) -> PageView:
    """Return the view with the effect of each site, and the logit differences of the two runs."""
    runs = [("corrupted run", result.corrupt.difference), ("clean run", result.clean.difference)]
    labels = {"restored": "restored", "logit difference": "difference"}
    return PageView(facts={cell.about: [*_facts(cell, labels), *runs] for cell in result.cells})


def pairs_view(result: PairsResult | PromptsAttribution) -> PageView:
    """Return the view with the mean effect of each site over the pairs, or of each part over the prompts."""
    labels = {"mean": "mean", "std": "spread", "count": "count"}
    return PageView(facts={cell.site: _facts(cell, labels) for cell in result.cells})


def _facts(row: Any, labels: Mapping[str, str]) -> list[tuple[str, float | None]]:
    """Return pairs of a label and the value of an attribute of the row."""
    return [(label, attrgetter(path)(row)) for label, path in labels.items()]


FIRST = 2  # number of the section of the first position; the header is section 1


def attribution_view(result: AttributionResult) -> PageView:
    """Return the view of an attribution: a tab for each position, and maps of the heads' attention shares."""
    positions, roles = result.positions, result.roles
    several = len(positions) > 1
    tabs = {FIRST + n: (f"position-{p.contrast.position}", _label(p)) for n, p in enumerate(positions)}
    added = {FIRST + len(positions) + several: _maps(roles)} if roles else {}
    return PageView(
        facts={role.name: _facts(role, SHARES) for role in roles},
        tabs=tabs if several else {}, added=added, names=[role.name for role in roles],
    )  # fmt: skip


def _label(position: PositionAttribution) -> str:
    contrast = position.contrast
    target, against = map(shown_token, (contrast.target_label, contrast.against_label))
    return f"{contrast.position} {target} against {against}"


def _maps(roles: Sequence[HeadRole]) -> list[dict[str, Any]]:
    """Return a map of attention shares for each measured role. Rows are layers and columns are heads."""
    heads, layers = (sorted({getattr(role, axis) for role in roles}) for axis in ("head", "layer"))
    by_place = {(role.layer, role.head): role for role in roles}
    grid = [[by_place[layer, head] for head in heads] for layer in layers]
    return [
        {
            "title": f"attention shares, {ROLE_WORDS[share]}",
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


def whole_model(attribution: AttributionResult, here: Mapping[str, float]) -> dict[str, Any]:
    """Return the prediction that `attribution` describes, and the parts of the model by event.

    A part has the probability of the target without it (None if no part was removed), and its addition to the
    logit of the target over that of the other token. A head also has the key that it looks at most, and the
    share of this key. `here` is the probability of the target if a head is removed at this position only.
    `atFirst` counts the heads that give position 0 more than half of their attention on average, over the
    queries from position 1 on. It is None for one token.
    """
    (explained,) = attribution.positions
    looks = {role.name: role.looks[0] for role in attribution.roles}
    parts: dict[str, list[float | None]] = {}
    for part in explained.parts:
        if part.kind in ("head", "mlp"):
            change = part.loss_change
            without = None if change is None else math.exp(-(explained.loss + change))
            parts[part.name] = [without, part.difference]
            if look := looks.get(part.name):
                parts[part.name] += [look.most_at, look.share]
    contrast = explained.contrast
    return {
        "position": contrast.position, "token": contrast.target, "p": explained.target.p,
        "label": shown_token(contrast.target_label), "other": shown_token(contrast.against_label),
        "isMeasured": attribution.ablation, "parts": parts, "here": here,
        "atFirst": sum(role.attention.first > 0.5 for role in attribution.roles) if looks else None,
    }  # fmt: skip
