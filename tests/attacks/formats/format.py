"""A file format: a good file in parts, a function that writes the parts, and one that opens a file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microgpt_trace import load

GONE = object()  # instead of a value or a tensor: it is left out of the file
WRONG = ("4", "a\nb", [4], [[4]], True)  # neither numbers nor known names


@dataclass(frozen=True)
class Format:
    """`refused` has rows of (words of the error, change, tensors), the latter as for `damaged`. `wrong` has
    values of metadata keys that must be rejected, with any words."""

    metadata: Mapping[str, Any]
    tensors: dict[str, Any]
    write: Callable[[Path, dict[str, Any], dict[str, Any]], object]
    refused: Sequence[tuple[Any, ...]] = ()
    wrong: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    name: str = "model"
    inside: str = ""  # if `name` is a folder: the file in it that bytes replace
    opened: Callable[[Path], object] = load
    memory: int = 1  # opening the file may take this multiple of its size

    def damaged(self, folder: Path, change: Any = (), tensors: Any = ()) -> Path:
        """Write the good file with a change and with other tensors, and return its path.

        The change can be bytes that replace the file, other values of the metadata ("corpus/files" is the
        value `files` of `corpus`), or a function that changes the file at a path.
        """
        path = folder / self.name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        values = change if isinstance(change, dict) else {}
        self.write(path, with_changes(self.metadata, values), without_gone(self.tensors | dict(tensors)))
        if isinstance(change, bytes):
            (path / self.inside).write_bytes(change)
        elif callable(change):
            change(path)
        return path


def with_changes(values: Mapping[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the values with changes, also of nested values."""
    result = dict(values)
    for key, value in changes.items():
        outer, _, inner = key.partition("/")
        result[outer] = with_changes(result[outer], {inner: value}) if inner else value
    return without_gone(result)


def without_gone(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not GONE}
