"""What a command's page shows beside its sections, as data. Knows no markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...arrays.stats import Array


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


NOTHING = PageView()


def no_view(result: Any) -> PageView:
    """Return the view of a result whose page has its sections alone."""
    return NOTHING
