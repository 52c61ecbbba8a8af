"""A file whose bytes are read when they are looked at, and which may become shorter meanwhile.

The system ends a process that looks at a page which its file no longer has (SIGBUS), and no program can make
a line of that. So before each use the file's size is asked for (0.6 us).
"""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from ..arrays.encodings import Encoding, StoredTensor
from ..arrays.stats import Array
from ..errors import FileFormatError
from ..text.brief import frozen
from ..untrusted_files import check_regular, reading


@frozen(eq=False)
class MappedFile:
    """The bytes of a file, mapped read-only."""

    path: Path
    bytes: Array
    mapping: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> MappedFile:
        """Raises FileFormatError where there is no such file, or nothing in it."""
        if not check_regular(path):
            raise FileFormatError(f"{path}: the file is empty")
        with reading(path), path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return cls(path, np.frombuffer(mapping, np.uint8), mapping)

    def check(self) -> None:
        """Raises FileFormatError where the file has become shorter."""
        if self.mapping.size() < len(self.bytes):
            raise FileFormatError(f"{self.path}: the file became shorter while it was read")

    def __deepcopy__(self, memo: object) -> MappedFile:
        """Return itself: copies of what is read from a file share the file."""
        return self

    def part(self, start: int, stop: int) -> Array:
        """A view of these bytes, which cannot be written to."""
        self.check()
        return self.bytes[start:stop]

    def tensor(
        self,
        name: str,
        encoding: Encoding,
        shape: tuple[int, ...],
        start: int,
        stop: int,
        row_size: int | None = None,
        scale: float = 1.0,
    ) -> StoredTensor:
        """The tensor that these bytes are."""
        return StoredTensor(name, encoding, shape, self.part(start, stop), row_size, scale, self.check)
