"""Compare microgpt-trace with other libraries: python benchmarks/bench.py [process|training|learning|all]

process   Measure the wall time, CPU time and peak memory of whole commands.
training  Measure the time of one Adam step beside numba, JAX, PyTorch and plain Python. The result is CPU
          time on one core with one thread each. With --all-cores it is wall time, and each library chooses
          its number of threads.
learning  Compare the held-out loss after 5,000 steps with that of PyTorch from the same initial values.

Contenders take turns, so that noise affects all of them equally. A library must reach our losses and
parameters before it is timed. It compiles before the clock starts. A library that is not installed is
skipped.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")
MEASUREMENTS = ("process", "training", "learning")


def stay_on_one_core() -> None:
    """Limit libraries that are imported later to one thread, and this process to one core if possible."""
    os.environ.update(ONE_THREAD)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    else:
        print("This system cannot limit a process to one core. CPU times are the sum over all threads.\n")


def run(measurement: str, options: argparse.Namespace) -> None:
    """Import late: the peak memory of a child starts from the memory of this process."""
    if measurement == "process":
        import processes

        processes.report()
        return
    if not options.all_cores:
        stay_on_one_core()
    if measurement == "learning":
        import learning

        learning.report(options.all_seeds)
        return
    import speed

    from microgpt_trace.arrays.threads import available_cores, one_blas_thread

    with one_blas_thread():  # for NumPy, as in training; the other libraries are imported later
        if options.all_cores:
            speed.report(time.perf_counter, f"wall time, {available_cores()} cores")
        else:
            speed.report(time.process_time, "CPU time, one core")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measurement", nargs="?", default="all", choices=(*MEASUREMENTS, "all"))
    parser.add_argument("--all-cores", action="store_true", help="training: do not limit cores and threads")
    parser.add_argument("--all-seeds", action="store_true", help="learning: train PyTorch on all five seeds")
    options = parser.parse_args()
    chosen = MEASUREMENTS if options.measurement == "all" else (options.measurement,)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # compile again, and leave no files
        for measurement in chosen:
            run(measurement, options)


if __name__ == "__main__":
    main()
