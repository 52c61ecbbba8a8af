"""Workers of a Dask cluster. Shards that belong together are merged there, before one result comes back."""

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
    merged_results,
    program,
    run_in_worker,
    worker_lost,
)
from .state import Measured

CONNECT = 10.0  # seconds until a scheduler must have answered
ALONE = 10.0  # seconds without a worker until that is said
FAN = 8  # shards that are merged to one result
_OURS = run_in_worker.__module__


class DaskCluster(Crew):
    """The workers of a scheduler, which come and go. It runs again itself what a lost one had: nothing has to
    be renewed."""

    parts = FAN

    def __init__(
        self, assignment: Assignment, client: Any, executor: Executor, address: str, note: Note
    ) -> None:
        super().__init__(partial(run_in_worker, assignment))
        self._client, self._executor, self._address = client, executor, address
        self._note_once = lru_cache(maxsize=None)(note)
        self._known, self._seen = set[str](), monotonic()

    def size(self) -> int:
        try:
            threads: dict[str, int] = self._client.ncores()
            self._check(threads.keys() - self._known)
        except OSError as error:
            raise _gone(self._address) from error
        if threads:
            self._seen = monotonic()
        elif monotonic() - self._seen > ALONE:
            self._note_once(f"{self._address} has no workers: waiting for some to join")
        if max(threads.values(), default=1) > 1:
            self._note_once("workers compute on one core each: start them with --nthreads 1")
        return len(threads)

    def _check(self, workers: set[str]) -> None:
        """Raises InputError for a worker that would end when it is sent something of this program."""
        if workers:
            found = self._client.run(find_spec, _OURS, workers=list(workers), on_error="return")
            for worker, spec in found.items():
                if isinstance(spec, ImportError):
                    raise InputError(
                        f"--scheduler {brief(self._address)}: {worker} lacks {program()} ({spec})"
                    )
            self._known |= workers

    def submit(self, blocks: Sequence[Block]) -> Future[Measured]:
        size = -(-len(blocks) // FAN)
        parts = [blocks[start : start + size] for start in range(0, len(blocks), size)]
        own = [self._client.submit(self._run, part, retries=TRIES, pure=False) for part in parts]
        return self._executor.submit(merged_results, *own)


@contextmanager
def on_cluster(assignment: Assignment, address: str, note: Note) -> Iterator[Crew]:
    """A crew of a Dask cluster, by the address of its scheduler, which is trusted: its pickles can run code.

    Raises InputError where the package distributed is missing, nobody answers there or a worker lacks this
    program, and RunError where workers end again and again or the scheduler does.
    """
    check_installed("distributed", "--scheduler needs")
    from distributed import KilledWorker

    with _silent(), _connected(address) as client:
        executor = client.get_executor(retries=TRIES, pure=False)
        try:
            yield DaskCluster(assignment, client, executor, address, note)
        except KilledWorker as error:
            raise worker_lost(str(error)) from error
        except CancelledError as error:
            raise _gone(address) from error
        finally:
            executor.shutdown(wait=False)  # nobody needs any more what is running


def _connected(address: str) -> Any:
    """A client of the scheduler. Raises InputError where there is none, or none that answers in time."""
    import asyncio

    from distributed import Client

    connected: Any = Client  # typed in part, or not installed
    greeted, where = Future[None](), f"--scheduler {brief(address)}"
    Thread(target=_greet, args=(address, greeted), daemon=True).start()
    try:
        greeted.result()
        return connected(address, timeout=CONNECT)
    except asyncio.TimeoutError as error:
        raise InputError(f"{where}: no scheduler answers there within {CONNECT:.0f} s") from error
    except OSError as error:
        raise InputError(f"{where}: nobody answers there ({error})") from error
    except ValueError as error:
        raise InputError(f"{where}: expected an address like tcp://host:8786 ({error})") from error
    except Exception as error:  # of any kind, where the answer is no message of a scheduler
        raise InputError(f"{where}: found no scheduler there that Dask is configured for") from error


def _greet(address: str, greeted: Future[None]) -> None:
    """Shake hands with the scheduler, for which its client would wait without end. Runs in a thread of its
    own, as a notebook has a loop in the main thread."""
    import asyncio

    from distributed import Security
    from distributed.comm.core import connect

    async def greet() -> None:
        options = cast(Any, Security)().get_connection_args("client")
        greeting = cast(Any, connect)(address, timeout=CONNECT, **options)
        (await asyncio.wait_for(greeting, CONNECT + 0.5)).abort()

    try:
        greeted.set_result(asyncio.run(greet()))
    except BaseException as error:
        greeted.set_exception(error)


def _gone(address: str) -> RunError:
    return RunError(f"--scheduler {brief(address)}: it is gone")


@contextmanager
def _silent() -> Iterator[None]:
    """What the client logs while a connection is lost is said once, by an error."""
    logger = getLogger("distributed.client")
    before = logger.level
    logger.setLevel(CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
