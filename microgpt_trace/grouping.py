"""Rows by what they have in common. Knows no row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

Row = TypeVar("Row")
Key = TypeVar("Key")


def grouped(rows: Iterable[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """Rows by what they have in common, in the order of the first ones.

    >>> grouped(["wte", "wpe", "lm_head"], len)
    {3: ['wte', 'wpe'], 7: ['lm_head']}
    """
    found = dict[Key, list[Row]]()
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found
