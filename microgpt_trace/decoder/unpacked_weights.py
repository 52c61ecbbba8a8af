"""Weights that are unpacked once and kept, for a model that is run over and over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..arrays.encodings import StoredTensor
from ..text.brief import one_line

MOST = 1 << 28  # weights that are kept, of 4 bytes each: 1 GB


class UnpackedWeights(Mapping[str, StoredTensor]):
    """The tensors of a model as float32 in memory, each from when it is first asked for."""

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self._stored = stored
        self._unpacked: dict[str, StoredTensor] = {}

    def __repr__(self) -> str:
        return one_line(self, tensors=len(self), unpacked=len(self._unpacked))

    def __getitem__(self, name: str) -> StoredTensor:
        if name not in self._unpacked:
            self._unpacked[name] = self._stored[name].unpacked()
        return self._unpacked[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)
