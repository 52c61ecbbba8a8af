"""Where the bytes of a corpus are: files of this machine and the standard input. Knows nothing of what they
mean."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import IO, Protocol

from ..errors import InputError
from ..untrusted_files import check_regular, reading
from .selection import STDIN

CHUNK = 1 << 20  # bytes that are read at once
_MAGIC = re.compile(r"[*?[]")


class CorpusFile(Protocol):
    """What documents are read from. Its errors name it; what its path ends in tells what is in it."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def chunks(self) -> Iterator[bytes]:
        """Its bytes in pieces of at most CHUNK."""

    def opened(self) -> AbstractContextManager[IO[bytes]]:
        """For those who read it here and there."""


@dataclass(frozen=True)
class LocalFile:
    path: str

    @property
    def name(self) -> str:
        return self.path

    def chunks(self) -> Iterator[bytes]:
        with self.opened() as file:
            yield from chunks_of(file)

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        path = Path(self.path)
        with reading(path), path.open("rb") as file:
            yield file


@dataclass
class StandardInput:
    name: str = STDIN
    path: str = STDIN
    taken: bool = False

    def chunks(self) -> Iterator[bytes]:
        if self.taken:
            raise InputError("-: the standard input can be read once")
        self.taken = True
        with self.opened() as file:
            while chunk := file.read1(CHUNK):  # type: ignore[attr-defined]  # what is there, without waiting
                yield chunk

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        if sys.stdin is None:  # as where the shell has closed it
            raise InputError("-: there is no standard input")
        with reading(Path(self.name)):
            yield sys.stdin.buffer


def chunks_of(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def local_files(source: str) -> list[LocalFile]:
    """The file of this path, or those that match a glob, sorted; folders among these are passed over.

    A path that is there beats a glob. Raises FileFormatError where it is no regular file, and InputError for
    a glob that nothing matches.
    """
    path, names = Path(source), [source]
    with reading(path):
        if _MAGIC.search(source) and not path.exists():
            names = sorted(name for name in glob(source, recursive=True) if not Path(name).is_dir())  # noqa: PTH207
    if not names:
        raise nothing_matches(source)
    for name in names:
        check_regular(Path(name), "a file of documents")
    return [LocalFile(name) for name in names]


def nothing_matches(source: str) -> InputError:
    return InputError(f"{source}: no file matches")
