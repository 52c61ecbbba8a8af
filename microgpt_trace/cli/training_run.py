"""A training run: the Trainer that the command line asks for, new or from a checkpoint, then from its first
step to the report: progress, saves, and how it is interrupted.

Loaded by a run alone, after what is asked of it was found to fit.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import DivergedError, FileFormatError, InputError, RunError
from ..interrupt import EXIT_CODE
from ..microgpt.checkpoint import load, save
from ..microgpt.documents import Documents, default_data, read_lines
from ..microgpt.model import Schedule, init
from ..microgpt.parameters import Config
from ..microgpt.sampling import sample
from ..microgpt.tokenizer import Tokenizer
from ..microgpt.training import Trainer
from ..render.results.timeline import summary_sections
from ..signals import handled, uninterrupted
from ..text.printable import command
from ..text.wording import counted
from ..timeline.log import watched_before
from ..timeline.log_writing import LogError
from ..tracing.trace import trace
from .options import Vocab
from .output import note, show
from .progress import rewritten_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from ..files import OwnFile
    from ..timeline.log_writing import TrainingLog
    from ..tracing.result import Trace

WATCHED = "emma"
SAMPLES = 20
SMOOTHED = 100  # losses whose mean is shown
PATIENCE = 1.0  # seconds: a wrapper may forward the Ctrl-C that the terminal sends as well


def new_trainer(
    asked: dict[str, Any], dimensions: dict[str, int], vocab: Vocab | None, data: Path | None
) -> Trainer:
    """One that begins with the names of the data. Raises FileFormatError where none fits the model."""
    schedule = Schedule(**asked)
    path = data or default_data()
    lines = read_lines(path)
    tokenizer = _tokenizer(vocab, lines)
    config = Config(vocab_size=tokenizer.vocab_size, **dimensions)
    hint = "" if vocab == "data" else "--vocab data takes the characters of the data"
    documents = Documents.fit(lines, tokenizer, config.block_size, hint)
    if not len(documents):
        why = "; ".join(documents.notes)
        raise FileFormatError(f"{path}: none of its {counted(len(lines), 'line')} fits the model: {why}")
    return Trainer(init(config, seed=schedule.seed, tokenizer=tokenizer), documents, schedule)


def resumed_trainer(
    path: Path, asked: dict[str, Any], dimensions: dict[str, int], vocab: Vocab | None, data: Path | None
) -> Trainer:
    """One that goes on with a checkpoint. Raises InputError for what contradicts it."""
    model = load(path)
    state = model.training
    if state is None or state.moments is None:
        raise FileFormatError(f"{path}: holds weights but no training state to resume")
    stored = vars(state.schedule) | vars(model.config)
    for name, value in (asked | dimensions).items():
        if value != stored[name]:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {value} contradicts {path}, which says {stored[name]}")
    if state.step >= state.schedule.steps:
        raise InputError(f"{path}: stands at its last step, {state.step:,}; nothing is left to resume")
    lines = read_lines(data or default_data())
    if vocab is not None and _tokenizer(vocab, lines) != model.tokenizer:
        said = model.tokenizer.describe_chars()
        raise InputError(f"--vocab {vocab} contradicts {path}, whose characters are {said}")
    documents = Documents.fit(lines, model.tokenizer, model.config.block_size)
    if documents.fingerprint != state.data:
        raise InputError(
            f"{path} was trained on other data: expected {state.data}, found {documents.fingerprint}"
        )
    return Trainer(model, documents, state.schedule)


def _tokenizer(vocab: Vocab | None, lines: list[str]) -> Tokenizer:
    return Tokenizer.of(line.strip() for line in lines) if vocab == "data" else Tokenizer()


def watched_name(trainer: Trainer, asked: str | None, log: Path | None) -> str:
    """The name whose probabilities are shown: the one asked for, that of a log that is gone on with, emma, or
    the first of the data that can be written. Raises InputError for one that does not fit."""
    if asked is None and log is not None:
        asked = watched_before(log)
    if asked is not None:
        return trainer.model("this run").read(asked).text
    names = trainer.documents.names
    fits = set(WATCHED) <= set(trainer.tokenizer.chars) and len(WATCHED) < trainer.params.config.block_size
    return WATCHED if fits else names[0]


class Interrupts:
    """Lets a signal that asks to end (Ctrl-C, a shutdown, a terminal that closes) end the run between two
    steps: a step half taken could not be resumed bit for bit.

    A second one a while later interrupts the step, unless it is held back because the run is saved.
    """

    def __init__(self) -> None:
        self.times: list[float] = []
        self.held_back = False

    def remember(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        now = monotonic()
        again = self.times and now - self.times[0] > PATIENCE
        if again and not self.held_back:
            raise KeyboardInterrupt
        self.times.append(now)


def train_and_report(
    trainer: Trainer, file: OwnFile, watched: str, records: TrainingLog | None, autosave: float
) -> None:
    """Train to the end, or to a signal, save, and print what came of it. Raises DivergedError, and RunError
    where something could not be written."""
    start, losses, interrupts = trainer.done, list[float](), Interrupts()
    failed: LogError | None = None
    with ExitStack() as stack:
        stack.enter_context(handled(interrupts.remember))  # before there is a log
        if records is not None:
            stack.enter_context(records)
        for text in trainer.documents.notes:  # now that nothing is refused any more: a refusal is one line
            note(text)
        before = _measured(trainer, watched)
        began = monotonic()
        report = stack.enter_context(rewritten_line())
        try:
            _steps(trainer, file, records, report, losses, interrupts, autosave)
        except LogError as error:  # between two steps, so the run is whole
            failed = error
        interrupts.held_back = True
        _save(trainer, file, records)
    if failed is not None:
        raise failed
    if interrupts.times and trainer.done < trainer.schedule.steps:
        _end_interrupted(trainer, file.written)
    seconds = monotonic() - began
    _print_summary(trainer, file.written, start, losses, watched, before, seconds)
    file.check()


def _steps(
    trainer: Trainer, file: OwnFile, records: TrainingLog | None, report: Callable[[Callable[[], str]], None],
    losses: list[float], interrupts: Interrupts, autosave: float,
) -> None:  # fmt: skip
    """Take the steps to the last one or the first signal; save when the clock says so."""
    total, saved, last = trainer.schedule.steps, 0, monotonic()
    began, write = last, None if records is None else records.add

    def line() -> str:
        """How far the run has come: the mean of the last losses, and how fast it goes on."""
        recent, speed = losses[-SMOOTHED:], len(losses) / (monotonic() - began)
        told = f"loss {sum(recent) / len(recent):.3f}, lr {lr:.4g}, {speed:,.0f} steps a second"
        return f"step {step:,} of {total:,}: {told}"

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
        untouched = f"{file.path} is as it was" if file.path.exists() else "no checkpoint was written"
        left = f"{file.written} holds step {saved:,}" if saved else untouched
        raise DivergedError(f"{error}; {left}") from error


def _autosave(trainer: Trainer, file: OwnFile, records: TrainingLog | None) -> int | None:
    """Save in the middle of the run, and the step if that went well: else there may be room again later."""
    try:
        _save(trainer, file, records)
    except LogError:
        raise
    except RunError as error:
        note(f"step {trainer.done:,} was not saved: {error}")
        return None
    return trainer.done


def _save(trainer: Trainer, file: OwnFile, records: TrainingLog | None) -> None:
    """The log first: a checkpoint goes on with a log that has all of its steps. Raises RunError for the
    checkpoint, else LogError: what keeps the log from the disk does not keep the checkpoint from it."""
    with uninterrupted():
        try:
            if records is not None:
                records.sync()
        finally:
            save(trainer.model(str(file.path)), file)


def _end_interrupted(trainer: Trainer, target: Path) -> NoReturn:
    again = command("train", (), ["--resume", str(target)])
    note(
        f"interrupted at step {trainer.done:,} of {trainer.schedule.steps:,}: saved to {target}; "
        f"`{again}` goes on"
    )
    raise SystemExit(EXIT_CODE)


def _measured(trainer: Trainer, watched: str) -> tuple[float | None, float | None, Trace]:
    """Loss of training and held-out names, and a trace of the watched one."""
    traced = trace(trainer.model("this run"), watched, values=False)
    return trainer.train_loss(), trainer.held_out_loss(), traced


def _print_summary(
    trainer: Trainer, target: Path, start: int, losses: list[float], watched: str,
    before: tuple[float | None, float | None, Trace], seconds: float,
) -> None:  # fmt: skip
    after, steps = _measured(trainer, watched), trainer.schedule.steps - start
    closing = [
        ("time", f"{seconds:.2f} s for {counted(steps, 'step')}, {seconds / steps * 1e6:,.0f} µs a step"),
        ("checkpoint", str(target)),
    ]
    trace_it = command("trace", [watched], ["--model", str(target)])
    drawn = sample(trainer.model("this run"), SAMPLES, seed=trainer.schedule.seed)
    known = set(trainer.documents.names)
    samples = [(name, name in known) for name in drawn]
    show(summary_sections(_facts(trainer, start), losses, before, after, samples, closing, trace_it), None)


def _facts(trainer: Trainer, start: int) -> list[tuple[str, str]]:
    documents, schedule, config = trainer.documents, trainer.schedule, trainer.params.config
    layers, size = counted(config.n_layer, "layer"), counted(schedule.batch_size, "name")
    went = f"steps {start + 1:,} to {schedule.steps:,}" if start else counted(schedule.steps, "step")
    data = (
        f"{counted(len(documents), 'name')}: {len(documents.train):,} to train on, "
        f"{len(documents.held_out):,} held out by a hash of the name"
    )
    shape = (
        f"{config.parameter_count:,} parameters: {layers} of {config.n_head} heads, "
        f"width {config.n_embd}, block {config.block_size}"
    )
    course = f"{went} of {size}, Adam, lr {schedule.lr:g} falling to 0, seed {schedule.seed}"
    vocabulary = trainer.tokenizer.describe()
    return [("data", data), ("vocabulary", vocabulary), ("model", shape), ("training", course)]
