"""A list of strings as GGUF has it, u64 length and bytes each, which is decoded when it is looked at.

As Python's strings a vocabulary takes six times its bytes, and of a foreign file there may be any number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, overload

import numpy as np

from ..arrays.stats import Array
from ..vocabulary.metadata import Texts
from .mapped_file import MappedFile

_RUN = 1 << 20  # bytes of strings decoded together


class Strings(Texts):
    """The strings whose lengths lie at `starts` in a file, the last of which ends at `stop`. Bytes that are
    no UTF-8 come as lone surrogates."""

    def __init__(self, file: MappedFile, starts: Array, stop: int) -> None:
        self._file, self._starts, self._stop = file, starts, stop

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if "_all" in self.__dict__:
            return self._all[index]
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._one(range(len(self))[index])

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all == list(other)

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self[:6]))}{', ...' * (len(self) > 6)}]"

    def _one(self, i: int) -> str:
        self._file.check()
        text = self._file.bytes[int(self._starts[i]) + 8 : self._end(i)]
        return text.tobytes().decode("utf-8", "surrogateescape")

    def _end(self, i: int) -> int:
        return int(self._starts[i + 1]) if i + 1 < len(self) else self._stop

    @cached_property
    def _all(self) -> list[str]:
        strings: list[str] = []
        while len(strings) < len(self):
            first = len(strings)
            last = int(np.searchsorted(self._starts, self._starts[first] + _RUN, side="right")) - 1
            strings += self._run(first, max(first, last) + 1)
        return strings

    def _run(self, first: int, stop: int) -> list[str]:
        """Some strings, decoded together: a vocabulary has 150,000 of them (10 ms, not 40).

        Each length makes way for one byte 0xFF, which stands nowhere in UTF-8, and parts the text.
        """
        self._file.check()
        begin, end = int(self._starts[first]), self._end(stop - 1)
        region, places = self._file.bytes[begin:end].copy(), self._starts[first:stop] - begin
        kept = np.ones(len(region), dtype=bool)
        kept[(places[:, None] + np.arange(1, 8)).ravel()] = False
        region[places] = 0xFF
        strings = region[kept].tobytes().decode("utf-8", "surrogateescape").split("\udcff")[1:]
        return strings if len(strings) == stop - first else [self._one(i) for i in range(first, stop)]

    __hash__: Any = None  # as a list's
