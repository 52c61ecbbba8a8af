"""microgpt train"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..files import OwnFile, hold
from ..readers.loading import format_of, is_model
from ..text.printable import quoted
from ..timeline.log import is_log
from .common_options import DEFAULT_CHECKPOINT, HelpPanel, Vocab
from .option_groups import flag, group, option
from .output import check_apart, check_file, note


@group("Training")
class Training:
    """The data, and the schedule of the optimizer."""

    data: Path | None = option(
        "Text file with one name per line.", show_default="the names.txt of this package"
    )
    steps: int | None = option("Number of Adam steps.", min=1, show_default="5000")
    batch_size: int | None = option("Number of names per step.", min=1, show_default="1")
    lr: float | None = option("Initial learning rate, which falls to 0 during training.", show_default="0.01")
    seed: int | None = option(
        "Seed of the initial weights and of the order of the names.", min=0, show_default="42"
    )


@group("Model size")
class Shape:
    """The vocabulary and the dimensions of a new model."""

    vocab: Vocab | None = option("Characters: a to z, or all characters in the data.", show_default="a-z")
    n_layer: int | None = option("Number of layers.", min=1, show_default="1")
    n_embd: int | None = option("Width of the residual stream.", min=1, show_default="16")
    n_head: int | None = option("Number of attention heads per layer.", min=1, show_default="4")
    block_size: int | None = option(
        "Number of positions. A name has at most one character less.", min=1, show_default="16"
    )


@group(HelpPanel.SAVING)
class Checkpoint:
    """The checkpoint, and when to save it."""

    out: Path | None = option("Checkpoint to write.", show_default=str(DEFAULT_CHECKPOINT))
    resume: Path | None = option("Resume a checkpoint. The result equals an uninterrupted run bit for bit.")
    force: bool = flag("Overwrite an existing checkpoint or log.")
    autosave: float = option(
        "Time between saves of the checkpoint.", default=30.0, min=0.0, metavar="SECONDS"
    )

    @property
    def target(self) -> Path:
        return self.out or self.resume or DEFAULT_CHECKPOINT


@group("Training log")
class Record:
    """The log of the run."""

    log: Path | None = option("Write a JSON record of each step.", metavar="FILE.jsonl")
    trace_every: int | None = option("Add a trace to --log every N steps, for `microgpt timeline`.", min=1)
    watch: str | None = option("Name to trace and to report.", metavar="NAME", show_default="emma")


def train(*, training: Training, shape: Shape, checkpoint: Checkpoint, record: Record) -> None:
    """Train a microGPT on a file of names and save a checkpoint."""
    target, resume, log, data = checkpoint.target, checkpoint.resume, record.log, training.data
    schedule, dimensions = _options_given(training, but_for="data"), _options_given(shape, but_for="vocab")
    with ExitStack() as stack:
        _check_targets(target, log, data, resume, checkpoint.force)
        stack.enter_context(hold(target, *([] if log is None else [log])))
        # Check again, because from here on no other run can change the files.
        _check_targets(target, log, data, resume, checkpoint.force)
        file = OwnFile(target, checkpoint.force)
        from ..timeline.log_writing import TrainingLog
        from .training_run import new_trainer, resumed_trainer, train_and_report, watched_name

        if resume is not None:
            trainer = resumed_trainer(resume, schedule, dimensions, shape.vocab, data)
        else:
            trainer = new_trainer(schedule, dimensions, shape.vocab, data)
        watched = watched_name(trainer, record.watch, log if resume else None)
        every, resumes = record.trace_every, resume is not None
        records = None
        if log is not None:
            records = TrainingLog(log, trainer, watched, every, resumes, note, overwrite=checkpoint.force)
        train_and_report(trainer, file, watched, records, checkpoint.autosave)


EXAMPLES = (
    "microgpt train",
    "microgpt train --batch-size 32 --out big.safetensors --n-layer 2",
    "microgpt train --resume microgpt.safetensors",
    "microgpt train --log run.jsonl --trace-every 250",
)


def _options_given(options: Training | Shape, but_for: str) -> dict[str, Any]:
    """Return the options that the user gave as keyword arguments of Schedule or Config."""
    return {name: value for name, value in vars(options).items() if value is not None and name != but_for}


def _check_targets(
    target: Path, log: Path | None, data: Path | None, resume: Path | None, force: bool
) -> None:
    """Raise InputError if the checkpoint or the log would overwrite another file."""
    resumes_target = resume is not None and resume.exists() and target.exists() and target.samefile(resume)
    hint = f"--force overwrites the file, --resume {quoted(str(target))} continues the training"
    check_apart([("--out", target), ("--log", log)], [data])
    check_file("--out", target, force or resumes_target, hint, is_own=_is_checkpoint, own="a checkpoint")
    check_file("--log", log, force or resume is not None, is_own=is_log, own="the log of a training run")


def _is_checkpoint(path: Path) -> bool:
    try:
        return not path.stat().st_size or (is_model(path) and format_of(path) == "checkpoint")
    except FileFormatError:
        return False
