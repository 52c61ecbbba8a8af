"""Groups rows by a key."""

from __future__ import annotations

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
