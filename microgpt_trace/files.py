"""Files and folders written whole or not at all, by one process at a time."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any
from zlib import crc32

from .errors import InputError, RunError
from .signals import tidied, uninterrupted

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_TRIES = 10  # to lock a file whose holder has just removed it
_LONGEST_NAME = 200  # bytes of the target's name in that of a file beside it; file systems take 255


def check_target(path: Path, overwrite: bool, hint: str = "--force overwrites it") -> None:
    """Find out before the work what would keep its result from being written.

    Raises InputError where the path is no regular file, in no folder, in one that lets us write
    nothing, or a file that stands there already and is not to be overwritten.
    """
    with _writable(path):
        if path.is_dir():
            raise InputError(f"{path}: expected a file to write, found a folder")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: expected a regular file to write, found a device or a pipe")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; {hint}")


def check_new_folder(folder: Path) -> None:
    """Raises InputError for a folder that is not new or empty, or where there is no place for it."""
    with _writable(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a new or an empty folder, found a file")
        for found in folder.iterdir() if folder.exists() else ():
            raise InputError(f"{folder}: expected a new or an empty folder, found {found.name!r:.80} in it")


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Raises InputError where the system refuses the checks within, or a file beside the path."""
    if path == Path("-"):
        raise InputError("-: expected the name of a file; only --out knows - for the standard output")
    try:
        yield
        if not _followed(path).parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist")
        probe = _temporary(path)
        with uninterrupted():
            probe.touch(exist_ok=False)
            probe.unlink(missing_ok=True)  # a run that starts there removes what looks left
    except (OSError, RuntimeError, ValueError) as error:  # Python says RuntimeError of a loop of links
        raise InputError(f"{path}: cannot write there ({_reason(error)})") from error


class OwnFile:
    """A file that a run writes again and again. It replaces what stood there when the run began, and what the
    run wrote. What else has appeared there stays, unless `overwrite`: `written` is then a path beside it."""

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path = self.written = path
        self._overwrite, self._known = overwrite, None if overwrite else self._found()

    def write(self, content: bytes) -> None:
        """Write it whole, as `write_atomically` does. Raises RunError where the disk does not let us."""
        own = self._overwrite or (self._known is not None and self._found() == self._known)
        with uninterrupted():
            self.written = _write(self.written, content, own)
            self._known = self._found()

    def check(self) -> None:
        """Raises RunError where the run wrote beside the file, naming the file that it wrote."""
        _refuse_elsewhere(self.path, self.written)

    def _found(self) -> tuple[int, ...] | None:
        now = self.written.stat() if self.written.exists() else None  # its content may be as large as a disk
        return now and (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


def write_atomically(path: Path, content: bytes, overwrite: bool = False) -> None:
    """Write next to `path` and put it into place: readers see the old file or the new one, which keeps the
    old one's permissions. A signal takes effect when it is written.

    A file that has appeared there since `check_target` stays, unless `overwrite`: the content is then kept in
    a file beside it. Raises RunError naming that file, or where the disk or the folder does not let us write.
    """
    _refuse_elsewhere(path, _write(path, content, overwrite))


def _write(path: Path, content: bytes, overwrite: bool) -> Path:
    """Write the file, and return where it is now."""
    target, temporary = _target(path), _temporary(path)
    with uninterrupted():
        try:
            mode = stat.S_IMODE(target.stat().st_mode) if overwrite and target.exists() else None
            with os.fdopen(os.open(temporary, _NEW, 0o666 if mode is None else 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if mode is not None:
                temporary.chmod(mode)
            if not overwrite:
                return _put(temporary, path)
            temporary.replace(target)
            return path
        except BaseException as error:
            temporary.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise RunError(
                    f"{path}: cannot write ({_reason(error)}); nothing there was changed"
                ) from error
            raise


def _put(temporary: Path, path: Path) -> Path:
    """Give a file or a folder its name, or the first free one of a.2.npz, a.3.npz. Return its path."""
    target = _target(path)
    stem = target.stem if len(os.fsencode(target.name)) < _LONGEST_NAME else target.stem[: _LONGEST_NAME // 4]
    others = (f"{stem}.{number}{target.suffix}" for number in count(2))
    for name in chain([target.name], others):
        with suppress(FileExistsError):
            _name_exclusively(temporary, target.with_name(name))
            break
    shown = target if path.is_symlink() else path
    return path if name == target.name else shown.with_name(name)


def _name_exclusively(temporary: Path, name: Path) -> None:
    """Raises FileExistsError where something is called so."""
    if os.name == "nt" or temporary.is_dir():
        if os.path.lexists(name):
            raise FileExistsError
        temporary.rename(name)  # Windows renames over no file, other systems over no folder with content
        return
    try:
        os.link(temporary, name)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # the file system knows no links
        os.close(os.open(name, _NEW, 0o666))
        temporary.replace(name)
    temporary.unlink(missing_ok=True)


def _refuse_elsewhere(path: Path, written: Path) -> None:
    if written != path:
        raise RunError(f"{path}: another program wrote there during this run; the result is in {written}")


@contextmanager
def hold(*paths: Path) -> Iterator[None]:
    """Keep files for this process: one that another one is about to write as well would be lost.

    A lock of the system on a file beside each, which ends with its process, however that ends. What a run
    that was killed has left beside the file is removed. Where the file system knows no locks nothing is held.
    Raises InputError where another process holds one.
    """
    held: list[Any] = []

    def release() -> None:
        while held:
            steps = [Path(os.fsdecode(held[-1].path)).unlink, held[-1].release]
            for step in reversed(steps) if os.name == "nt" else steps:  # Windows removes nothing that is open
                with suppress(OSError, RuntimeError):  # fasteners raises the latter where there are no locks
                    step()
            held.pop()

    with tidied(release):
        with uninterrupted():
            for path in paths:
                held.append(_locked(path))
                _remove_leftovers(path)
        yield


def _locked(path: Path) -> Any:
    """The InterProcessLock of a file, held where the file system knows locks. Raises InputError."""
    from fasteners import InterProcessLock

    lock = _beside(path, "lock")
    try:
        for _ in range(_TRIES):
            held = InterProcessLock(lock)
            if not held.acquire(blocking=False):
                held.lockfile.close()
                break
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(held.lockfile.fileno()), lock.stat()):
                    return held
            held.release()
    except RuntimeError:  # so fasteners says that there are no locks
        held.lockfile.close()
        return held
    except OSError as error:
        raise InputError(f"{path}: cannot lock it ({_reason(error)})") from error
    raise InputError(f"{path}: another run is writing it")


def _remove_leftovers(path: Path) -> None:
    ours = re.compile(re.escape(_beside(path, "").name) + r"[0-9a-f]{8}\.tmp")
    for found in _target(path).parent.iterdir():
        if ours.fullmatch(found.name):
            found.unlink(missing_ok=True)


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """A folder beside to write into, which takes the place of `folder`, new or empty, in the end. A signal
    takes effect when it is written.

    Raises RunError where the disk does not let us, or naming the folder beside it where something appeared.
    """
    target, temporary = _target(folder), _temporary(folder)
    with uninterrupted():
        try:
            temporary.mkdir()
            yield temporary
            with suppress(OSError):
                target.rmdir()  # an empty one
            written = _put(temporary, folder)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                raise RunError(f"{folder}: cannot write ({_reason(error)})") from error
            raise
    _refuse_elsewhere(folder, written)


def _temporary(path: Path) -> Path:
    """A name of its own beside the target, so that two runs, or one that was killed, do not meet."""
    return _beside(path, f"{os.urandom(4).hex()}.tmp")


def _followed(path: Path) -> Path:
    """Where links lead. Raises OSError or RuntimeError of a loop of them."""
    target = path.resolve()
    if target.is_symlink():  # since Python 3.13 what resolves a loop gives a link of it
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _target(path: Path) -> Path:
    """Where links lead. Raises RunError naming the path."""
    try:
        return _followed(path)
    except (OSError, RuntimeError) as error:  # Python says RuntimeError of a loop of links
        raise RunError(f"{path}: cannot write ({_reason(error)})") from error


def _beside(path: Path, ending: str) -> Path:
    """A hidden name beside the target, told by it."""
    target = _target(path)
    name = os.fsencode(target.name)
    if len(name) > _LONGEST_NAME:
        name = name[:_LONGEST_NAME].decode(errors="ignore").encode() + b"%08x" % crc32(name)
    return target.with_name(f".{os.fsdecode(name)}.{ending}")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
