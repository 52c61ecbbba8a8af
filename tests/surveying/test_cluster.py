"""A survey on a Dask cluster has the bytes of one process, whatever happens to its workers."""

import json
import os
from hashlib import blake2b

import pytest
from support.commands import ROOT, process
from support.surveyed_texts import make_texts, small_survey, write_texts

from microgpt_trace.surveying.survey_files import survey_bytes

pytest.importorskip("distributed", reason="a cluster is one of the package distributed")
pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")
RUNS = "import runpy, sys; sys.argv[0] = sys.argv.pop(1); runpy.run_path(sys.argv[0], run_name='__main__')"
PATH = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))


@pytest.mark.sweep
def test_lost_and_late_workers_change_no_bit_and_are_reported(decoder_folder, tmp_path):
    model, corpus = str(decoder_folder()), write_texts(tmp_path / "texts.txt", make_texts(200))
    done = process(ROOT / "tests/support/cluster_runs.py", model, corpus, code=RUNS, PYTHONPATH=PATH)
    print(done.err)
    cases, whole = json.loads(done.out), blake2b(survey_bytes(small_survey(model, corpus))).hexdigest()
    assert cases["killed"] == cases["one joins late"] == [whole, []]
    content, (waits, threads) = cases["nobody at first"]
    assert content == whole
    assert waits.endswith("has no workers. The survey waits for a worker.")
    assert threads == "A worker computes on one core. Start workers with --nthreads 1."
    assert "lacks microgpt-trace" in cases["lacking"][0]
    assert cases["no scheduler any more"][0].endswith("the scheduler has ended")


SERVERS = """
import socket, threading
from support.commands import microgpt
from microgpt_trace.surveying import dask_cluster

def served(answer):
    server = socket.create_server(("127.0.0.1", 0))
    def serve():
        connections = [server.accept()[0]]
        connections[0].sendall(answer)
        threading.Event().wait()
    threading.Thread(target=serve, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"

dask_cluster.CONNECT = 0.6
http, number = b"HTTP/1.1 400 Bad Request\\r\\n" * 9, (8).to_bytes(8, "little")
for address in ("tls://127.0.0.1:1", *map(served, (b"", number + bytes(8) + http, http))):
    done = microgpt("survey", "--limit", "1", "--scheduler", address)
    print(done.code, done.err.replace(address, "ADDRESS"), end="")
"""


def test_refuses_other_servers_than_schedulers_in_time():
    done = process(code=SERVERS, PYTHONPATH=PATH)
    other = "expected a scheduler that Dask is configured for, found none"
    messages = [line.split(" (")[0].split("; ")[0] for line in done.out.splitlines()]
    expected = (other, "no scheduler answers there within 1 s", other, other)
    assert messages == [f"2 microgpt: --scheduler 'ADDRESS': {message}" for message in expected]
    assert done.err == ""
