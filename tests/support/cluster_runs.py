"""Run surveys on a Dask cluster of processes, and print the result of each case as JSON. This is a process of
its own, since distributed logs and warns of faults that are not ours.

    python tests/support/cluster_runs.py MODEL CORPUS
"""

import json
import os
import signal
import sys
import time
from hashlib import blake2b

from distributed import LocalCluster, WorkerPlugin
from support.surveyed_texts import small_survey

from microgpt_trace.errors import MicrogptError
from microgpt_trace.surveying import dask_cluster
from microgpt_trace.surveying.survey_files import survey_bytes


class WithoutPackage(WorkerPlugin):
    """A worker whose environment lacks this package."""

    def setup(self, worker):
        for name in [name for name in sys.modules if name.partition(".")[0] == "microgpt_trace"]:
            del sys.modules[name]
        sys.meta_path.insert(0, self)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "microgpt_trace":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def once(act):
    """Return a callback, for reports or notes, that calls `act` the first time only."""
    done = []
    return lambda *arguments: done or done.append(act())


def main(model, corpus):
    results = {}

    def case(name, report=lambda done, now: None, note=lambda text: None):
        notes, began = [], time.monotonic()
        callbacks = {"report": report, "note": lambda text: (notes.append(text), note(text))}
        try:
            survey = small_survey(model, corpus, scheduler=cluster.scheduler_address, **callbacks)
            results[name] = blake2b(survey_bytes(survey)).hexdigest(), notes
        except MicrogptError as error:
            results[name] = f"{type(error).__name__}: {error}", notes
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr)

    dask_cluster.ALONE, dask_cluster.CONNECT = 0.5, 2.0
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        case("killed", once(lambda: os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)))
        case("one joins late", once(lambda: cluster.scale(3)))
        with cluster.get_client() as client:
            client.register_plugin(WithoutPackage())
        case("lacking")
    with LocalCluster(n_workers=0, threads_per_worker=2, dashboard_address=None) as cluster:
        case("nobody at first", note=once(lambda: cluster.scale(1)))
        case("no scheduler any more", once(cluster.close))
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
