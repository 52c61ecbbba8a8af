"""A training run from its first step to the report: progress, saves, and how it is interrupted.

Loaded by a run alone, after what is asked of it was found to fit.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from ..errors import DivergedError, RunError
from ..interrupt import EXIT_CODE
from ..microgpt.checkpoint import save
from ..microgpt.sampling import sample
from ..render.terminal.training_progress import look_every, progress, stderr_screen
from ..render.training import Summary, summary_sections
from ..signals import handled, uninterrupted
from ..text.command_lines import command
from ..text.wording import counted
from ..tracing.trace import trace
from .output import note, show

if TYPE_CHECKING:
    from types import FrameType

    from ..files import OwnFile
    from ..microgpt.training import Trainer
    from ..render.terminal.training_progress import Report
    from ..timeline.log_writing import TrainingLog
    from ..tracing.result import Trace

SAMPLES = 20
PATIENCE = 1.0  # seconds: a wrapper may forward the Ctrl-C that the terminal sends as well


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


def train_and_report(trainer: Trainer, file: OwnFile, records: TrainingLog, autosave: float) -> None:
    """Train to the end, or to a signal, save, and print what came of it. Raises DivergedError, and RunError
    where something could not be written."""
    start, losses = trainer.done, list[float]()
    interrupts, failed = Interrupts(), list[RunError]()
    with ExitStack() as stack:
        stack.enter_context(handled(interrupts.remember))  # before there is a log
        stack.enter_context(records)
        for text in trainer.documents.notes:  # now that nothing is refused any more: a refusal is one line
            note(text)
        before = _measured(trainer, records.watched)
        began = monotonic()
        report = stack.enter_context(progress(trainer.schedule.steps, start, stderr_screen()))
        try:
            _steps(trainer, file, records, report, losses, interrupts, autosave)
        except DivergedError:
            raise
        except RunError as error:  # the log cannot be written: between two steps, so the run is whole
            failed.append(error)
        interrupts.held_back = True
        _save(trainer, file, records, failed)
    if failed:
        raise failed[0]
    if interrupts.times and trainer.done < trainer.schedule.steps:
        _end_interrupted(trainer, file.written)
    seconds = monotonic() - began
    _print_summary(trainer, file.written, start, losses, records.watched, before, seconds)
    file.check()


def _steps(
    trainer: Trainer, file: OwnFile, records: TrainingLog, report: Report, losses: list[float],
    interrupts: Interrupts, autosave: float,
) -> None:  # fmt: skip
    """Take the steps to the last one or the first signal; save when the clock says so."""
    total, saved, last = trainer.schedule.steps, 0, monotonic()
    look, write = look_every(total - trainer.done), records.add if records else None
    try:
        for record in trainer.run():
            step, loss, lr = record
            losses.append(loss)
            if write is not None:
                write(record)
            if interrupts.times:
                break
            if step % look == 0 or step == total:
                report(step, lr, losses)
            if monotonic() - last >= autosave and step < total:
                trainer.check_finite()
                saved = _autosave(trainer, file, records) or saved
                last = monotonic()
        trainer.check_finite()
    except DivergedError as error:
        untouched = f"{file.path} is as it was" if file.path.exists() else "no checkpoint was written"
        left = f"{file.written} holds step {saved:,}" if saved else untouched
        raise DivergedError(f"{error}; {left}") from error


def _autosave(trainer: Trainer, file: OwnFile, records: TrainingLog) -> int | None:
    """Save in the middle of the run, and the step if that went well: else there may be room again later."""
    failed: list[RunError] = []
    try:
        _save(trainer, file, records, failed)
    except RunError as error:
        failed.append(error)
        note(f"step {trainer.done:,} was not saved: {error}")
        return None
    if failed:
        raise failed[0]
    return trainer.done


def _save(trainer: Trainer, file: OwnFile, records: TrainingLog, failed: list[RunError]) -> None:
    """The log first: a checkpoint goes on with a log that has all of its steps. Raises RunError for the
    checkpoint; what keeps the log from the disk does not keep the checkpoint from it."""
    with uninterrupted():
        try:
            records.sync()
        except RunError as error:
            failed.append(error)
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
    return trainer.train_loss(), trainer.held_out_loss(), _trace(trainer, watched)


def _print_summary(
    trainer: Trainer, target: Path, start: int, losses: list[float], watched: str,
    before: tuple[float | None, float | None, Trace], seconds: float,
) -> None:  # fmt: skip
    after, steps = _measured(trainer, watched), trainer.schedule.steps - start
    summary = Summary(
        facts=_facts(trainer, start),
        losses=losses,
        train_loss=(before[0], after[0]),
        held_out_loss=(before[1], after[1]),
        watched=watched,
        targets=[target.label for target in after[2].targets],
        p_before=[target.p for target in before[2].targets],
        p_after=[target.p for target in after[2].targets],
        samples=_samples(trainer),
        closing=[
            ("time", f"{seconds:.2f} s for {counted(steps, 'step')}, {seconds / steps * 1e6:,.0f} µs a step"),
            ("checkpoint", str(target)),
        ],
        trace_it=command("trace", [watched], ["--model", str(target)]),
    )
    show(summary_sections(summary), None)


def _trace(trainer: Trainer, name: str) -> Trace:
    return trace(trainer.model("this run"), name, values=False)


def _samples(trainer: Trainer) -> list[tuple[str, bool]]:
    known = set(trainer.documents.names)
    drawn = sample(trainer.model("this run"), SAMPLES, seed=trainer.schedule.seed)
    return [(name, name in known) for name in drawn]


def _facts(trainer: Trainer, start: int) -> list[tuple[str, str]]:
    documents, schedule, config = trainer.documents, trainer.schedule, trainer.params.config
    layers, size = counted(config.n_layer, "layer"), counted(schedule.batch_size, "name")
    went = f"steps {start + 1:,} to {schedule.steps:,}" if start else counted(schedule.steps, "step")
    return [
        (
            "data",
            f"{counted(len(documents), 'name')}: {len(documents.train):,} to train on, "
            f"{len(documents.held_out):,} held out by a hash of the name",
        ),
        ("vocabulary", trainer.tokenizer.describe()),
        (
            "model",
            f"{config.parameter_count:,} parameters: {layers} of {config.n_head} heads, "
            f"width {config.n_embd}, block {config.block_size}",
        ),
        ("training", f"{went} of {size}, Adam, lr {schedule.lr:g} falling to 0, seed {schedule.seed}"),
    ]
