"""How shards of a survey are run, by whoever computes them: what is sent, what comes back, what is run again.

A worker opens the model once, from its file; of a task it is sent the documents. Knows no statistics.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from platform import node
from threading import Lock
from time import monotonic
from typing import Any, NamedTuple

from ..architecture.model import LanguageModel
from ..arrays.threads import one_core
from ..corpus.corpus import Document
from ..errors import InputError, MicrogptError, RunError
from ..microgpt.model import init
from ..readers.loading import load
from .shard import survey_shard
from .state import Measured, SurveyOrder, fingerprint_of

TRIES = 3  # of a task whose workers are lost
MOST_BLOCKS = 16  # of a shard
SECONDS = 10.0  # of computing for each result, at least, where a shard may be so large: it costs a merge
SHARES = 2  # shards that each worker should have left, so that all end together
AHEAD = SHARES * MOST_BLOCKS  # blocks for each worker that are read before they are run
HELD = 1 << 25  # bytes of texts after which no more are read ahead
PATIENCE = 1.0  # seconds between two looks at who is there
_one_at_a_time = Lock()  # a worker of several threads has one model, and one core for it


@dataclass(frozen=True)
class ModelSource:
    """How every process opens the model for itself: by the path and what `load` takes besides, or an
    untrained microGPT by its seed."""

    path: str | None
    options: tuple[tuple[str, Any], ...] = field(default=(), hash=False)  # there may be a dict among them
    seed: int | None = None

    def open(self) -> LanguageModel:
        """The model."""
        if self.path is None:
            return init(seed=42 if self.seed is None else self.seed)
        return load(self.path, **dict(self.options))


class Block(NamedTuple):
    """Documents that are read as a whole or not at all, the number of the block and their fingerprint."""

    number: int
    documents: list[Document]
    digest: str

    @property
    def held(self) -> int:
        """Bytes of its texts in memory."""
        return sum(sys.getsizeof(document.text) for document in self.documents)


Note = Callable[[str], None]
Run = Callable[[Sequence[Block]], Measured]


@dataclass(frozen=True)
class Assignment:
    """What all workers are to do, and what they must have for that: the same model and the same program."""

    source: ModelSource
    fingerprint: str
    order: SurveyOrder
    program: str

    @classmethod
    def of(cls, source: ModelSource, fingerprint: str, order: SurveyOrder) -> Assignment:
        """That of this process. Workers may have another current folder."""
        path = None if source.path is None else os.path.abspath(source.path)  # noqa: PTH100 (no link is followed)
        return cls(replace(source, path=path), fingerprint, order, program())


class Crew:
    """Who computes: this process alone, if it is none of the other kinds."""

    parts = 1  # in how many shards a task is divided, which are merged before it comes back

    def __init__(self, run: Run) -> None:
        self._run = run

    def size(self) -> int:
        """How many there are now."""
        return 1

    def submit(self, blocks: Sequence[Block]) -> Future[Any]:
        """Have blocks run."""
        done = Future[Measured]()
        done.set_result(self._run(blocks))
        return done

    def result(self, future: Future[Any]) -> Measured:
        """What came of them, once that is there."""
        found: Measured = future.result()
        return found

    def renew(self) -> None:
        """Go on with others where workers are lost, as this process cannot be."""


def run_here(model: LanguageModel, order: SurveyOrder, blocks: Sequence[Block]) -> Measured:
    """Run blocks in this process."""
    began = monotonic()
    measured = survey_shard(model, order, [document for block in blocks for document in block.documents])
    measured.blocks = {block.number: block.digest for block in blocks}
    measured.arithmetic, measured.seconds = arithmetic(), monotonic() - began
    return measured


def run_in_worker(assignment: Assignment, blocks: Sequence[Block]) -> Measured:
    """Run blocks in a process that has one core. Raises InputError where the model or the program is not that
    of the process that asks for it."""
    with _one_at_a_time, one_core():
        return run_here(_opened(assignment), assignment.order, blocks)


@lru_cache(maxsize=1)
def _opened(assignment: Assignment) -> LanguageModel:
    """The model of a process, opened at its first task."""
    if assignment.program != program():
        raise InputError(f"a worker on {node()} has {program()}, where {assignment.program} asks")
    try:
        model = assignment.source.open()
    except MicrogptError as error:
        raise InputError(f"a worker on {node()}: {error}") from error
    if assignment.fingerprint != fingerprint_of(model):
        raise InputError(f"a worker on {node()}: {model.origin}: another model than the one here")
    return model.for_many_passes()


def merged_results(*results: Measured) -> Measured:
    """The results of several shards as one; these themselves stay what they are, for one that is lost is
    merged again."""
    first = deepcopy(results[0])
    for other in results[1:]:
        first.take(other)
    return first


def program() -> str:
    """This program and its version."""
    package = sys.modules[__name__.partition(".")[0]]
    return f"microgpt-trace {package.__version__}"


@lru_cache(maxsize=1)
def arithmetic() -> tuple[str, ...]:
    """The libraries that compute, and the kernels that they take here: other ones round otherwise."""
    import numpy as np
    from threadpoolctl import threadpool_info

    blas = (lib for lib in threadpool_info() if lib["user_api"] == "blas")
    kernels = {
        f"{lib['internal_api']} {lib['version']} {lib.get('architecture', '')}".strip() for lib in blas
    }
    return (f"numpy {np.__version__}", *sorted(kernels))


class Tasks:
    """Blocks joined to what a crew is given at a time: the more the faster they are, and the fewer the fewer
    are left, so that workers end together."""

    def __init__(self, blocks: Iterator[Block], crew: Crew) -> None:
        self._blocks, self._crew = blocks, crew
        self._seconds = SECONDS  # of a block, as far as is known

    def learn(self, result: Measured) -> None:
        """How long blocks take."""
        self._seconds = result.seconds / len(result.blocks)

    def __iter__(self) -> Iterator[list[Block]]:
        ahead, held = deque[Block](), 0
        while True:
            count = max(1, self._crew.size())
            while len(ahead) < AHEAD * count and held < HELD and (block := next(self._blocks, None)):
                ahead.append(block)
                held += block.held
            if not ahead:
                return
            worth = int(SECONDS * count / max(self._seconds, 1e-9))
            size = max(1, min(MOST_BLOCKS, worth, len(ahead) // (SHARES * count)))
            task = [ahead.popleft() for _ in range(min(len(ahead), size * self._crew.parts))]
            held -= sum(block.held for block in task)
            yield task


def side_by_side(blocks: Iterator[Block], crew: Crew, note: Note) -> Generator[Measured, None, None]:
    """The results of blocks as they come; what lost workers had is run again.

    Raises RunError where the workers of a task are lost TRIES times.
    """
    tasks = Tasks(blocks, crew)
    left, running = iter(tasks), dict[Future[Any], list[Block]]()
    again, losses = list[list[Block]](), Counter[int]()
    while True:
        while len(running) < _at_a_time(crew) and (task := again.pop() if again else next(left, None)):
            running[crew.submit(task)] = task
        if not running:
            return
        for future in wait(running, PATIENCE, FIRST_COMPLETED).done:
            try:
                result = crew.result(future)
            except BrokenExecutor as error:
                again = list(running.values())
                _count_losses(losses, again, error)
                note("a worker ended: what was running is run again")
                running.clear()
                crew.renew()
                break
            del running[future]
            tasks.learn(result)
            yield result


def _at_a_time(crew: Crew) -> int:
    """How many tasks are given out: one more than can be run, so that nobody waits for the next one."""
    return max(1, -(-crew.size() // crew.parts)) + (crew.size() > 1)


def _count_losses(losses: Counter[int], lost: list[list[Block]], error: Exception) -> None:
    losses.update(task[0].number for task in lost)
    first = min(lost, key=lambda task: task[0].number)[0]
    if max(losses[task[0].number] for task in lost) >= TRIES:
        raise worker_lost(first.documents[0].place) from error


def worker_lost(place: str) -> RunError:
    """What to say where workers end again and again."""
    return RunError(
        f"workers ended {TRIES} times with what {place} begins: were they killed, for want of memory say, "
        f"fewer at a time or --max-tokens would help"
    )
