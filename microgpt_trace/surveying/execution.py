"""Run the tasks of a survey, in this process or by workers, and repeat the tasks of lost workers.

A worker opens the model once. A task contains documents, but no model.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from copy import deepcopy
from dataclasses import field, replace
from functools import lru_cache
from platform import node
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple

from ..arrays.threads import one_core
from ..corpus.corpus import Document
from ..errors import InputError, MicrogptError, RunError
from ..microgpt.model import init
from ..models.language_model import LanguageModel
from ..readers.loading import load
from ..text.frozen import frozen
from .shard import survey_shard
from .state import Measured, SurveyOrder, fingerprint_of

TRIES = 3  # attempts to run a task whose workers are lost
MOST_BLOCKS = 16  # largest number of blocks in a shard
SECONDS = 10.0  # shortest time that a shard should take, since merging its result costs time too
SHARES = 2  # shards per worker that should remain to be run, so that all workers finish together
AHEAD = SHARES * MOST_BLOCKS  # blocks per worker that are read ahead
HELD = 1 << 25  # largest number of bytes of text to read ahead
PATIENCE = 1.0  # seconds between two checks of the number of workers
_one_at_a_time = Lock()  # a worker has one model and one core, so that only one of its threads may run


@frozen(slots=False)
class ModelSource:
    """What a worker opens as its model: path and options of `load`, or the seed of an untrained microGPT."""

    path: str | None
    options: tuple[tuple[str, Any], ...] = field(default=(), hash=False)  # a dict has no hash
    seed: int | None = None

    def open(self) -> LanguageModel:
        if self.path is None:
            return init(seed=42 if self.seed is None else self.seed)
        return load(self.path, **dict(self.options))


class Block(NamedTuple):
    """Documents that are surveyed together, with the number of the block and a hash of its texts."""

    number: int
    documents: list[Document]
    digest: str

    @property
    def size(self) -> int:
        """The memory of the texts in bytes."""
        return sum(sys.getsizeof(document.text) for document in self.documents)


Note = Callable[[str], None]
Run = Callable[[Sequence[Block]], Measured]


@frozen(slots=False)
class Assignment:
    """What every worker needs: the model, the measurements to make, and the version of the program."""

    source: ModelSource
    fingerprint: str
    order: SurveyOrder
    program: str

    @classmethod
    def of(cls, source: ModelSource, fingerprint: str, order: SurveyOrder) -> Assignment:
        """Build an assignment with this program's version. The path of the model becomes absolute, because a
        worker may run in another folder."""
        path = source.path
        if path not in (None, "small"):  # "small" is the model of the package
            path = os.path.abspath(path)  # noqa: PTH100 (no link is followed)
        return cls(replace(source, path=path), fingerprint, order, program())


class Crew:
    """The workers of a survey. The base class Crew runs tasks in the current process."""

    parts = 1  # number of shards that a task is divided into

    def __init__(self, run: Run) -> None:
        self._run = run

    def size(self) -> int:
        """Return the current number of workers."""
        return 1

    def submit(self, blocks: Sequence[Block]) -> Future[Any]:
        done = Future[Measured]()
        done.set_result(self._run(blocks))
        return done

    def result(self, future: Future[Any]) -> Measured:
        """Return the result of a task that is done."""
        return future.result()

    def renew(self) -> None:
        """Replace the workers after one was lost. The current process cannot be lost, so in the base class
        `renew` does nothing."""


def run_here(model: LanguageModel, order: SurveyOrder, blocks: Sequence[Block]) -> Measured:
    start = monotonic()
    measured = survey_shard(model, order, [document for block in blocks for document in block.documents])
    measured.blocks = {block.number: block.digest for block in blocks}
    measured.arithmetic, measured.seconds = arithmetic(), monotonic() - start
    return measured


def run_in_worker(assignment: Assignment, blocks: Sequence[Block]) -> Measured:
    """Run blocks on one core. Raises InputError if the model or program is not the assigned one."""
    with _one_at_a_time, one_core():
        return run_here(_open(assignment), assignment.order, blocks)


@lru_cache(maxsize=1)
def _open(assignment: Assignment) -> LanguageModel:
    """Open and check the model. The cache makes a process open the assigned model only once."""
    worker = f"a worker on {node()}"
    if assignment.program != program():
        raise InputError(f"{worker}: expected {assignment.program}, found {program()}")
    try:
        model = assignment.source.open()
    except MicrogptError as error:
        raise InputError(f"{worker}: {error}") from error
    if assignment.fingerprint != fingerprint_of(model):
        raise InputError(
            f"{worker}: {model.origin}: expected the parameters of this command's model, found different "
            "parameters"
        )
    return model.for_many_passes()


def merge_results(*results: Measured) -> Measured:
    """Merge the results of shards. `results` are not changed, so that a cluster can repeat the merge."""
    first = deepcopy(results[0])
    for other in results[1:]:
        first.merge(other)
    return first


def program() -> str:
    """Return the name and the version of this program."""
    package = sys.modules[__name__.partition(".")[0]]
    return f"microgpt-trace {package.__version__}"


@lru_cache(maxsize=1)
def arithmetic() -> tuple[str, ...]:
    """Return the versions of NumPy and BLAS, and the BLAS kernel in use, which decides how sums round."""
    import numpy as np
    from threadpoolctl import threadpool_info

    blas = (lib for lib in threadpool_info() if lib["user_api"] == "blas")
    kernels = {
        f"{lib['internal_api']} {lib['version']} {lib.get('architecture', '')}".strip() for lib in blas
    }
    return (f"numpy {np.__version__}", *sorted(kernels))


class Tasks:
    """Join blocks into tasks. A task has many blocks if blocks take little time, and few blocks near the end
    of the corpus, so that all workers finish together."""

    def __init__(self, blocks: Iterator[Block], crew: Crew) -> None:
        self._blocks, self._crew = blocks, crew
        self.seconds = SECONDS  # seconds per block, a guess until the first result arrives

    def __iter__(self) -> Iterator[list[Block]]:
        ahead, held = deque[Block](), 0
        while True:
            count = max(1, self._crew.size())
            while len(ahead) < AHEAD * count and held < HELD and (block := next(self._blocks, None)):
                ahead.append(block)
                held += block.size
            if not ahead:
                return
            enough = int(SECONDS * count / max(self.seconds, 1e-9))
            size = max(1, min(MOST_BLOCKS, enough, len(ahead) // (SHARES * count)))
            task = [ahead.popleft() for _ in range(min(len(ahead), size * self._crew.parts))]
            held -= sum(block.size for block in task)
            yield task


def run_tasks(blocks: Iterator[Block], crew: Crew, note: Note) -> Generator[Measured, None, None]:
    """Yield the results of blocks as they arrive, and repeat the tasks of lost workers. Raises RunError if
    the workers of a task are lost TRIES times."""
    tasks = Tasks(blocks, crew)
    new, running = iter(tasks), dict[Future[Any], list[Block]]()
    lost, losses = list[list[Block]](), Counter[int]()
    while True:
        most = max(1, -(-crew.size() // crew.parts)) + (crew.size() > 1)  # plus one waiting task
        while len(running) < most and (task := lost.pop() if lost else next(new, None)):
            running[crew.submit(task)] = task
        if not running:
            return
        for future in wait(running, PATIENCE, FIRST_COMPLETED).done:
            try:
                result = crew.result(future)
            except BrokenExecutor as error:
                lost = list(running.values())
                losses.update(task[0].number for task in lost)
                if max(losses[task[0].number] for task in lost) >= TRIES:
                    first = min(lost, key=lambda task: task[0].number)[0]
                    raise workers_lost(first.documents[0].place) from error
                note("A worker process ended. Its tasks are run again.")
                running.clear()
                crew.renew()
                break
            del running[future]
            tasks.seconds = result.seconds / len(result.blocks)
            yield result


def workers_lost(where: str) -> RunError:
    """Return the error for a task whose workers ended TRIES times."""
    return RunError(
        f"{where}: workers ended {TRIES} times in the task that starts here; if memory ran out, use "
        "fewer workers or --max-tokens"
    )
