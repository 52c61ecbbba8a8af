"""`microgpt survey` with workers, pipes and signals, and its progress line."""

import gzip
import io
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from support.commands import PROGRAM, environment, microgpt, process, refused, start_process
from support.surveyed_texts import make_texts, write_texts
from support.sweeps import in_sweep

from microgpt_trace.cli.progress_line import progress, rated_progress
from microgpt_trace.surveying.survey_files import read_survey, survey_bytes

pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")


@pytest.fixture(scope="module")
def asked(decoder_folder, tmp_path_factory):
    """A model, a corpus of 4 blocks, and the file of the survey by one process."""
    folder = tmp_path_factory.mktemp("surveyed")
    texts = write_texts(folder / "texts.txt", make_texts(125))
    words = [str(decoder_folder()), texts, "--events", "*.residual"]
    whole = folder / "whole.survey.safetensors"
    done = microgpt("survey", *words, "--out", whole)
    assert (done.code, done.err) == (0, "")
    return words, whole


def test_refuses_a_scheduler_without_an_address(asked):
    pytest.importorskip("distributed")
    said = "--scheduler 'nobody': expected an address like tcp://host:8786"
    assert said in refused(process("survey", *asked[0], "--scheduler", "nobody"))


def test_workers_do_not_read_standard_input(asked, tmp_path):
    """The reader of the output has closed its end as well."""
    (model, corpus, *events), whole = asked
    out = tmp_path / "a.survey.safetensors"
    words = [sys.executable, "-m", "microgpt_trace", "survey", model, "-", *events, "--workers", "2", "--out"]
    reader, writer = os.pipe()
    os.close(reader)
    with Path(corpus).open("rb") as file:
        done = subprocess.run(
            [*words, out], stdin=file, stdout=writer, stderr=subprocess.PIPE, env=environment(), timeout=60
        )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
    found, expected = read_survey(out), read_survey(whole)
    assert found.corpus.fingerprint == expected.corpus.fingerprint
    found.corpus, found.unfit = expected.corpus, expected.unfit  # which tell that they come from a file
    assert survey_bytes(found) == whole.read_bytes()


def nobody_is_left(group):
    """Return True if all processes of a group end within 20 seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
@pytest.mark.parametrize(("workers", "number"), [
    (0, signal.SIGTERM), in_sweep((2, signal.SIGINT)), in_sweep((2, signal.SIGKILL)),
])  # fmt: skip
def test_a_survey_ended_by_a_signal_can_be_resumed(asked, tmp_path, number, workers):
    """The signal goes to the whole group of processes, as from a terminal or a batch system."""
    (model, _, *events), _ = asked
    texts = write_texts(tmp_path / "texts.txt", make_texts(400))
    words = ["survey", model, texts, *events, "--workers", str(workers), "--out"]
    out, whole = tmp_path / "a.survey.safetensors", tmp_path / "b.survey.safetensors"
    assert microgpt("survey", model, texts, *events, "--out", whole).code == 0
    running = start_process(*words, out, start_new_session=True)
    until = time.monotonic() + 60
    while not out.exists() and time.monotonic() < until:
        time.sleep(0.01)
    os.killpg(running.pid, number)
    _, said = running.communicate(timeout=60)
    print(said)
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert running.returncode == 130
        assert said.splitlines()[-1].startswith(f"interrupted: {out} contains ")
    assert nobody_is_left(running.pid)
    assert microgpt("survey", model, texts, *events, "--out", out, "--resume").code == 0
    assert out.read_bytes() == whole.read_bytes()


def terminal(monkeypatch, is_one=True):
    """Replace stderr by one that gets every progress line, and return a function for these lines."""
    for name in ("PATIENCE", "AGAIN"):
        monkeypatch.setattr(f"microgpt_trace.cli.progress_line.{name}", -1.0)
    stream = io.StringIO()
    stream.isatty = lambda: is_one
    monkeypatch.setattr("sys.stderr", stream)
    return lambda: [line.strip() for line in stream.getvalue().split("\r") if line.strip()]


def test_the_rate_counts_the_texts_of_this_run(monkeypatch):
    shown = terminal(monkeypatch)
    now = iter([0.0, 0.0, 10.0, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0])
    monkeypatch.setattr("microgpt_trace.cli.progress_line.monotonic", lambda: next(now))
    with rated_progress("text", lambda: 2000) as (report, _):
        report(1050, 50)
    assert shown() == ["text 1,050 of 2,000, 5.0 per second, 0:03:10 left"]


@pytest.mark.parametrize("name", ["blank.txt.gz", "blank.jsonl.gz"])
def test_progress_counts_bytes_if_the_number_of_texts_is_unknown(tmp_path, monkeypatch, name):
    """Blank lines are not counted in advance."""
    text = b"emma" if "txt" in name else b'{"text": "emma"}'
    blank = b" " * ((1 << 10) - 1) + b"\n"
    (tmp_path / name).write_bytes(gzip.compress(blank * (5 << 10) + text, 1))
    shown = terminal(monkeypatch)
    with redirect_stdout(io.StringIO()):
        PROGRAM(["survey", str(tmp_path / name)], standalone_mode=False)
    expected = [f"text 0, 0.0 per second, {read} MB read" for read in (1, 2, 3, 4, 5)]
    assert [line for line in expected if line in shown()] == expected
    assert max(int(line.split()[-3]) for line in shown() if line.endswith("MB read")) == 5


def test_shows_no_progress_without_a_terminal(monkeypatch):
    shown = terminal(monkeypatch, is_one=False)
    with rated_progress("text", lambda: 2000) as (report, reading), progress("layer") as layers:
        report(1, 5)
        layers(1, 5)
        reading(1 << 30)
    assert shown() == []
