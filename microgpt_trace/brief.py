"""Of whatever a file holds, as much as one line of an error message has room for."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import Any


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, 80, 80, 40

    def repr_ndarray(self, value: Any, level: int) -> str:
        return self.repr_list(value[: self.maxlist + 1].tolist(), level)


brief: Callable[[Any], str] = _Brief().repr
