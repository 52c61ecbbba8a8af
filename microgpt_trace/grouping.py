"""Groups rows by a key, and sorts names by their numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

Row = TypeVar("Row")
Key = TypeVar("Key")


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Group rows by their keys. The keys are sorted by their first occurrence.

    >>> grouped(["wte", "wpe", "lm_head"], len)
    {3: ['wte', 'wpe'], 7: ['lm_head']}
    """
    groups = dict[Key, list[Row]]()
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def natural_order(name: str) -> list[str]:
    """Return a sort key for names, so that t2 is before t10."""
    return [part.zfill(12) if part.isdecimal() else part for part in re.split("([0-9]+)", name)]
