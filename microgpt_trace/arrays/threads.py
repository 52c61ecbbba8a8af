"""The number of threads of NumPy's BLAS, and the memory that the C library keeps for NumPy. Knows no
model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
KEPT = 31 << 20  # bytes; the limit of glibc is 32 MB
_alone = ContextVar("alone", default=False)


@contextmanager
def one_core() -> Iterator[None]:
    """Let this process use one core within the block, since other processes use the rest."""
    token = _alone.set(True)
    try:
        with one_blas_thread():
            yield
    finally:
        _alone.reset(token)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if _alone.get():
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_blas_thread() -> AbstractContextManager[Any]:
    """Keep the BLAS on one thread, unless an environment variable sets the number.

    In products of this size, threads mostly wait for each other: 8 tokens through SmolLM2 take 0.13 s on one
    thread, and 0.4 to 0.8 s on two.
    """
    if any(name in os.environ for name in VARIABLES):
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")


@cache
def keep_freed_memory() -> None:
    """Let the C library keep the memory that NumPy frees for later arrays, instead of returning it to the
    system.

    glibc keeps memory for blocks up to the size of the largest freed block, so this function allocates and
    frees a large one, which is never written. This saves half a million page faults: 256 tokens through
    SmolLM2 take 0.88 s instead of 1.05 s, and a training step at batch size 256 half the time.
    """
    import numpy as np  # not needed by --help, which must start fast

    np.empty(KEPT, np.uint8)
