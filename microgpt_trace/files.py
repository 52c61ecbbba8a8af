"""Files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import InputError, RunError


def check_target(path: Path, overwrite: bool, hint: str = "--force overwrites it") -> None:
    """Find out before the work what would keep its result from being written.

    Raises InputError where the path is a folder, in no folder, in one that lets us write nothing,
    or a file that stands there already and is not to be overwritten.
    """
    if path.is_dir():
        raise InputError(f"{path}: expected a file to write, found a folder")
    if not path.resolve().parent.is_dir():
        raise InputError(f"{path}: the folder {path.parent} does not exist")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; {hint}")
    probe = _temporary(path)
    try:
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise InputError(f"{path}: cannot write there ({error.strerror})") from error


def _temporary(path: Path) -> Path:
    return path.resolve().with_name(f".{path.name}.{os.getpid()}.tmp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write next to `path` and rename into place: readers see the old file or the new one.

    Raises RunError naming the file where the disk or the folder does not let us.
    """
    temporary = _temporary(path)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path.resolve())
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot write ({error.strerror}); nothing there was changed") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
