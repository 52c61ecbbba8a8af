"""A file that appears while a command runs is kept, and the command writes its result beside it."""

import os
import signal
from pathlib import Path

import pytest
from support.commands import microgpt, process, start_process
from support.sweeps import some_of
from support.tiny_models import TOKENS

from microgpt_trace import load, read_survey, survey
from microgpt_trace.cli import training_run
from microgpt_trace.errors import RunError
from microgpt_trace.files import OwnFile, write_atomically, write_folder

IDS = ",".join(map(str, TOKENS))
FORCED = (
    "trace emma --save new.safetensors", "trace emma --out new.txt", "trace emma --html new.html",
    "trace emma --json --out new.json", "trace emma --plot probs=new.svg", "train --steps 2 --out new",
    "survey --limit 3 --out new.safetensors", "survey qwen2 pairs.txt --limit 2 --imatrix new.gguf",
    "explain layer0.attn.q[0,0] --html new.html", "explain layer0.attn.q[0,0] --plot new.png",
    "attribute emma --html new.html", "patch emma emmy --plot new.pdf", "timeline t.jsonl --html new.html",
    "diff one.safetensors two.safetensors emma --plot new.svg", "diagnose port qwen2 --html new.html",
)  # fmt: skip
NEVER_OVER = (
    "trace emma --save-aprt new", f"diff qwen2 port --tokens {IDS} --suggest-map --out new.toml",
    "patch emma emmy --json --out new.json",
)  # fmt: skip


@pytest.fixture
def place(results, tmp_path):
    for path in results.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def appears(monkeypatch, path, home=os, function="fsync"):
    """Let another program write the file while a function runs."""
    whole = getattr(home, function)

    def late(*arguments):
        if not path.exists():
            path.write_bytes(b"theirs")
        return whole(*arguments)

    monkeypatch.setattr(home, function, late)


def new_file(line, place):
    return place / next(word for word in line.replace("=", " ").split() if word.startswith("new"))


@pytest.mark.parametrize("line", some_of(FORCED + NEVER_OVER, every=2))
def test_keeps_a_file_that_appears_and_writes_beside_it(line, place, monkeypatch):
    path = new_file(line, place)
    kept = path.with_name(f"new.2{path.suffix}")
    appears(monkeypatch, path, *([os, "mkdir"] if "aprt" in line else []))
    done = microgpt(line, cwd=place)
    print(done.err)
    assert done.code == 1
    assert done.lines[-1].startswith(f"microgpt: {path.name}: another program wrote there during this run")
    assert done.lines[-1].endswith(f"; the result is in {kept.name}")
    assert path.read_bytes() == b"theirs"
    assert len(list(kept.iterdir()) if kept.is_dir() else kept.read_bytes()) > 1
    assert not list(place.glob(".*"))


@pytest.mark.parametrize("line", some_of(FORCED, every=4))
def test_force_overwrites_a_file_that_appears(line, place, monkeypatch):
    path = new_file(line, place)
    appears(monkeypatch, path)
    done = microgpt(f"{line} --force", cwd=place)
    assert "appeared" not in done.err
    assert path.read_bytes() != b"theirs"
    assert not list(place.glob("new.2*"))


def test_never_overwrites_a_log_that_appears(place, monkeypatch):
    appears(monkeypatch, place / "new.jsonl", training_run, "read_lines")
    done = microgpt("train --steps 2 --out a --log new.jsonl", cwd=place)
    assert (done.code, (place / "new.jsonl").read_text(), done.lines) == (
        1, "theirs", ["microgpt: new.jsonl: cannot write the log (File exists)"],
    )  # fmt: skip


def test_a_run_replaces_only_the_file_that_it_wrote(tmp_path):
    path, second = tmp_path / "a.x", tmp_path / "a.2.x"
    file = OwnFile(path)
    for content in (b"1", b"2"):
        file.write(content)
        assert path.read_bytes() == content
    file.check()
    path.write_bytes(b"theirs")
    for content in (b"3", b"4"):
        file.write(content)
        assert (path.read_bytes(), second.read_bytes()) == (b"theirs", content)
    with pytest.raises(RunError, match=r"a\.2\.x"):
        file.check()
    OwnFile(path).write(b"5")  # a run that goes on with a file
    assert path.read_bytes() == b"5"
    assert sorted(tmp_path.iterdir()) == [second, path]


def test_recognizes_its_own_file_of_any_size(tmp_path):
    path = tmp_path / "a.x"
    path.touch()
    os.truncate(path, 1 << 36)  # a sparse file, with nothing on the disk
    OwnFile(path).write(b"5")
    assert path.read_bytes() == b"5"


def test_a_training_that_wrote_beside_its_file_can_be_resumed(place, monkeypatch, default_signals):
    appears(monkeypatch, place / "new")
    monkeypatch.setattr(training_run.Trainer, "check_finite", lambda self: signal.raise_signal(signal.SIGINT))
    done = microgpt("train --steps 9 --autosave 0 --out new", cwd=place)
    assert (done.code, load(place / "new.2").training.step) == (130, 2)
    assert done.lines[-1].endswith("saved to new.2; continue with `microgpt train --resume new.2`")


def test_a_failed_survey_names_the_file_that_it_saved(tmp_path, emma, monkeypatch):
    (tmp_path / "names.txt").write_text("emma\n" * 20)
    appears(monkeypatch, tmp_path / "new")
    with pytest.raises(RunError, match=r"new\.2"):
        survey(emma, tmp_path / "names.txt", out=tmp_path / "new", report=lambda done, run: 1 / 0)
    assert read_survey(tmp_path / "new.2").blocks


def test_writes_files_on_a_file_system_without_links(tmp_path, monkeypatch):
    def none(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", none)
    for _ in range(2):
        with pytest.raises(RunError) if (tmp_path / "a.x").exists() else os.scandir(tmp_path):
            write_atomically(tmp_path / "a.x", b"whole")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(
        ["a.x", "a.2.x"], b"whole"
    )


@pytest.mark.parametrize("name", ["n" * 255, "é" * 125 + ".npz", ".hidden", "a"])
def test_finds_names_beside_long_hidden_and_linked_names(tmp_path, name):
    for path in (tmp_path / name, tmp_path / "link"):
        (tmp_path / name).write_bytes(b"theirs")
        (tmp_path / "link").exists() or (tmp_path / "link").symlink_to(name)
        with pytest.raises(RunError) as raised:
            write_atomically(path, b"ours")
        assert Path(str(raised.value).rpartition(" is in ")[2]).read_bytes() == b"ours"
        with pytest.raises(RunError), write_folder(path):
            pass


def test_three_concurrent_runs_lose_no_result(tmp_path):
    runs = [start_process("trace", name, "--save", "a.safetensors", cwd=tmp_path) for name in ("a", "b", "c")]
    said = [run.communicate(timeout=120)[1] for run in runs]
    print(said)
    codes = sorted(run.returncode for run in runs)
    if 2 in codes:  # one was through before another began
        assert codes == sorted([0, *codes[1:]])
    else:
        assert codes == [0, 1, 1]
    results = [path.read_bytes() for path in tmp_path.iterdir()]
    assert len(set(results)) == len(results) == 3 - codes.count(2)
    assert process("trace", "a", "--save", "a.safetensors", cwd=tmp_path).code == 2
