"""Check that `train` loses no work and touches no other files: kills, full disks, two runs at once."""

import errno
import json
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from attacks import kills
from support.commands import environment, microgpt, refused
from support.sweeps import in_sweep

from microgpt_trace import init, save, train
from microgpt_trace.cli import training_run
from microgpt_trace.errors import RunError
from microgpt_trace.files import check_target, hold
from microgpt_trace.microgpt.checkpoint import load
from microgpt_trace.microgpt.documents import Documents
from microgpt_trace.microgpt.model import Schedule
from microgpt_trace.microgpt.training import Trainer
from microgpt_trace.timeline.log_writing import TrainingLog

resource = pytest.importorskip("resource", reason="this system has no limits of a process to set")

LOG = Path("log.jsonl")
NAMES = "emma\nolivia\nava\nisabella\nsophia\nmia\namelia\nharper\nevelyn\nabigail\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Return the folder in which commands run. It has data.txt, and commands write log.jsonl."""
    monkeypatch.chdir(tmp_path)
    Path("data.txt").write_text(NAMES)
    return tmp_path


def training(options=""):
    return microgpt(f"train --data data.txt {options}")


def resumed(checkpoint, more=""):
    return training(f"--resume {checkpoint} --log {LOG} {more}")


def new_trainer(steps, lr=0.01):
    model = init()
    return Trainer(model, Documents.fit(NAMES.split(), model.tokenizer, 16), Schedule(steps, lr=lr))


def stopped(log=None, at=10, lr=0.01):
    """Return a checkpoint in the middle of a run of 20 steps, as an interrupted `train` leaves it."""
    trainer = new_trainer(20, lr)
    training_log = TrainingLog(log, trainer, "emma", 5, append=False) if log else nullcontext()
    with training_log as open_log:
        for record in trainer.run():
            if open_log is not None:
                open_log.add(record)
            if record.step == at:
                break
    path = Path(f"{trainer.run_id}.safetensors")
    save(trainer.model(str(path)), path)
    return path


@pytest.mark.parametrize("count", [2, in_sweep(20, whole=True)])
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(tmp_path, count):
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    uninterrupted.mkdir()
    killed.mkdir()
    kills.uninterrupted_run(uninterrupted, 500 * count)
    outcome = kills.killed_run(killed, count, seed=1, steps=500 * count)
    print(outcome)
    kills.check_equal(killed, uninterrupted)


def test_a_run_removes_the_temporary_files_of_a_killed_one():
    mine = [Path(f".m.safetensors.{name}") for name in ("0123abcd.tmp", "lock")]
    others = [Path(name) for name in (".m.safetensors.x.tmp", ".n.safetensors.0123abcd.tmp", "m.tmp")]
    for path in (*mine, *others):
        path.write_bytes(b"x")
    assert training("--steps 2 --out m.safetensors").code == 0
    assert [path.exists() for path in mine] == [False, False]
    assert all(path.exists() for path in others)


def steps_of():
    lines = [json.loads(line) for line in LOG.read_text().splitlines()]
    return [line["step"] for line in lines if line["record"] == "step"]


def test_a_resumed_log_has_each_step_once():
    checkpoint = stopped(LOG)
    later = LOG.read_text().splitlines()[-1].replace('"step": 10', '"step": 11')
    LOG.write_text(f"{LOG.read_text()}{later}\n{later[:50]}")  # as if killed after its last save
    done = resumed(checkpoint)
    assert (done.code, "no records" in done.err) == (0, False), done.err
    assert steps_of() == list(range(1, 21))


def test_a_checkpoint_is_saved_after_the_log_of_its_steps(monkeypatch):
    """A kill in the milliseconds between the two is rare, so this test observes their order."""
    save_original, seen = training_run.save, []

    def save_observed(model, path):
        seen.append((model.training.step, steps_of()))
        save_original(model, path)

    monkeypatch.setattr(training_run, "save", save_observed)
    assert training(f"--steps 5 --autosave 0 --log {LOG}").code == 0
    assert seen == [(step, list(range(1, step + 1))) for step in range(1, 6)]


def test_a_note_names_steps_that_the_log_lacks():
    checkpoint = stopped(LOG)
    lines = LOG.read_text().splitlines(keepends=True)
    LOG.write_text("".join(line for line in lines if json.loads(line).get("step", 0) < 8))
    done = resumed(checkpoint)
    assert f"{LOG} has no records of steps 8 to 10" in done.err


@pytest.mark.parametrize(
    ("theirs", "older", "same"),
    [(None, False, True), ({}, False, False), ({}, True, True), ({"lr": 0.02}, True, False)],
    ids=["the same run", "another run", "an older log", "an older log with another rate"],
)
def test_resume_does_not_touch_the_log_of_another_run(theirs, older, same):
    """Older logs have no run id, so their schedule tells whether they belong to the run."""
    checkpoint = stopped(LOG)
    if theirs is not None:
        checkpoint = stopped(at=5, **theirs)
    if older:
        LOG.write_text(LOG.read_text().replace('"run_id"', '"unknown"'))
    before, done = LOG.read_bytes(), resumed(checkpoint)
    print(done.err)
    assert (done.code == 0) == same
    if not same:
        refused(done, "the log of another run")
        assert LOG.read_bytes() == before


def test_rejects_a_text_file_in_place_of_a_log():
    LOG.write_text("keep me\n")
    refused(resumed(stopped()), "log of a training run")
    assert LOG.read_text() == "keep me\n"


def test_two_runs_cannot_write_the_same_file():
    script = "import sys, pathlib, microgpt_trace.files as files\n"
    script += "with files.hold(pathlib.Path(sys.argv[1])): print(flush=True), input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script, "m"], env=environment(), **pipes) as other:
        other.stdout.readline()
        refused(training("--steps 2 --out m"), "m: another run is writing it")
        refused(training("--steps 2 --log m"), "m: another run is writing it")
        other.kill()
        other.wait()
        assert training("--steps 2 --log m").code == 0
    with hold(Path("m")):
        assert Path(".m.lock").exists()
    assert not Path(".m.lock").exists()


def test_trains_on_a_file_system_without_locks(monkeypatch):
    def trylock(self):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fasteners.InterProcessLock.trylock", trylock)
    assert training("--steps 2").code == 0
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_rejects_a_symbolic_link_to_itself(tmp_path):
    (Path() / "loop").symlink_to(Path() / "loop")
    with pytest.raises(RunError, match="cannot write"):
        save(init(), Path() / "loop")


def files():
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--out data.txt", "this command reads the file"),
        ("--log data.txt", "this command reads the file"),
        ("--out model.gguf", "this would write into a model"),
        ("--log model.gguf", "this would write into a model"),
        ("--out model/model.safetensors", "this would write into a model"),
        ("--out model/new.safetensors", "this would write into a model"),
        ("--log model/config.json", "this would write into a model"),
        ("--out notes.txt", "expected a checkpoint, which may be overwritten"),
        ("--log notes.txt", "expected the log"),
        ("--log old.safetensors", "expected the log"),
        ("--out -", "expected a file name"),
        ("--log microgpt.safetensors", "--out and --log both name"),
    ],
)
def test_force_overwrites_no_files_but_checkpoints_and_logs(options, message):
    Path("model").mkdir()
    Path("model/config.json").write_text("{}")
    Path("model/model.safetensors").write_bytes(b"weights")
    Path("model.gguf").write_bytes(b"GGUF and more")
    Path("notes.txt").write_text("notes")
    save(init(), Path("old.safetensors"))
    before = files()
    refused(training(f"--steps 2 --force {options}"), message)
    assert files() == before


def test_force_overwrites_checkpoints_and_logs():
    options = "--steps 2 --out m.safetensors --log log.jsonl"
    assert training(options).code == 0
    refused(training(options), "exists already")
    assert training(f"{options} --force").code == 0


def process(options, limit):
    """Run `train` in a new process that can write files of at most `limit` bytes."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "microgpt_trace", "train", "--data", "data.txt", *options.split()]
    return subprocess.run(
        command, capture_output=True, encoding="utf-8", timeout=60, preexec_fn=limited, env=environment()
    )


def test_a_full_disk_for_the_log_ends_the_run_after_saving_the_checkpoint():
    done = process("--steps 1500 --log log.jsonl", limit=100_000)
    print(done.stderr)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "microgpt: log.jsonl: cannot write the log (File too large)"
    assert 0 < load("microgpt.safetensors").training.step < 1500
    assert resumed("microgpt.safetensors").code == 0
    assert steps_of()[-1] == 1500


def test_the_error_names_a_checkpoint_that_does_not_fit_the_disk():
    done = process("--steps 20", limit=10_000)
    assert done.returncode == 1
    assert "microgpt: microgpt.safetensors: cannot write (File too large)" in done.stderr
    assert [*Path().iterdir()] == [Path("data.txt")]


def test_a_failed_autosave_is_tried_again(monkeypatch):
    save_original, failures = training_run.save, iter([RunError("no room")])

    def unreliable_save(model, path):
        for failure in failures:
            raise failure
        save_original(model, path)

    monkeypatch.setattr(training_run, "save", unreliable_save)
    done = training("--steps 5 --autosave 0")
    assert done.code == 0
    assert "step 1 was not saved: no room" in done.err
    assert load("microgpt.safetensors").training.step == 5


def test_saves_at_the_interval_of_autosave(monkeypatch):
    saved, seconds = [], iter(range(1000))
    monkeypatch.setattr(training_run, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(training_run, "_save", lambda trainer, *_: saved.append(trainer.done))
    assert training("--steps 10 --autosave 3").code == 0
    print(saved)
    assert saved == [3, 6, 9, 10]  # the fake clock advances one second per reading


def test_training_does_not_change_the_error_handling_of_its_caller():
    with np.errstate(all="raise"):
        before, seen = np.geterr(), []
        train(steps=3, data="data.txt", on_step=lambda record: seen.append(np.geterr()))
        assert seen == [before] * 3
        runs = [new_trainer(3).run() for _ in range(2)]
        for run in (*runs, *runs):
            next(run)
        runs[0].close()
        assert np.geterr() == before


def test_saving_keeps_the_permissions_of_a_file(tmp_path):
    path = Path() / "m.safetensors"
    save(init(), path)
    for mode in (0o600, 0o640):
        path.chmod(mode)
        save(init(), path)
        assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["名" * 84, "n" * 255], ids=["wide", "narrow"])
def test_saves_files_with_the_longest_names(name):
    save(init(), Path(name))
    check_target(Path(name), overwrite=True)
    with hold(Path(name)):
        pass
    assert sorted(Path().iterdir()) == [Path("data.txt"), Path(name)]


def test_a_log_can_watch_the_empty_name():
    assert training(f"--steps 2 --log {LOG} --watch ''").code == 0
    assert json.loads(LOG.read_text().splitlines()[0])["watched"] == ""


def test_resuming_from_an_earlier_checkpoint_reports_the_dropped_records():
    checkpoint = stopped(LOG)
    copy = Path("copy.safetensors")
    copy.write_bytes(checkpoint.read_bytes())
    assert resumed(checkpoint).code == 0
    done = resumed(copy, "--out other.safetensors")
    assert f"{LOG}: dropped 10 records of steps after 10, which the run repeats" in done.err
    assert steps_of() == list(range(1, 21))


def test_resumes_with_a_log_that_another_program_reformatted():
    checkpoint = stopped(LOG)
    compact = [json.dumps(json.loads(line), separators=(",", ":")) for line in LOG.read_text().splitlines()]
    LOG.write_text("\n".join(compact) + "\n")
    assert resumed(checkpoint).code == 0


@pytest.mark.parametrize("content", ['{"model_type": "llama"}', '{"architectures": []}', "{cut"])
def test_saves_no_checkpoint_into_the_folder_of_a_model(content):
    Path("config.json").write_text(content)
    refused(training("--steps 2"), "this would write into a model")
    Path("config.json").write_text('{"name": "my web app"}')  # the config.json of another program
    assert training("--steps 2").code == 0


def signalled(monkeypatch, at):
    """Raise a signal in the steps `at`, counted from 0, and let the clock advance two seconds per reading."""
    original, seconds = Trainer._step, iter(range(0, 10**6, 2))

    def step(self, number):
        if number in at:
            signal.raise_signal(signal.SIGTERM)
        return original(self, number)

    monkeypatch.setattr(Trainer, "_step", step)
    monkeypatch.setattr(training_run, "monotonic", lambda: next(seconds))


def test_a_signal_in_the_last_step_changes_nothing(monkeypatch, default_signals):
    signalled(monkeypatch, at=[4])
    done = training("--steps 5")
    assert (done.code, "interrupted" in done.err) == (0, False)
    assert "held out" in done.out


def test_a_second_signal_ends_a_step_that_hangs(monkeypatch, default_signals):
    signalled(monkeypatch, at=[1])
    original = Trainer._step

    def endless(self, number):
        original(self, number)
        while True:
            signal.raise_signal(signal.SIGTERM)

    assert training("--steps 5 --out a").code == 130
    assert load("a").training.step == 2
    monkeypatch.setattr(Trainer, "_step", endless)
    assert training("--steps 5 --out b").code == 130
    assert not Path("b").exists()


def test_the_norms_of_infinite_values_give_no_warning():
    trainer = new_trainer(3)
    next(trainer.run())
    trainer.adam.update.flat[:3] = trainer.adam.params.flat[:3] = np.inf
    trainer.adam.grads.flat[:] = 1e30
    with np.errstate(all="raise"):
        assert np.isnan(trainer.adam.update_ratio())
        assert trainer.adam.gradient_norm() > 1e30
