"""Writes files and folders completely or not at all. `hold` lets only one process write a file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any
from zlib import crc32

from .errors import InputError, RunError
from .signals import tidied, uninterrupted

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
_TRIES = 10  # attempts to lock a file: an attempt fails if another process removes the lock file
_LONGEST_NAME = 200  # longer file names are cut to this many bytes; a file system allows 255


def check_target(path: Path, overwrite: bool, hint: str = "--force overwrites the file") -> None:
    """Check that a file can be written. Commands call `check_target` before any computation.

    Raises InputError if the path is not a regular file, if its folder does not exist or is not writable, or
    if the file exists and `overwrite` is not set.
    """
    with _writable(path):
        if path.is_dir():
            raise InputError(f"{path}: expected a file to write, found a folder")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: expected a regular file to write, found a device or a pipe")
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists already; {hint}")


def check_new_folder(folder: Path) -> None:
    """Raise InputError if a folder exists and is not empty, or if the folder cannot be created."""
    with _writable(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a new or an empty folder, found a file")
        for entry in folder.iterdir() if folder.exists() else ():
            raise InputError(f"{folder}: expected a new or an empty folder, found {entry.name!r:.80} in it")


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    """Raise InputError if a check in the `with` block fails, or if the folder of the path is not writable."""
    if path == Path("-"):
        raise InputError("-: expected a file name; only --out accepts - for standard output")
    try:
        yield
        if not _followed(path).parent.is_dir():
            raise InputError(f"{path}: the folder {path.parent} does not exist")
        probe = _temporary(path)
        with uninterrupted():
            probe.touch(exist_ok=False)
            probe.unlink(missing_ok=True)  # another run may have removed the probe
    except (OSError, RuntimeError, ValueError) as error:  # Python raises RuntimeError for a loop of links
        raise InputError(f"{path}: cannot write there ({_reason(error)})") from error


class OwnFile:
    """A file that a run writes repeatedly. Each write replaces the file of the previous write, or the file
    that existed when the run began. If another program has changed this file and `overwrite` is not set, the
    run writes a file with another name. `written` is the path of the last write."""

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path = self.written = path
        self._overwrite, self._own = overwrite, None if overwrite else self._state()

    def write(self, content: bytes) -> None:
        """Write the file atomically. Raises RunError if the file cannot be written."""
        own = self._overwrite or (self._own is not None and self._state() == self._own)
        with uninterrupted():
            self.written = _write(self.written, [content], own)
            self._own = self._state()

    def check(self) -> None:
        """Raise RunError if the run wrote another file. The error names the other file."""
        _refuse_elsewhere(self.path, self.written)

    def _state(self) -> tuple[int, ...] | None:
        now = self.written.stat() if self.written.exists() else None  # the content can be too big to compare
        return now and (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)


def write_atomically(path: Path, content: bytes | Iterable[Any], overwrite: bool = False) -> None:
    """Write a temporary file and rename it to `path`, so that readers see either the old file or the new
    file. The new file keeps the permissions of the old file. Signals are delayed until the file is written.
    A large `content` may come in pieces of bytes.

    If `overwrite` is not set and the file exists by now, write a new file with another name, and raise a
    RunError with this name. Raises RunError, too, if the file cannot be written.
    """
    _refuse_elsewhere(path, _write(path, [content] if isinstance(content, bytes) else content, overwrite))


def _write(path: Path, pieces: Iterable[Any], overwrite: bool) -> Path:
    """Write the file and return the path that was written."""
    target, temporary = _target(path), _temporary(path)
    with uninterrupted():
        try:
            mode = stat.S_IMODE(target.stat().st_mode) if overwrite and target.exists() else None
            with os.fdopen(os.open(temporary, _NEW, 0o666 if mode is None else 0o600), "wb") as file:
                file.writelines(pieces)
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
    """Rename a file or folder to `path` and return the new path. If `path` exists, say a.npz, use the first
    free name of a.2.npz, a.3.npz, and so on."""
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
    """Rename a file or folder. Raises FileExistsError if `name` exists."""
    if os.name == "nt" or temporary.is_dir():
        if os.path.lexists(name):
            raise FileExistsError
        temporary.rename(name)  # fails if the file exists (Windows), or if the folder has content
        return
    try:
        os.link(temporary, name)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError:  # the file system has no hard links
        os.close(os.open(name, _NEW, 0o666))
        temporary.replace(name)
    temporary.unlink(missing_ok=True)


def _refuse_elsewhere(path: Path, written: Path) -> None:
    if written != path:
        raise RunError(f"{path}: another program wrote there during this run; the result is in {written}")


@contextmanager
def hold(*paths: Path) -> Iterator[None]:
    """Lock files for this process, so that no two runs write the same file.

    The operating system locks a hidden file in the same folder, and unlocks it when the process ends. `hold`
    also removes the temporary files of killed runs. On a file system without locks, `hold` locks nothing.
    Raises InputError if another process holds a lock.
    """
    held: list[Any] = []

    def release() -> None:
        while held:
            steps = [Path(os.fsdecode(held[-1].path)).unlink, held[-1].release]
            for step in reversed(steps) if os.name == "nt" else steps:  # Windows cannot remove an open file
                with suppress(OSError, RuntimeError):  # fasteners raises RuntimeError if there are no locks
                    step()
            held.pop()

    with tidied(release):
        with uninterrupted():
            for path in paths:
                held.append(_locked(path))
                _remove_leftovers(path)
        yield


def _locked(path: Path) -> Any:
    """Lock a file and return its InterProcessLock. On a file system without locks the file is not locked.
    Raises InputError if another process holds the lock."""
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
    except RuntimeError:  # fasteners raises RuntimeError if the file system has no locks
        held.lockfile.close()
        return held
    except OSError as error:
        raise InputError(f"{path}: cannot lock it ({_reason(error)})") from error
    raise InputError(f"{path}: another run is writing it")


def _remove_leftovers(path: Path) -> None:
    ours = re.compile(re.escape(_beside(path, "").name) + r"[0-9a-f]{8}\.tmp")
    for entry in _target(path).parent.iterdir():
        if ours.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


@contextmanager
def write_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder and rename it to `folder` at the end. `folder` must be new or empty. Signals
    are delayed until the folder has been renamed.

    If another program has written to `folder` in the meantime, rename the temporary folder to another name,
    and raise a RunError with this name. Raises RunError, too, if the folder cannot be written.
    """
    target, temporary = _target(folder), _temporary(folder)
    with uninterrupted():
        try:
            temporary.mkdir()
            yield temporary
            with suppress(OSError):
                target.rmdir()  # an empty folder
            written = _put(temporary, folder)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError):
                raise RunError(f"{folder}: cannot write ({_reason(error)})") from error
            raise
    _refuse_elsewhere(folder, written)


@contextmanager
def write_into(folder: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder, and move all its files into `folder` at the end. Make `folder` if it does not
    exist. After an error or a signal, `folder` is as it was before. Raises InputError if `folder` cannot be
    made, or if a file exists and `overwrite` is not set, and RunError if a file cannot be written."""
    is_new, temporary = not folder.exists(), folder / f".{os.urandom(4).hex()}.tmp"

    def clean() -> None:
        shutil.rmtree(temporary, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # the folder has the files by now
                folder.rmdir()

    with tidied(clean):
        try:
            folder.mkdir(exist_ok=True)
            temporary.mkdir()
        except OSError as error:
            raise InputError(f"{folder}: cannot make the folder ({_reason(error)})") from error
        try:
            yield temporary
            with uninterrupted():
                files = [path for path in temporary.rglob("*") if path.is_file()]
                moves = {path: folder / path.relative_to(temporary) for path in files}
                for target in filter(os.path.lexists, moves.values()):
                    check_target(target, overwrite)
                for path in sorted(files, key=lambda own: -len(own.parts)):  # a subfolder may be impossible
                    moves[path].parent.mkdir(exist_ok=True)
                    path.replace(_target(moves[path]))
        except OSError as error:
            raise RunError(f"{folder}: cannot write ({_reason(error)})") from error


@contextmanager
def pass_files(path: Path, steps: bool, force: bool) -> Iterator[Iterator[Path]]:
    """Yield an iterator over the files to write: `path` itself, or with `steps` the files step0.safetensors,
    step1.safetensors ... of a temporary folder. At the end, the files replace all step files in the folder
    `path`. Raises InputError if the file exists, or the folder has content, and `force` is not set."""
    if not steps:
        check_target(path, force, "force=True overwrites it")
        yield iter([path])
        return
    if not force:
        check_new_folder(path)
    with write_into(path, force) as folder:
        yield (folder / f"step{number}.safetensors" for number in count())
        for old in path.glob("step*.safetensors"):
            if not (folder / old.name).exists():
                old.unlink()


def _temporary(path: Path) -> Path:
    """Return a random path in the folder of the target, so that no other run uses the same path."""
    return _beside(path, f"{os.urandom(4).hex()}.tmp")


def _followed(path: Path) -> Path:
    """Follow the symbolic links of a path to the end. Raises OSError or RuntimeError for a loop of links."""
    target = path.resolve()
    if target.is_symlink():  # since Python 3.13, a loop resolves to one of its links
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return target


def _target(path: Path) -> Path:
    """Follow the symbolic links of a path to the end. Raises RunError for a loop of links."""
    try:
        return _followed(path)
    except (OSError, RuntimeError) as error:  # Python raises RuntimeError for a loop of links
        raise RunError(f"{path}: cannot write ({_reason(error)})") from error


def _beside(path: Path, ending: str) -> Path:
    """Return a hidden path in the folder of the target, with a name made from the target's name."""
    target = _target(path)
    name = os.fsencode(target.name)
    if len(name) > _LONGEST_NAME:
        name = name[:_LONGEST_NAME].decode(errors="ignore").encode() + b"%08x" % crc32(name)
    return target.with_name(f".{os.fsdecode(name)}.{ending}")


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)
