"""How many threads the BLAS under NumPy uses, and what memory the C library keeps for it. Knows no model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
KEPT = 31 << 20  # bytes; glibc's limit is 32 MB
_alone = ContextVar("alone", default=False)


@contextmanager
def one_core() -> Iterator[None]:
    """Within, this process counts on one core: others have the rest."""
    token = _alone.set(True)
    try:
        with one_blas_thread():
            yield
    finally:
        _alone.reset(token)


def available_cores() -> int:
    """How many cores this process may use."""
    if _alone.get():
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def one_blas_thread() -> AbstractContextManager[Any]:
    """Keep the BLAS on one thread, unless the environment says how many.

    Products of this size mostly wait for other threads: 8 tokens through SmolLM2 take 0.13 s on one
    thread and 0.4 to 0.8 on two.
    """
    if any(name in os.environ for name in VARIABLES):
        return nullcontext()
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")


@cache
def keep_freed_memory() -> None:
    """Have the C library keep what NumPy frees for the arrays to come, instead of giving it back.

    glibc takes blocks as large as the largest one freed so far from memory that it keeps; this one is
    never touched. 256 tokens through SmolLM2 then take 0.88 s, not 1.05: half a million page faults; a
    training step at batch 256 takes half the time.
    """
    import numpy as np  # which --help does without

    np.empty(KEPT, np.uint8)
