"""Runs `microgpt train`: creates or loads a Trainer, runs the training steps, saves, and prints the report.

This module is loaded only by a training run, after the options have been checked.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from ..errors import DivergedError, FileFormatError, InputError, RunError
from ..files import OwnFile
from ..interrupt import EXIT_CODE
from ..microgpt.checkpoint import load, save
from ..microgpt.documents import Documents, default_data, read_lines
from ..microgpt.model import Schedule, init
from ..microgpt.parameters import Config
from ..microgpt.sampling import sample
from ..microgpt.tokenizer import Tokenizer
from ..microgpt.training import Trainer
from ..render.results.timeline_sections import RunMeasures, summary_sections
from ..signals import handled, uninterrupted
from ..text.printable import command
from ..text.wording import counted
from ..timeline.log import watched_before
from ..timeline.log_writing import LogError, TrainingLog
from ..tracing.trace import trace
from .common_options import Vocab
from .output import note, show
from .progress_line import rewritten_line

WATCHED = "emma"
SAMPLES = 20
WINDOW = 100  # the progress line shows the mean loss of this many last steps
SILENT_SHARE = 0.25  # smallest share of ReLU units that are always 0 for the summary to advise a smaller --lr
SAFE_LR = 0.005  # at this rate, at most a tenth of the units of small models were dead after 5,000 steps
ENOUGH_NAMES = 100  # smallest number of held-out names; a unit that works can be 0 for fewer names
PATIENCE = 1.0  # ignore a second signal for this many seconds: a wrapper may repeat the first Ctrl-C


def new_trainer(
    options: dict[str, Any], dimensions: dict[str, int], vocab: Vocab | None, data: Path | None
) -> Trainer:
    """Return the Trainer of a new model. Raises FileFormatError if no name of the data fits the model."""
    schedule = Schedule(**options)
    path = data or default_data()
    lines = read_lines(path)
    tokenizer = _tokenizer(vocab, lines)
    config = Config(vocab_size=tokenizer.vocab_size, **dimensions)
    hint = "" if vocab == "data" else "--vocab data uses the characters of the data"
    documents = Documents.fit(lines, tokenizer, config.block_size, hint)
    if not len(documents):
        reasons = "; ".join(documents.notes)
        raise FileFormatError(f"{path}: none of its {counted(len(lines), 'line')} fits the model: {reasons}")
    return Trainer(init(config, seed=schedule.seed, tokenizer=tokenizer), documents, schedule)


def resumed_trainer(
    path: Path, options: dict[str, Any], dimensions: dict[str, int], vocab: Vocab | None, data: Path | None
) -> Trainer:
    """Return the Trainer of a checkpoint. Raises InputError for an option that contradicts the checkpoint."""
    model = load(path)
    state = model.training
    if state is None or state.moments is None:
        raise FileFormatError(f"{path}: expected a training state to resume, found only weights")
    stored = vars(state.schedule) | vars(model.config)
    for name, value in (options | dimensions).items():
        if value != stored[name]:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {value} contradicts {path}, which has {stored[name]}")
    if state.step >= state.schedule.steps:
        raise InputError(f"{path}: training is complete at step {state.step:,}; nothing is left to resume")
    lines = read_lines(data or default_data())
    if vocab is not None and _tokenizer(vocab, lines) != model.tokenizer:
        chars = model.tokenizer.describe_chars()
        raise InputError(f"--vocab {vocab} contradicts {path}, whose characters are {chars}")
    documents = Documents.fit(lines, model.tokenizer, model.config.block_size)
    if documents.fingerprint != state.data:
        raise InputError(
            f"{path} was trained on other data: expected the hash {state.data}, found "
            f"{documents.fingerprint}; name the data of the checkpoint with --data"
        )
    return Trainer(model, documents, state.schedule)


def _tokenizer(vocab: Vocab | None, lines: list[str]) -> Tokenizer:
    return Tokenizer.of(line.strip() for line in lines) if vocab == "data" else Tokenizer()


def watched_name(trainer: Trainer, name: str | None, log: Path | None) -> str:
    """Return the name to trace and to show in the report. The default is the name in the log of a resumed
    run. Without a log, the default is emma, or the first name of the data if the model cannot read emma.
    Raises InputError if the model cannot read `name`."""
    if name is None and log is not None:
        name = watched_before(log)
    if name is not None:
        return trainer.model("this run").read(name).text
    names = trainer.documents.names
    fits = set(WATCHED) <= set(trainer.tokenizer.chars) and len(WATCHED) < trainer.params.config.block_size
    return WATCHED if fits else names[0]


class Interrupts:
    """Remembers signals that ask the run to stop (Ctrl-C, a shutdown, a closed terminal). After a signal, the
    run stops between two steps, because a run that stops within a step cannot be resumed bit for bit.

    A second signal after PATIENCE seconds stops the run within the step, unless the run is being saved.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.saving = False

    def remember(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        now = monotonic()
        again = self.times and now - self.times[0] > PATIENCE
        if again and not self.saving:
            raise KeyboardInterrupt
        self.times.append(now)


def train_and_report(
    trainer: Trainer, file: OwnFile, watched: str, records: TrainingLog | None, autosave: float
) -> None:
    """Train to the last step or a signal, save, and print the report. Raises DivergedError if the training
    diverges, and RunError if a file cannot be written."""
    start, losses, interrupts = trainer.done, list[float](), Interrupts()
    failed: LogError | None = None
    with ExitStack() as stack:
        stack.enter_context(handled(interrupts.remember))  # a signal must not interrupt the opening of a log
        if records is not None:
            stack.enter_context(records)
        # Print the notes after the log is open, since a refused run must print only an error.
        for text in trainer.documents.notes:
            note(text)
        before = _measured(trainer, watched)
        start_time = monotonic()
        report = stack.enter_context(rewritten_line())
        try:
            _steps(trainer, file, records, report, losses, interrupts, autosave)
        except LogError as error:  # raised between two steps, so the checkpoint can be saved
            failed = error
        interrupts.saving = True
        _save(trainer, file, records)
    if failed is not None:
        raise failed
    if interrupts.times and trainer.done < trainer.schedule.steps:
        again = command("train", (), ["--resume", str(file.written)])
        note(
            f"interrupted at step {trainer.done:,} of {trainer.schedule.steps:,}: saved to {file.written}; "
            f"continue with `{again}`"
        )
        raise SystemExit(EXIT_CODE)
    seconds = monotonic() - start_time
    _print_summary(trainer, file.written, start, losses, watched, before, seconds)
    file.check()


def _steps(
    trainer: Trainer, file: OwnFile, records: TrainingLog | None, report: Callable[[Callable[[], str]], None],
    losses: list[float], interrupts: Interrupts, autosave: float,
) -> None:  # fmt: skip
    """Train until the last step or the first signal, and save every `autosave` seconds."""
    total, saved, last = trainer.schedule.steps, 0, monotonic()
    start_time, write = last, None if records is None else records.add

    def line() -> str:
        """Return the progress line, with the mean of the last losses."""
        recent, speed = losses[-WINDOW:], len(losses) / (monotonic() - start_time)
        mean = sum(recent) / len(recent)
        return f"step {step:,} of {total:,}: loss {mean:.3f}, lr {lr:.4g}, {speed:,.0f} steps per second"

    try:
        for record in trainer.run():
            step, loss, lr = record
            losses.append(loss)
            if write is not None:
                write(record)
            if interrupts.times:
                break
            report(line)
            if monotonic() - last >= autosave and step < total:
                trainer.check_finite()
                saved = _autosave(trainer, file, records) or saved
                last = monotonic()
        trainer.check_finite()
    except DivergedError as error:
        unsaved = f"{file.path} is unchanged" if file.path.exists() else "no checkpoint was written"
        state = f"{file.written} contains step {saved:,}" if saved else unsaved
        raise DivergedError(f"{error}; {state}") from error


def _autosave(trainer: Trainer, file: OwnFile, records: TrainingLog | None) -> int | None:
    """Save, and return the number of the step. If saving fails, print a note and return None."""
    try:
        _save(trainer, file, records)
    except LogError:
        raise
    except RunError as error:
        note(f"step {trainer.done:,} was not saved: {error}")
        return None
    return trainer.done


def _save(trainer: Trainer, file: OwnFile, records: TrainingLog | None) -> None:
    """Save the log, then the checkpoint, because a checkpoint needs a log with all of its steps. The
    checkpoint is saved even if the log cannot be written. Raises LogError if only the log cannot be written,
    and RunError if the checkpoint cannot be written."""
    with uninterrupted():
        try:
            if records is not None:
                records.sync()
        finally:
            save(trainer.model(str(file.path)), file)


def _measured(trainer: Trainer, watched: str) -> RunMeasures:
    traced = trace(trainer.model("this run"), watched, values=False)
    return RunMeasures(trainer.train_loss(), *trainer.held_out_loss_and_dead_units(), traced)


def _print_summary(
    trainer: Trainer, target: Path, start: int, losses: list[float], watched: str,
    before: RunMeasures, seconds: float,
) -> None:  # fmt: skip
    after, steps = _measured(trainer, watched), trainer.schedule.steps - start
    closing = [
        ("time", f"{seconds:.2f} s for {counted(steps, 'step')}, {seconds / steps * 1e6:,.0f} µs per step"),
        ("checkpoint", str(target)),
    ]
    trace_it = command("trace", [watched], ["--model", str(target)])
    names = sample(trainer.model("this run"), SAMPLES, seed=trainer.schedule.seed)
    data = set(trainer.documents.names)
    samples = [(name, name in data) for name in names]
    facts, advice = _facts(trainer, start), _advice(trainer, after.dead_units)
    show(summary_sections(facts, losses, before, after, advice, samples, closing, trace_it), None)


def _advice(trainer: Trainer, dead_units: list[list[int]] | None) -> str:
    """Return what to try if many ReLU units are dead, or "". The advice is not a larger batch: in three runs
    each at the rate 0.02, batches of 1 name left 81 units dead, and batches of 8 names left 114."""
    held_out, config = len(trainer.documents.held_out), trainer.params.config
    dead, units = sum(map(len, dead_units or ())), config.n_layer * config.n_inner
    if held_out < ENOUGH_NAMES or dead < SILENT_SHARE * units:
        return ""
    smaller = min(SAFE_LR, trainer.schedule.lr / 2)
    return (
        f"{dead:,} of {units:,} ReLU units are 0 at every position of the {held_out:,} held-out names. "
        f"Try a smaller --lr, such as {smaller:g}."
    )


def _facts(trainer: Trainer, start: int) -> list[tuple[str, str]]:
    documents, schedule, config = trainer.documents, trainer.schedule, trainer.params.config
    layers, size = counted(config.n_layer, "layer"), counted(schedule.batch_size, "name")
    steps = f"steps {start + 1:,} to {schedule.steps:,}" if start else counted(schedule.steps, "step")
    data = (
        f"{counted(len(documents), 'name')}: {len(documents.train):,} to train on, "
        f"{len(documents.held_out):,} held out by a hash of the name"
    )
    shape = (
        f"{config.parameter_count:,} parameters: {layers} of {config.n_head} heads, "
        f"width {config.n_embd}, block {config.block_size}"
    )
    training = f"{steps} of {size}, Adam, lr {schedule.lr:g} falling to 0, seed {schedule.seed}"
    vocabulary = trainer.tokenizer.describe()
    return [("data", data), ("vocabulary", vocabulary), ("model", shape), ("training", training)]
