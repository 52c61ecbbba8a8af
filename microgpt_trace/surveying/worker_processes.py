"""Workers that are processes of this machine: a ProcessPoolExecutor that is made anew where one is lost.

Nothing is left of it: workers end with the survey, and with this process however that ends.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

from ..errors import InputError, RunError
from .execution import Assignment, Block, Crew, run_in_worker
from .state import Measured

MOST = 1024


class WorkerProcesses(Crew):
    """So many processes, each of which has a core. Tasks and results are files: pipes have their names alone,
    for one that is half written or half read when a worker is killed would keep everybody waiting."""

    def __init__(self, assignment: Assignment, workers: int, folder: Path) -> None:
        self._run_file, self._workers, self._folder = partial(_run_file, assignment), workers, folder
        self._others = active_children()
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._workers, get_context("spawn"), _begin, (self._folder,))

    def size(self) -> int:
        return self._workers

    def submit(self, blocks: Sequence[Block]) -> Future[Path]:
        task = self._folder / f"{blocks[0].number}.task"
        _put(task, blocks)
        try:
            with _no_interrupts():
                return self._pool.submit(self._run_file, task)
        except BrokenExecutor as error:
            lost = Future[Path]()
            lost.set_exception(error)
            return lost

    def result(self, future: Future[Path]) -> Measured:
        return _taken(future.result())

    def renew(self) -> None:
        self.end()
        self._pool = self._new()

    def end(self) -> None:
        """At once, whatever is running."""
        for process in active_children():
            if process not in self._others:
                process.terminate()
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def in_processes(assignment: Assignment, workers: int) -> Iterator[Crew]:
    """A crew of so many processes. Raises InputError for more than there can be."""
    if not 0 < workers <= MOST:
        raise InputError(f"workers: expected 1 to {MOST:,}, found {workers:,}")
    with TemporaryDirectory(prefix="microgpt-survey-") as folder:
        try:
            crew = WorkerProcesses(assignment, workers, Path(folder))
        except ValueError as error:  # Windows waits for 61 at most
            raise InputError(f"workers: {error}") from error
        try:
            yield crew
        finally:
            crew.end()


def _run_file(assignment: Assignment, task: Path) -> Path:
    """Run what is in a file, and leave the result in another one."""
    result = run_in_worker(assignment, _taken(task))
    path = task.with_suffix(".result")
    _put(path, result)
    return path


def _put(path: Path, content: Sequence[Block] | Measured) -> None:
    try:
        with path.open("wb") as file:
            pickle.dump(content, file, pickle.HIGHEST_PROTOCOL)
    except OSError as error:
        raise RunError(f"{path}: cannot write ({error.strerror})") from error


def _taken(path: Path) -> Any:
    """What is in a file of the folder that only this program writes into; the file is removed."""
    with path.open("rb") as file:
        content = pickle.load(file)
    path.unlink()
    return content


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """A process that is started within never sees the Ctrl-C that a terminal sends to all of them; where a
    system knows no masks it sees one until `_begin`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(folder: Path) -> None:
    """A worker ends when the survey ends it, or when the process that asks is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, args=(folder,), daemon=True).start()


def _end_with_parent(folder: Path) -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        rmtree(folder, ignore_errors=True)
        os._exit(1)
