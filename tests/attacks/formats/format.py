"""A file format: a good file in parts, how the parts are written however wrong, and what opens it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from microgpt_trace import load

GONE = object()  # in the place of a value or a tensor: the file is written without it
WRONG = ("4", "a\nb", [4], [[4]], True)  # what no number, and no name that is known, may be


@dataclass(frozen=True)
class Format:
    """`refused` has rows of (words of the refusal, change, tensors): `damaged` says what these may be.
    `wrong` has for keys of the metadata the values that are refused, in whatever words."""

    metadata: Mapping[str, Any]
    tensors: dict[str, Any]
    write: Callable[[Path, dict[str, Any], dict[str, Any]], object]
    refused: Sequence[tuple[Any, ...]] = ()
    wrong: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    name: str = "model"
    inside: str = ""  # the file that bytes stand in place of, where `name` is a folder
    opened: Callable[[Path], object] = load
    memory: int = 1  # how many times its size opening the file may take

    def damaged(self, folder: Path, change: Any = (), tensors: Any = ()) -> Path:
        """Write the good file with bytes in its place, with other values ("corpus/files" names the value
        `files` of `corpus`), or with what a function of its path does to it; and with other tensors."""
        path = folder / self.name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        values = change if isinstance(change, dict) else {}
        self.write(path, replaced(self.metadata, values), present(self.tensors | dict(tensors)))
        if isinstance(change, bytes):
            (path / self.inside).write_bytes(change)
        elif callable(change):
            change(path)
        return path


def replaced(whole: Mapping[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The same with other values, in the values of it too."""
    found = dict(whole)
    for key, value in changes.items():
        outer, _, inner = key.partition("/")
        found[outer] = replaced(found[outer], {inner: value}) if inner else value
    return present(found)


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not GONE}
