"""Reads untrusted files of any format, up to a size limit, and checks lists and names in files.

Pipes and devices are refused before they are opened, because reading a pipe or a device might never end.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import FileFormatError
from .text.brief import brief
from .text.json_reading import MAX_VALUES, from_json

MAX_BYTES = 1 << 28  # bytes of the largest file that is read as a whole
MAX_NAME = 512  # characters
_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe (write it to a file first)", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into a FileFormatError."""
    try:
        yield
    except OSError as error:
        raise FileFormatError(f"{path}: cannot read it ({error.strerror or error})") from error


def check_regular(path: Path, expected: str = "a regular file") -> int:
    """Return the size of a regular file in bytes. Raises FileFormatError for any other path."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileFormatError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # a loop of links, a long name, or a name with a null byte
        raise FileFormatError(f"{path}: cannot read it ({getattr(error, 'strerror', error)})") from error
    if stat.S_ISREG(status.st_mode):
        return status.st_size
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
    raise FileFormatError(f"{path}: expected {expected}, found {kind}")


def beginning(path: Path, size: int) -> bytes:
    """Return the first bytes of a file, or b"" if it is not a regular file or cannot be read."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(size)
    except (OSError, ValueError):  # ValueError: the name has a null byte
        return b""


def read_bytes(path: Path, expected: str = "a regular file", most: int = MAX_BYTES) -> bytes:
    """Return the content of a file. Raises FileFormatError if the file has more than `most` bytes."""
    size = check_regular(path, expected)
    if size <= most:
        with reading(path), path.open("rb") as file:
            return file.read(size)  # at most `size` bytes, even if the file has grown
    raise FileFormatError(f"{path}: expected {expected} of at most {most:,} bytes, found {size:,}")


def read_text(path: Path, expected: str = "a text file", most: int = MAX_BYTES) -> str:
    """Return the text of a UTF-8 file without its byte order mark. Raises FileFormatError if the file cannot
    be read, is too large, or is not UTF-8."""
    content = read_bytes(path, expected, most)
    try:
        return str(content, "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{path}: expected UTF-8 text, found byte {content[error.start]:#04x} at offset {error.start:,}"
        ) from error


def read_json(path: Path, most: int = MAX_VALUES) -> dict[str, Any]:
    """Read a JSON object. Raises FileFormatError for other content, or for more than `most` values."""
    return json_object(path, read_bytes(path), "a JSON object", most)


def json_object(path: Path, content: bytes, expected: str, most: int = MAX_VALUES) -> dict[str, Any]:
    """Parse a JSON object. Raises FileFormatError for other content, or for more than `most` values."""
    try:
        value = from_json(content, most=most, unique=True)
    except ValueError as error:
        raise FileFormatError(f"{path}: expected {expected} ({error})") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: expected {expected}, found {brief(value)}")
    return value


def folder_of(path: Path) -> Path:
    """Return the folder of a model. `path` is the folder or one of its files."""
    return path if path.is_dir() else path.parent


def check_name(where: Path | str, name: str) -> None:
    """Raise FileFormatError if a name is too long, because searching for long names is slow."""
    if len(name) > MAX_NAME:
        raise FileFormatError(
            f"{where}: {brief(name)}: expected a name of at most {MAX_NAME} characters, found {len(name):,}"
        )


def readable(text: str) -> str:
    """Return the text on one line, without control characters."""
    return text if text.isprintable() else brief(text)


def list_at(path: Path, values: Mapping[str, Any], key: str) -> list[Any]:
    """Return `values[key]`. Raises FileFormatError about the file `path` if the value is not a list."""
    value = values.get(key)
    if not isinstance(value, list):
        raise FileFormatError(f"{path}: {key}: expected a list, found {brief(value)}")
    return value


def is_count(value: Any) -> bool:
    """Return True for a whole number from 0 to 2^31 - 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def whole_numbers(where: str, value: Any, some: bool = False) -> tuple[int, ...]:
    """Convert a list of whole numbers to a tuple. Raises FileFormatError for other values, and for [] if
    `some` is True."""
    if not isinstance(value, list) or not all(map(is_count, value)) or (some and not value):
        raise FileFormatError(f"{where}: expected a list of whole numbers, found {brief(value)}")
    return tuple(value)


def sentences(where: str, value: Any) -> tuple[str, ...]:
    """Return the texts of a list, each on one line. Raises FileFormatError for other values."""
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise FileFormatError(f"{where}: expected a list of sentences, found {brief(value)}")
    return tuple(map(readable, value))
