"""Files and folders written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError, RunError


def check_target(path: Path, overwrite: bool, hint: str = "--force overwrites it") -> None:
    """Find out before the work what would keep its result from being written.

    Raises InputError where the path is no regular file, in no folder, in one that lets us write
    nothing, or a file that stands there already and is not to be overwritten.
    """
    try:
        if path.is_dir():
            raise InputError(f"{path}: expected a file to write, found a folder")
        if not path.resolve().parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: expected a regular file to write, found a device or a pipe")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; {hint}")
        probe = _temporary(path)
        probe.touch(exist_ok=False)
        probe.unlink()
    except (OSError, RuntimeError) as error:  # Python says RuntimeError of a loop of links
        raise InputError(f"{path}: cannot write there ({_reason(error)})") from error


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
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise RunError(f"{path}: cannot write ({_reason(error)}); nothing there was changed") from error
        raise


def check_new_folder(folder: Path) -> None:
    """Raises InputError for a folder that is not new or empty, or has no place to be in."""
    try:
        target = folder.resolve()
        if not target.parent.is_dir():
            raise InputError(f"{folder}: the folder {folder.parent} does not exist")
        if target.exists() and not target.is_dir():
            raise InputError(f"{folder}: expected a new or an empty folder, found a file")
        found = next(target.iterdir(), None) if target.exists() else None
    except (OSError, RuntimeError, ValueError) as error:  # Python says RuntimeError of a loop of links
        raise InputError(f"{folder}: cannot write there ({_reason(error)})") from error
    if found is not None:
        raise InputError(f"{folder}: expected a new or an empty folder, found {found.name!r:.80} in it")


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """A folder beside to write into, which takes the place of `folder`, new or empty, in the end.

    Raises RunError naming the folder where the disk does not let us.
    """
    target, temporary = folder.resolve(), _temporary(folder)
    try:
        temporary.mkdir()
        yield temporary
        if target.exists():
            target.rmdir()  # Windows puts nothing in the place of a folder
        temporary.rename(target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise RunError(f"{folder}: cannot write ({_reason(error)})") from error
        raise


def _temporary(path: Path) -> Path:
    """A name of its own beside the target, so that two runs, or one that was killed, do not meet."""
    target = path.resolve()
    return target.with_name(f".{target.name[:200]}.{os.urandom(4).hex()}.tmp")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
