"""Run a survey on the workers of a Dask cluster. The cluster merges the results of the shards of a task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Executor, Future
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.util import find_spec
from logging import CRITICAL, getLogger
from threading import Thread
from time import monotonic
from typing import Any, cast

from ..errors import InputError, RunError, check_installed
from ..text.brief import brief
from .execution import (
    TRIES,
    Assignment,
    Block,
    Crew,
    Note,
    merge_results,
    program,
    run_in_worker,
    workers_lost,
)
from .state import Measured

CONNECT = 10.0  # seconds to wait for an answer from the scheduler
ALONE = 10.0  # seconds without any worker before a note is printed
FAN = 8  # number of shards whose results are merged into one
_MODULE = run_in_worker.__module__


class DaskCluster(Crew):
    """The workers of a Dask scheduler. Workers may join and leave during a survey. A Dask scheduler repeats
    the tasks of lost workers."""

    parts = FAN

    def __init__(
        self, assignment: Assignment, client: Any, executor: Executor, address: str, note: Note
    ) -> None:
        super().__init__(partial(run_in_worker, assignment))
        self._client, self._executor, self._address = client, executor, address
        self._note_once = lru_cache(maxsize=None)(note)
        self._checked, self._seen = set[str](), monotonic()

    def size(self) -> int:
        try:
            threads: dict[str, int] = self._client.ncores()
            self._check(threads.keys() - self._checked)
        except OSError as error:
            raise _scheduler_ended(self._address) from error
        if threads:
            self._seen = monotonic()
        elif monotonic() - self._seen > ALONE:
            self._note_once(f"{self._address} has no workers. The survey waits for a worker.")
        if max(threads.values(), default=1) > 1:
            self._note_once("A worker computes on one core. Start workers with --nthreads 1.")
        return len(threads)

    def _check(self, workers: set[str]) -> None:
        """Raise InputError if a worker lacks this program, because the worker would end at its first task."""
        if workers:
            specs = self._client.run(find_spec, _MODULE, workers=list(workers), on_error="return")
            for worker, spec in specs.items():
                if isinstance(spec, ImportError):
                    where = f"--scheduler {brief(self._address)}"
                    raise InputError(f"{where}: the worker {worker} lacks {program()} ({spec})")
            self._checked |= workers

    def submit(self, blocks: Sequence[Block]) -> Future[Measured]:
        size = -(-len(blocks) // FAN)
        parts = [blocks[start : start + size] for start in range(0, len(blocks), size)]
        results = [self._client.submit(self._run, part, retries=TRIES, pure=False) for part in parts]
        return self._executor.submit(merge_results, *results)


@contextmanager
def on_cluster(assignment: Assignment, address: str, note: Note) -> Iterator[Crew]:
    """Yield the workers of a Dask cluster. Use only trusted clusters, because pickles from a cluster can run
    code. Raises InputError if the package distributed is missing, no scheduler answers, or a worker lacks
    this program, and RunError if workers end again and again or the scheduler ends."""
    check_installed("distributed", "--scheduler needs")
    from distributed import KilledWorker

    with _silent(), _connected(address) as client:
        executor = client.get_executor(retries=TRIES, pure=False)
        try:
            yield DaskCluster(assignment, client, executor, address, note)
        except KilledWorker as error:
            raise workers_lost(str(error)) from error
        except CancelledError as error:
            raise _scheduler_ended(address) from error
        finally:
            executor.shutdown(wait=False)  # running tasks are no longer needed


def _connected(address: str) -> Any:
    """Connect to the scheduler. Raises InputError if no scheduler answers in time."""
    import asyncio

    from distributed import Client

    client: Any = Client  # `distributed` is only partly typed, and may not be installed
    greeting, where = Future[None](), f"--scheduler {brief(address)}"
    Thread(target=_greet, args=(address, greeting), daemon=True).start()
    try:
        greeting.result()
        return client(address, timeout=CONNECT)
    except asyncio.TimeoutError as error:
        raise InputError(f"{where}: no scheduler answers there within {CONNECT:.0f} s") from error
    except OSError as error:
        raise InputError(f"{where}: nothing answers there ({error})") from error
    except ValueError as error:
        raise InputError(f"{where}: expected an address like tcp://host:8786 ({error})") from error
    except Exception as error:  # an answer from another program can raise any exception
        raise InputError(f"{where}: expected a scheduler that Dask is configured for, found none") from error


def _greet(address: str, greeting: Future[None]) -> None:
    """Check that the scheduler answers, because Dask's client would wait for the scheduler without limit. The
    check runs in a thread, since the main thread of a notebook already runs an event loop."""
    import asyncio

    from distributed import Security
    from distributed.comm.core import connect

    async def greet() -> None:
        options = cast(Any, Security)().get_connection_args("client")
        connection = cast(Any, connect)(address, timeout=CONNECT, **options)
        (await asyncio.wait_for(connection, CONNECT + 0.5)).abort()

    try:
        greeting.set_result(asyncio.run(greet()))
    except BaseException as error:
        greeting.set_exception(error)


def _scheduler_ended(address: str) -> RunError:
    return RunError(f"--scheduler {brief(address)}: the scheduler has ended")


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the client's log messages about a lost connection, because an error reports the loss."""
    logger = getLogger("distributed.client")
    before = logger.level
    logger.setLevel(CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
