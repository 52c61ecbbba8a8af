"""Measures microgpt-trace beside its peers: python benchmarks/bench.py [step|batch|process|learning|all]

step      CPU time of one Adam step on one name, ours as `Trainer.run()` does it
batch     tokens per second at 256 names a step, the preparation of the batch included
process   whole commands: wall time, CPU time and peak memory
learning  held-out loss after 5,000 steps, and how near PyTorch comes from the same start

Contenders take turns, so that a noisy moment hits all alike, and the best of several turns counts.
Everything but `process` runs on one core. A peer that is not installed is skipped and named.
"""

from __future__ import annotations

import argparse
import os

ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}
MEASUREMENTS = ("process", "step", "batch", "learning")


def stay_on_one_core() -> None:
    """One thread in every library that is imported from here on, and one core where that can be said."""
    os.environ.update(ONE_THREAD)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def run(measurement: str, all_seeds: bool) -> None:
    """Import late: `process` must be measured from a process that is still small."""
    if measurement == "process":
        import processes

        processes.report()
        return
    stay_on_one_core()
    if measurement == "learning":
        import learning

        learning.report(all_seeds)
        return
    import speed

    speed.report_step() if measurement == "step" else speed.report_batch()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measurement", nargs="?", default="all", choices=(*MEASUREMENTS, "all"))
    parser.add_argument("--all-seeds", action="store_true", help="learning: PyTorch on all five seeds too")
    options = parser.parse_args()
    chosen = MEASUREMENTS if options.measurement == "all" else (options.measurement,)
    for measurement in chosen:
        run(measurement, options.all_seeds)


if __name__ == "__main__":
    main()
