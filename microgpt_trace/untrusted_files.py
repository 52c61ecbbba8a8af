"""Files that others wrote, opened and read within bounds. Knows nothing of what they mean.

A pipe or a device gives bytes without end, or never any: such a path is refused before it is opened.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import FileFormatError
from .text.brief import brief
from .text.json_reading import MAX_VALUES, from_json

MAX_BYTES = 1 << 28  # of what is read at once: 256 MB of text
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe (write it to a file first)", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What the system refuses, as a FileFormatError."""
    try:
        yield
    except OSError as error:
        raise FileFormatError(f"{path}: cannot read it ({error.strerror or error})") from error


def check_regular(path: Path, expected: str = "a regular file") -> int:
    """The size of a file. Raises FileFormatError where there is none, or something else than a file."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileFormatError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # a loop of links, a name too long; a NUL in it
        raise FileFormatError(f"{path}: cannot read it ({getattr(error, 'strerror', error)})") from error
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
    raise FileFormatError(f"{path}: expected {expected}, found {kind}")


def beginning(path: Path, size: int) -> bytes:
    """The first bytes of a file; none of what is no file or cannot be read. A pipe is not opened."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, ValueError):  # a NUL in the name
        return b""


def read_bytes(path: Path, expected: str = "a regular file", most: int = MAX_BYTES) -> bytes:
    """All bytes of a file of at most `most`. Raises FileFormatError naming file, size and limit."""
    size = check_regular(path, expected)
    if size <= most:
        with reading(path), path.open("rb") as file:
            return file.read(size)  # and no more, if it grew meanwhile
    raise FileFormatError(f"{path}: expected {expected} of at most {most:,} bytes, found {size:,}")


def read_text(path: Path, expected: str = "a text file", most: int = MAX_BYTES) -> str:
    """The text of a UTF-8 file, without a byte order mark. Raises FileFormatError as `read_bytes` does,
    and where a byte is no UTF-8."""
    content = read_bytes(path, expected, most)
    try:
        return str(content, "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path}: expected UTF-8 text, found byte {content[error.start]:#04x} at offset {error.start:,}"
        ) from error


def read_json(path: Path, most: int = MAX_VALUES) -> dict[str, Any]:
    """A JSON object of at most that many values. Raises FileFormatError."""
    return json_object(path, read_bytes(path), "a JSON object", most)


def json_object(path: Path, content: bytes, expected: str, most: int = MAX_VALUES) -> dict[str, Any]:
    """The JSON object that these bytes of the file are. Raises FileFormatError."""
    try:
        value = from_json(content, most=most, unique=True)
    except ValueError as error:
        raise FileFormatError(f"{path}: expected {expected} ({error})") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: expected {expected}, found {brief(value)}")
    return value


def folder_of(path: Path) -> Path:
    """The folder of a model that is named by itself or by one of its files."""
    return path if path.is_dir() else path.parent
