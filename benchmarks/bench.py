"""Measures microgpt-trace beside its peers: python benchmarks/bench.py [process|training|learning|all]

process   whole commands: wall time, CPU time and peak memory
training  time of one Adam step beside numba, JAX, PyTorch and plain Python: CPU time on one core with
          one thread each, or with --all-cores wall time with every library's own threads
learning  held-out loss after 5,000 steps, and how near PyTorch comes from the same start

Contenders take turns, so that a noisy moment hits all alike. A peer first shows that it reaches our losses
and parameters, and compiles before the clock runs. One that is not installed is skipped and named.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
}
MEASUREMENTS = ("process", "training", "learning")


def stay_on_one_core() -> None:
    """One thread in every library that is imported from here on, and one core where that can be said."""
    os.environ.update(ONE_THREAD)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    else:
        print("This system cannot hold a process to one core: CPU time is that of all threads.\n")


def run(measurement: str, options: argparse.Namespace) -> None:
    """Import late: `process` must be measured from a process that is still small."""
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

    with one_blas_thread():  # of NumPy, as training has it; the peers are imported after
        if options.all_cores:
            speed.report(time.perf_counter, f"wall time, {available_cores()} cores")
        else:
            speed.report(time.process_time, "CPU time, one core")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measurement", nargs="?", default="all", choices=(*MEASUREMENTS, "all"))
    parser.add_argument(
        "--all-cores", action="store_true", help="training: leave cores and threads as they are"
    )
    parser.add_argument("--all-seeds", action="store_true", help="learning: PyTorch on all five seeds too")
    options = parser.parse_args()
    chosen = MEASUREMENTS if options.measurement == "all" else (options.measurement,)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # compile anew, and leave nothing
        for measurement in chosen:
            run(measurement, options)


if __name__ == "__main__":
    main()
