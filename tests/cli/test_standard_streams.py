"""A real process whose streams are closed, full or without a reader, and which receives signals."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from support.commands import microgpt, process, refused
from support.sweeps import some_of

from microgpt_trace import init, save
from microgpt_trace.cli.standard_streams import prepare
from microgpt_trace.errors import RunError
from microgpt_trace.files import write_atomically, write_folder
from microgpt_trace.signals import handled

pytest.importorskip("resource", reason="this system closes no streams by a shell's >&-")

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
MICROGPT = f"{sys.executable} -m microgpt_trace"


def shell(script, folder, **options):
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {script}"], cwd=folder, env=ENVIRONMENT, capture_output=True,
        encoding="utf-8", timeout=60, **options,
    )  # fmt: skip


CLOSED = "microgpt: cannot write the output (Bad file descriptor)\n"
FULL = CLOSED.replace("Bad file descriptor", "No space left on device")
SAVED = "saved 17 of 25 arrays to a.safetensors; --verbose saves 25\n"


@pytest.mark.parametrize(
    ("words", "streams", "code", "error", "files"),
    some_of([
        ("trace emma", ">&-", 1, CLOSED, []),
        ("--help", ">&-", 1, CLOSED, []),
        ("trace emma --save a.safetensors", ">&-", 1, f"{SAVED}{CLOSED}", ["a.safetensors"]),
        ("trace emma --json", ">&-", 1, CLOSED, []),
        ("trace emma --json", ">/dev/full", 1, FULL, []),
        ("trace José", ">&- 2>&-", 2, "", []),
        ("trace --json -v --values", "| true", 0, "", []),
        ("--help", "| true", 0, "", []),
        ("trace --json -v --values", "| head -c 5", 0, "", []),
        ("trace emma", "2>&1 | true", 0, "", []),
        ("trace emma --out t.txt --save a.safetensors", "2>&- >&- <&-", 0, "", ["a.safetensors", "t.txt"]),
        ("trace emma --out t.txt", ">&-", 0, "", ["t.txt"]),  # nothing was to go there
        ("trace José", "2>/dev/full", 2, "", []),
        ("trace José", "2>&-", 2, "", []),
        ("train --steps 3", ">&- 2>&-", 1, "", ["microgpt.safetensors"]),
        ("train --steps 3", "2>&-", 0, "", ["microgpt.safetensors"]),
        ("train --steps 3", "2>/dev/full", 0, "", ["microgpt.safetensors"]),
        ("train --steps 3000", "2>&1 >out | head -1", 0, "", ["microgpt.safetensors", "out"]),
        ("trace emma", ">/dev/full 2>/dev/full", 1, "", []),
        ("trace José", "2>&1 | true", 2, "", []),
    ], every=3),
)  # fmt: skip
def test_streams_that_are_closed_or_full_or_have_no_reader(words, streams, code, error, files, tmp_path):
    """Python by itself would exit with 120 if it cannot flush a stream."""
    result = shell(f"{MICROGPT} {words} {streams}", tmp_path)
    print(result.returncode, result.stderr)
    assert (result.returncode, result.stderr) == (code, error)
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_notes_for_a_closed_stderr_go_into_no_file(tmp_path):
    """Otherwise the first file to be opened would get the descriptor of stderr."""
    result = shell(f"{MICROGPT} trace EMMA --save a.safetensors 2>&-", tmp_path)
    assert result.returncode == 0
    assert load_file(tmp_path / "a.safetensors")["logits"].shape == (5, 27)


# --- Signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_delayed_until_a_file_is_written(number, tmp_path, monkeypatch, default_signals):
    """Two signals arrive while it is written. The file and the folder are complete."""
    path, folder, seen = tmp_path / "file", tmp_path / "folder", []
    before = signal.signal(number, lambda *_: seen.append(path.read_bytes()))
    flush = os.fsync

    def slow(descriptor):
        for _ in range(2):
            signal.raise_signal(number)
        assert not seen
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    try:
        write_atomically(path, b"whole")
        with write_folder(folder) as temporary:
            signal.raise_signal(number)
            (temporary / "one").write_bytes(b"1")
        assert (folder / "one").exists()
    finally:
        signal.signal(number, before)
    assert seen == [b"whole"] * 2
    assert sorted(tmp_path.iterdir()) == [path, folder]


def test_ctrl_c_during_a_write_interrupts_after_it(tmp_path, monkeypatch, default_signals):
    monkeypatch.setattr(os, "fsync", lambda _: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"whole")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"whole"]


def test_a_signal_does_not_hide_why_a_save_failed(tmp_path, monkeypatch, default_signals):
    def full(_):
        signal.raise_signal(signal.SIGHUP)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    seen = []
    with handled(lambda number, frame: seen.append(number)), pytest.raises(RunError, match="No space left"):
        write_atomically(tmp_path / "file", b"whole")
    assert (seen, list(tmp_path.iterdir())) == ([signal.SIGHUP], [])


AT_AN_IMPORT = """
import os, signal, sys
class Signalled:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ.get("MODULE"):
            signal.raise_signal(int(os.environ["NUMBER"]))
sys.meta_path.insert(0, Signalled())
"""


INT, TERM = signal.SIGINT, signal.SIGTERM
MOMENTS = [
    (INT, "trace emma", "microgpt_trace.cli"), (INT, "trace emma", "numpy.linalg"), (INT, "--help", "typer"),
    (INT, "trace emma --plot a.svg", "matplotlib.figure"), (TERM, "train --log log", "numpy"),
    (INT, "survey --out a", "fasteners"), (INT, "train --log log", "microgpt_trace.cli.training_run"),
    (INT, "train --resume a", "microgpt_trace.cli.train"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "words", "module"), some_of(MOMENTS, every=2))
def test_a_signal_during_imports_ends_silently_without_files(
    number, words, module, tmp_path, default_signals
):
    (tmp_path / "sitecustomize.py").write_text(AT_AN_IMPORT)
    place = tmp_path / "place"
    place.mkdir()
    path = os.pathsep.join(map(str, (tmp_path, ROOT)))
    done = process(*words.split(), cwd=place, PYTHONPATH=path, MODULE=module, NUMBER=str(int(number)))
    assert done == (130 if number == INT else -number, "", "")
    assert list(place.iterdir()) == []


def test_a_signal_that_the_caller_ignores_stays_ignored(default_signals):
    before, seen = signal.signal(signal.SIGHUP, signal.SIG_IGN), []
    try:
        with handled(lambda number, frame: seen.append(number)):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert seen == [signal.SIGTERM]


# --- Places that cannot be written ------------------------------------------------------------


def _as_others():
    """Drop root's right to write anywhere (Linux: PR_CAPBSET_DROP of CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


TARGETS = [
    "trace emma --save X", "trace emma --out X", "trace emma --save-aprt X", "train --steps 2 --out X",
    "train --steps 2 --log X", "inspect --out X", "diff M M --out X", "explain logits emma --out X",
    "attribute emma --out X", "patch emma emmy --out X", "timeline --schema --out X",
    "trace emma --validate --json --out X",
]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="takes root's rights as Linux has them")
@pytest.mark.parametrize("command", some_of(TARGETS, every=4))
def test_a_target_that_cannot_be_written_is_refused_before_the_work(command, tmp_path):
    shut, model = tmp_path / "shut", tmp_path / "m.safetensors"
    shut.mkdir(mode=0o555)
    save(init(), model)
    (tmp_path / "regular").write_text("a file")
    for target, word in ((shut / "new", "Permission denied"), (tmp_path / "regular" / "new", "folder")):
        words = [{"X": str(target), "M": str(model)}.get(word, word) for word in command.split()]
        result = subprocess.run(
            [sys.executable, "-m", "microgpt_trace", *words], cwd=tmp_path, env=ENVIRONMENT, encoding="utf-8",
            capture_output=True, timeout=60, preexec_fn=_as_others,
        )  # fmt: skip
        print(result.returncode, result.stderr)
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert word in result.stderr
    assert list(shut.iterdir()) == []


@pytest.mark.parametrize("command", ["trace emma --save -", "trace emma --save-aprt -", "train --log -"])
def test_refuses_a_dash_as_a_file_name(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(microgpt(command), "expected a file name")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["COLUMNS", "LINES", "TERMINAL_WIDTH"])
@pytest.mark.parametrize(
    ("given", "used"),
    [
        *((text, None) for text in ("", "0", "000", "-5", "abc", "8 0", "²", "1e3")),
        *(("1", "20"), ("84", "84"), ("0084", "84"), ("99999999", "1000"), ("9" * 5000, "1000")),
    ],
)
def test_limits_the_size_of_the_terminal_in_the_environment(name, given, used, monkeypatch):
    monkeypatch.setenv(name, given)
    prepare()
    assert os.environ.get(name) == used


@pytest.mark.parametrize("columns", ["0", "99999999"])
def test_wrong_widths_leave_help_readable(columns):
    done = process("--help", COLUMNS=columns, TERMINAL_WIDTH="abc")
    assert (done.code, done.err) == (0, "")
    assert "Show every number that a transformer computes." in done.out
    assert len(done.out) < 100_000


@pytest.mark.parametrize(
    ("line", "code", "files"),
    [
        ("trace small emma --out {}/a.txt", 0, ["a.txt"]),
        ("learn emma --out {}/a.html", 0, ["a.html"]),
        ("trace emma --save a.safetensors --out {}/a.txt", 2, []),
    ],
)
def test_writes_to_absolute_paths_from_a_deleted_folder(line, code, files, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    done = microgpt(line.format(tmp_path / "out"))
    assert done.code == code, done.err
    assert code == 0 or refused(done, "the current folder was deleted; change to another folder")
    assert [path.name for path in (tmp_path / "out").iterdir()] == files
