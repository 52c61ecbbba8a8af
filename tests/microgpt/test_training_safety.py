"""`train` loses no work and nobody else's files: kills, full disks, two runs at once, wrong targets."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from attacks import kills
from support.commands import microgpt, refused
from support.sweeps import in_sweep

from microgpt_trace import init, save, train
from microgpt_trace.cli import training_run
from microgpt_trace.errors import RunError
from microgpt_trace.files import check_target, hold
from microgpt_trace.microgpt.checkpoint import load
from microgpt_trace.microgpt.documents import Documents
from microgpt_trace.microgpt.model import Schedule
from microgpt_trace.microgpt.training import Trainer

resource = pytest.importorskip("resource", reason="this system has no limits of a process to set")

NAMES = "emma\nolivia\nava\nisabella\nsophia\nmia\namelia\nharper\nevelyn\nabigail\n"


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.txt"
    path.write_text(NAMES)
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopped(data, steps=20, at=10, log=None, lr=0.01):
    """A checkpoint in the middle of a run, as an interrupted `train` leaves it."""
    from microgpt_trace.timeline.log_writing import TrainingLog

    names = data.read_text().split()
    fresh = init()
    trainer = Trainer(fresh, Documents.fit(names, fresh.tokenizer, 16), Schedule(steps, lr=lr))
    with TrainingLog(log, trainer, "emma", 5, append=False) as records:
        for record in trainer.run():
            if records:
                records.add(record)
            if record.step == at:
                break
    path = data.with_name(f"{trainer.run_id}.safetensors")
    save(trainer.model(str(path)), path)
    return path


# --- Kills ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3, in_sweep(20, whole=True)])
def test_kills_lose_nothing(tmp_path, count):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    kills.uninterrupted_run(whole, 750 * count)
    outcome = kills.killed_run(killed, count, seed=1, steps=750 * count)
    print(outcome)
    kills.check_equal(killed, whole)


def test_a_run_removes_what_a_killed_one_left(data, tmp_path):
    mine = [tmp_path / f".m.safetensors.{name}" for name in ("0123abcd.tmp", "lock")]
    others = [tmp_path / name for name in (".m.safetensors.x.tmp", ".n.safetensors.0123abcd.tmp", "m.tmp")]
    for path in (*mine, *others):
        path.write_bytes(b"x")
    assert microgpt(f"train --steps 2 --data {data} --out m.safetensors").code == 0
    assert [path.exists() for path in mine] == [False, False]
    assert all(path.exists() for path in others)


# --- Logs -------------------------------------------------------------------------------------


def steps_of(log):
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["step"] for line in lines if line["record"] == "step"]


def test_a_resumed_log_has_each_step_once(data, tmp_path):
    log = tmp_path / "log.jsonl"
    part = stopped(data, log=log)
    later = log.read_text().splitlines()[-1].replace('"step": 10', '"step": 11')
    log.write_text(f"{log.read_text()}{later}\n{later[:50]}")  # it was killed after its last save
    done = microgpt(f"train --resume {part} --data {data} --log {log}")
    assert (done.code, "no records" in done.err) == (0, False), done.err
    assert steps_of(log) == list(range(1, 21))


def test_a_checkpoint_is_saved_after_the_log_of_its_steps(data, tmp_path, monkeypatch):
    """A kill seldom comes in the milliseconds between the two, so the order is looked at itself."""
    whole, log, seen = training_run.save, tmp_path / "log.jsonl", []

    def look(model, path):
        seen.append((model.training.step, steps_of(log)))
        whole(model, path)

    monkeypatch.setattr(training_run, "save", look)
    assert microgpt(f"train --steps 5 --data {data} --autosave 0 --log {log}").code == 0
    assert seen == [(step, list(range(1, step + 1))) for step in range(1, 6)]


def test_a_log_without_some_steps_is_said_to_lack_them(data, tmp_path):
    log = tmp_path / "log.jsonl"
    part = stopped(data, log=log)
    whole = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in whole if json.loads(line).get("step", 0) < 8))
    done = microgpt(f"train --resume {part} --data {data} --log {log}")
    assert f"{log} has no records of steps 8 to 10" in done.err


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize(("theirs", "same"), [({}, False), ({"lr": 0.02}, False), (None, True)])
def test_the_log_of_another_run_is_left_alone(data, tmp_path, theirs, same, older):
    """Older logs and checkpoints have no id of the run: what tells runs apart there is how they train."""
    log = tmp_path / "log.jsonl"
    part = stopped(data, log=log)
    if theirs is not None:
        part = stopped(data, at=5, **theirs)
    if older:
        log.write_text(log.read_text().replace('"run_id"', '"of_old"'))
        same = theirs != {"lr": 0.02}
    before = log.read_bytes()
    done = microgpt(f"train --resume {part} --data {data} --log {log}")
    print(done.err)
    assert (done.code == 0) == same
    if not same:
        refused(done, "the log of another run")
        assert log.read_bytes() == before


def test_a_text_is_no_log_to_go_on_with(data, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("keep me\n")
    refused(microgpt(f"train --resume {stopped(data)} --data {data} --log {log}"), "log of a training run")
    assert log.read_text() == "keep me\n"


# --- Targets ----------------------------------------------------------------------------------


def test_two_runs_do_not_write_one_file(data, tmp_path):
    script = "import sys, pathlib, microgpt_trace.files as files\n"
    script += "with files.hold(pathlib.Path(sys.argv[1])): print(flush=True), input()"
    environment = {**os.environ, "PYTHONPATH": str(kills.ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "m"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as other:
        other.stdout.readline()
        command = f"train --steps 2 --data {data}"
        refused(microgpt(f"{command} --out m"), "m: another run is writing it")
        refused(microgpt(f"{command} --log m"), "m: another run is writing it")
        other.kill()
        other.wait()
        assert microgpt(f"{command} --log m").code == 0
    with hold(tmp_path / "m"):
        assert (tmp_path / ".m.lock").exists()
    assert not (tmp_path / ".m.lock").exists()


def test_a_file_system_without_locks_keeps_nobody_from_training(data, tmp_path, monkeypatch):
    def none(self):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fasteners.InterProcessLock.trylock", none)
    assert microgpt(f"train --steps 2 --data {data}").code == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_loop_of_links_is_no_target(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(RunError, match="cannot write"):
        save(init(), tmp_path / "loop")


def model_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "model.gguf").write_bytes(b"GGUF and more")
    (tmp_path / "notes.txt").write_text("notes")
    save(init(), tmp_path / "old.safetensors")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("--out data.txt", "--data reads it"),
        ("--log data.txt", "--data reads it"),
        ("--out model.gguf", "a model is there"),
        ("--log model.gguf", "a model is there"),
        ("--out model/model.safetensors", "a model is there"),
        ("--out model/new.safetensors", "a model is there"),
        ("--log model/config.json", "a model is there"),
        ("--out notes.txt", "this is none"),
        ("--log notes.txt", "expected the log"),
        ("--log old.safetensors", "expected the log"),
        ("--out -", "expected the name of a file"),
        ("--log -", "expected the name of a file"),
        ("--log microgpt.safetensors", "the checkpoint is to be written there"),
    ],
)
def test_force_overwrites_checkpoints_and_logs_alone(data, tmp_path, options, word):
    model_folder(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused(microgpt(f"train --steps 2 --data {data} --force {options}"), word)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_force_overwrites_checkpoints_and_logs(data, tmp_path):
    command = f"train --steps 2 --data {data} --out m.safetensors --log log.jsonl"
    assert microgpt(command).code == 0
    refused(microgpt(command), "exists already")
    assert microgpt(f"{command} --force").code == 0


# --- Disks and streams ------------------------------------------------------------------------


def process(*arguments, limit=None, **streams):
    """A run in a process of its own, which may write files up to a limit."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-m", "microgpt_trace", *map(str, arguments)], encoding="utf-8", timeout=60,
        env={**os.environ, "PYTHONPATH": str(kills.ROOT)}, preexec_fn=limited if limit else None,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams,
    )  # fmt: skip


def test_a_log_that_finds_no_room_ends_the_run_and_the_checkpoint_is_saved(data, tmp_path):
    done = process("train", "--steps", 5000, "--data", data, "--log", "log.jsonl", limit=100_000)
    print(done.stderr)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "microgpt: log.jsonl: cannot write the log (File too large)"
    step = load("microgpt.safetensors").training.step
    assert 0 < step < 5000
    done = process("train", "--resume", "microgpt.safetensors", "--data", data, "--log", "log.jsonl")
    assert done.returncode == 0
    assert steps_of(tmp_path / "log.jsonl")[-1] == 5000


def test_a_checkpoint_that_finds_no_room_names_its_file(data, tmp_path):
    done = process("train", "--steps", 20, "--data", data, limit=10_000)
    assert done.returncode == 1
    assert "microgpt: microgpt.safetensors: cannot write (File too large)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["data.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_notes_that_cannot_be_written_cost_nothing(data):
    with Path("/dev/full").open("w") as full:
        done = process("train", "--steps", 200, "--data", data, stderr=full)
    assert done.returncode == 0
    assert "held out" in done.stdout
    assert load("microgpt.safetensors").training.step == 200


def test_an_autosave_that_fails_is_tried_again(data, monkeypatch):
    whole, failures = training_run.save, iter([RunError("no room")])

    def unreliable(model, path):
        for failure in failures:
            raise failure
        whole(model, path)

    monkeypatch.setattr(training_run, "save", unreliable)
    done = microgpt(f"train --steps 5 --data {data} --autosave 0")
    assert done.code == 0
    assert "step 1 was not saved: no room" in done.err
    assert load("microgpt.safetensors").training.step == 5


def test_it_saves_as_often_as_the_clock_says(data, monkeypatch):
    saved, seconds = [], iter(range(1000))
    monkeypatch.setattr(training_run, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(training_run, "_save", lambda trainer, *_: saved.append(trainer.done))
    assert microgpt(f"train --steps 10 --data {data} --autosave 3").code == 0
    print(saved)
    assert saved == [3, 6, 9, 10]  # a look at the clock takes a second


# --- The library ------------------------------------------------------------------------------


def test_who_is_told_of_a_step_keeps_their_own_handling_of_errors(data):
    with np.errstate(all="raise"):
        before, seen = np.geterr(), []
        train(steps=3, data=data, on_step=lambda record: seen.append(np.geterr()))
        assert seen == [before] * 3
        trainers = [
            Trainer(init(), Documents.fit(NAMES.split(), init().tokenizer, 16), Schedule(3)) for _ in range(2)
        ]
        runs = [trainer.run() for trainer in trainers]
        for run in (*runs, *runs):
            next(run)
        runs[0].close()
        assert np.geterr() == before


def test_a_target_keeps_who_may_read_it(tmp_path):
    path = tmp_path / "m.safetensors"
    save(init(), path)
    for mode in (0o600, 0o640):
        path.chmod(mode)
        save(init(), path)
        assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["名" * 84, "n" * 255, "é" * 127])
def test_the_longest_names_can_be_written(tmp_path, name):
    save(init(), tmp_path / name)
    check_target(tmp_path / name, overwrite=True)
    with hold(tmp_path / name):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_empty_name_can_be_watched(data, tmp_path):
    log = tmp_path / "log.jsonl"
    assert microgpt("train", "--steps", 2, "--data", data, "--log", log, "--watch", "").code == 0
    assert json.loads(log.read_text().splitlines()[0])["watched"] == ""


# --- What is refused, said and allowed --------------------------------------------------------


def test_a_fork_that_drops_records_says_so(data, tmp_path):
    """The same run, gone on with from an earlier checkpoint and the log of the later one."""
    log = tmp_path / "log.jsonl"
    part = stopped(data, log=log)
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(part.read_bytes())
    assert microgpt(f"train --resume {part} --data {data} --log {log}").code == 0
    done = microgpt(f"train --resume {copy} --data {data} --log {log} --out other.safetensors")
    assert f"{log}: dropped 10 records of steps after 10, which the run takes again" in done.err
    assert steps_of(log) == list(range(1, 21))


def test_a_log_that_another_program_wrote_anew_is_gone_on_with(data, tmp_path):
    log = tmp_path / "log.jsonl"
    part = stopped(data, log=log)
    compact = [json.dumps(json.loads(line), separators=(",", ":")) for line in log.read_text().splitlines()]
    log.write_text("\n".join(compact) + "\n")
    assert microgpt(f"train --resume {part} --data {data} --log {log}").code == 0


@pytest.mark.parametrize("content", ['{"name": "my web app"}', '{"compilerOptions": {}}'])
def test_the_config_of_another_program_keeps_nobody_from_training(data, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert microgpt(f"train --steps 2 --data {data}").code == 0


@pytest.mark.parametrize("content", ['{"model_type": "llama"}', '{"architectures": []}', "{cut"])
def test_the_folder_of_a_model_gets_no_checkpoint(data, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    refused(microgpt(f"train --steps 2 --data {data}"), "a model is there")


def test_an_autosave_needs_a_clock():
    refused(microgpt("train --autosave nan"), "--autosave: expected a number", "'nan'")


def signalled(monkeypatch, at):
    """A signal within the step after `at`, and the clock two seconds on at each look."""
    whole, seconds = Trainer._step, iter(range(0, 10**6, 2))

    def step(self, number):
        if number in at:
            signal.raise_signal(signal.SIGTERM)
        return whole(self, number)

    monkeypatch.setattr(Trainer, "_step", step)
    monkeypatch.setattr(training_run, "monotonic", lambda: next(seconds))


def test_a_signal_in_the_last_step_changes_nothing(data, monkeypatch, default_signals):
    signalled(monkeypatch, at=[4])
    done = microgpt(f"train --steps 5 --data {data}")
    assert (done.code, "interrupted" in done.err) == (0, False)
    assert "held out" in done.out


def test_a_second_signal_ends_a_step_that_does_not_end(data, monkeypatch, default_signals):
    signalled(monkeypatch, at=[1])
    whole = Trainer._step

    def endless(self, number):
        whole(self, number)
        while True:
            signal.raise_signal(signal.SIGTERM)

    assert microgpt(f"train --steps 5 --data {data} --out a").code == 130
    assert load("a").training.step == 2
    monkeypatch.setattr(Trainer, "_step", endless)
    assert microgpt(f"train --steps 5 --data {data} --out b").code == 130
    assert not Path("b").exists()


def test_a_log_of_what_is_infinite_warns_of_nothing(data):
    """The figures of a step are made where no handling of errors is set."""
    trainer = Trainer(init(), Documents.fit(NAMES.split(), init().tokenizer, 16), Schedule(3))
    next(trainer.run())
    trainer.adam.update.flat[:3] = trainer.adam.params.flat[:3] = np.inf
    trainer.adam.grads.flat[:] = 1e30
    with np.errstate(all="raise"):
        assert np.isnan(trainer.adam.update_ratio())
        assert trainer.adam.gradient_norm() > 1e30
