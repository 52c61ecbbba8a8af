"""Workers that are processes of this machine. If a process is lost, a new ProcessPoolExecutor replaces all
workers.

Workers end when the survey ends, or when this process ends for any reason.
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

from ..errors import OptionError, RunError
from .execution import Assignment, Block, Crew, run_in_worker
from .state import Measured


class WorkerProcesses(Crew):
    """Worker processes, each of which computes on one core. Tasks and results are stored in files, and pipes
    transfer only file names. A worker that is killed during a long transfer would block all other workers."""

    def __init__(self, assignment: Assignment, workers: int, folder: Path) -> None:
        self._run_file, self._workers, self._folder = partial(_run_file, assignment), workers, folder
        self._others = active_children()
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._workers, get_context("spawn"), _initialize, (self._folder,))

    def size(self) -> int:
        return self._workers

    def submit(self, blocks: Sequence[Block]) -> Future[Path]:
        task = self._folder / f"{blocks[0].number}.task"
        _write(task, blocks)
        try:
            with _no_interrupts():
                return self._pool.submit(self._run_file, task)
        except BrokenExecutor as error:
            lost = Future[Path]()
            lost.set_exception(error)
            return lost

    def result(self, future: Future[Path]) -> Measured:
        return _read_and_remove(future.result())

    def renew(self) -> None:
        self.end()
        self._pool = self._new_pool()

    def end(self) -> None:
        """Terminate all workers at once, even in the middle of a task."""
        for process in active_children():
            if process not in self._others:
                process.terminate()
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def in_processes(assignment: Assignment, workers: int) -> Iterator[Crew]:
    """Yield worker processes. Raises InputError if the system does not allow so many workers."""
    with TemporaryDirectory(prefix="microgpt-survey-") as folder:
        try:
            crew = WorkerProcesses(assignment, workers, Path(folder))
        except ValueError as error:  # Windows allows at most 61 workers
            raise OptionError("{workers}: {error}", error=error) from error
        try:
            yield crew
        finally:
            crew.end()


def _run_file(assignment: Assignment, task: Path) -> Path:
    """Run the task that is stored in a file, write the result to a second file and return the second file."""
    result = run_in_worker(assignment, _read_and_remove(task))
    path = task.with_suffix(".result")
    _write(path, result)
    return path


def _write(path: Path, content: Sequence[Block] | Measured) -> None:
    try:
        with path.open("wb") as file:
            pickle.dump(content, file, pickle.HIGHEST_PROTOCOL)
    except OSError as error:
        raise RunError(f"{path}: cannot write ({error.strerror})") from error


def _read_and_remove(path: Path) -> Any:
    """Read and remove a file of the temporary folder. Only this program writes to the folder."""
    with path.open("rb") as file:
        content = pickle.load(file)
    path.unlink()
    return content


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Make processes that start in this context ignore Ctrl-C, which a terminal sends to all processes. On a
    system without signal masks, a worker ignores Ctrl-C only after `_initialize`."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _initialize(folder: Path) -> None:
    """Make a worker ignore Ctrl-C and end with its parent process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, args=(folder,), daemon=True).start()


def _end_with_parent(folder: Path) -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        rmtree(folder, ignore_errors=True)
        os._exit(1)
