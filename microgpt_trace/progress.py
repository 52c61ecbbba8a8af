"""The functions that long computations call to report their progress."""

from __future__ import annotations

from collections.abc import Callable

Report = Callable[[int, int], None]  # arguments: the number of finished items, the number of all items


def unreported(done: int, total: int) -> None:
    """Report no progress."""
