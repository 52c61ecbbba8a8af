"""microgpt train"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..files import OwnFile, hold
from ..readers.loading import format_of, is_model
from ..text.printable import quoted
from ..timeline.log import is_log
from .option_groups import flag, group, option
from .options import DEFAULT_CHECKPOINT, Vocab
from .output import check_apart, check_file, note


@group()
class Lessons:
    """What is learned, and how."""

    steps: int | None = option(help="Adam steps.", min=1, show_default="5000")
    data: Path | None = option(help="One name a line.", metavar="FILE", show_default="the packaged names.txt")
    batch_size: int | None = option(help="Names a step.", min=1, show_default="1")
    lr: float | None = option(help="First learning rate.", show_default="0.01")
    seed: int | None = option(help="Of weights and order.", min=0, show_default="42")


@group()
class Checkpoint:
    """Where the model goes, and when."""

    out: Path | None = option(help="The checkpoint.", metavar="FILE", show_default=str(DEFAULT_CHECKPOINT))
    resume: Path | None = option(help="Go on with this checkpoint, bit for bit.", metavar="FILE")
    force: bool = flag("--force", help="Overwrite an existing checkpoint or log.")
    autosave: float = option(
        default=30.0, help="Seconds between two saves of the checkpoint.", min=0.0, metavar="SECONDS"
    )

    @property
    def target(self) -> Path:
        return self.out or self.resume or DEFAULT_CHECKPOINT


@group()
class Shape:
    """The vocabulary and the dimensions of a new model."""

    vocab: Vocab | None = option(help="a-z, or the characters of the data.", show_default="a-z")
    n_layer: int | None = option(help="Layers.", min=1, show_default="1")
    n_embd: int | None = option(help="Width of the stream.", min=1, show_default="16")
    n_head: int | None = option(help="Attention heads.", min=1, show_default="4")
    block_size: int | None = option(help="Longest name + 1.", min=1, show_default="16")


@group()
class Record:
    """What is written down of the run."""

    log: Path | None = option(help="Write a JSON record per step.", metavar="FILE.jsonl")
    trace_every: int | None = option(help="Add a trace to the log every N steps.", min=1, metavar="N")
    watch: str | None = option(
        help="The name that is traced and reported.", metavar="NAME", show_default="emma"
    )


def train(*, lessons: Lessons, checkpoint: Checkpoint, shape: Shape, record: Record) -> None:
    """Train microGPT on a file of names and leave a checkpoint."""
    target, resume, log, data = checkpoint.target, checkpoint.resume, record.log, lessons.data
    asked, dimensions = _given(lessons, but_for="data"), _given(shape, but_for="vocab")
    with ExitStack() as stack:
        _check_targets(target, log, data, resume, checkpoint.force)
        stack.enter_context(hold(target, *([] if log is None else [log])))
        # again, now that no other run changes it
        _check_targets(target, log, data, resume, checkpoint.force)
        file = OwnFile(target, checkpoint.force)
        from ..timeline.log_writing import TrainingLog
        from .training_run import new_trainer, resumed_trainer, train_and_report, watched_name

        if resume is not None:
            trainer = resumed_trainer(resume, asked, dimensions, shape.vocab, data)
        else:
            trainer = new_trainer(asked, dimensions, shape.vocab, data)
        watched = watched_name(trainer, record.watch, log if resume else None)
        every, goes_on = record.trace_every, resume is not None
        records = None
        if log is not None:
            records = TrainingLog(log, trainer, watched, every, goes_on, note, overwrite=checkpoint.force)
        train_and_report(trainer, file, watched, records, checkpoint.autosave)


EXAMPLES = (
    "microgpt train · microgpt train --batch-size 32 --out big.safetensors --n-layer 2 · "
    "microgpt train --resume microgpt.safetensors · then: microgpt trace emma --model microgpt.safetensors"
)


def _given(options: Lessons | Shape, but_for: str) -> dict[str, Any]:
    """What is asked of a Schedule, or of a Config, by the names of its fields."""
    return {name: value for name, value in vars(options).items() if value is not None and name != but_for}


def _check_targets(
    target: Path, log: Path | None, data: Path | None, resume: Path | None, force: bool
) -> None:
    """Raises InputError where the checkpoint or the log would replace something else."""
    resumes_target = resume is not None and resume.exists() and target.exists() and target.samefile(resume)
    goes_on = f"--resume {quoted(str(target))} goes on with it"
    check_apart([("--out", target), ("--log", log)], [data])
    check_file(
        "--out", target, force or resumes_target, f"--force overwrites it, {goes_on}", is_own=_is_checkpoint,
        own="--force overwrites checkpoints",
    )  # fmt: skip
    check_file(
        "--log", log, force or resume is not None, is_own=is_log, own="expected the log of a training run"
    )


def _is_checkpoint(path: Path) -> bool:
    try:
        return not path.stat().st_size or (is_model(path) and format_of(path) == "checkpoint")
    except FileFormatError:
        return False
