"""microgpt train"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..files import OwnFile, hold
from .options import DEFAULT_CHECKPOINT, Vocab
from .output import note
from .output_files import check_training_targets


def _dimension(flag: str, what: str, default: int) -> Any:
    return typer.Option(flag, help=what, min=1, show_default=str(default))


@dataclass(frozen=True, eq=False, repr=False)
class Lessons:
    """What is learned, and how."""

    steps: Annotated[int | None, typer.Option(help="Adam steps.", min=1, show_default="5000")] = None
    data: Annotated[
        Path | None,
        typer.Option(help="One name a line.", metavar="FILE", show_default="the packaged names.txt"),
    ] = None
    batch_size: Annotated[int | None, typer.Option(help="Names a step.", min=1, show_default="1")] = None
    lr: Annotated[float | None, typer.Option(help="First learning rate.", show_default="0.01")] = None
    seed: Annotated[int | None, typer.Option(help="Of weights and order.", min=0, show_default="42")] = None

    def schedule(self) -> dict[str, Any]:
        """The fields of a Schedule, None where nothing is asked."""
        return {"steps": self.steps, "batch_size": self.batch_size, "lr": self.lr, "seed": self.seed}


@dataclass(frozen=True, eq=False, repr=False)
class Checkpoint:
    """Where the model goes, and when."""

    out: Annotated[
        Path | None,
        typer.Option(help="The checkpoint.", metavar="FILE", show_default=str(DEFAULT_CHECKPOINT)),
    ] = None
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this checkpoint, bit for bit.", metavar="FILE")
    ] = None
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing checkpoint or log.")] = False
    autosave: Annotated[
        float, typer.Option(help="Seconds between two saves of the checkpoint.", min=0.0, metavar="SECONDS")
    ] = 30.0

    @property
    def target(self) -> Path:
        return self.out or self.resume or DEFAULT_CHECKPOINT


@dataclass(frozen=True, eq=False, repr=False)
class Shape:
    """The vocabulary and the dimensions of a new model."""

    vocab: Annotated[
        Vocab | None, typer.Option(help="a-z, or the characters of the data.", show_default="a-z")
    ] = None
    n_layer: Annotated[int | None, _dimension("--n-layer", "Layers.", 1)] = None
    n_embd: Annotated[int | None, _dimension("--n-embd", "Width of the stream.", 16)] = None
    n_head: Annotated[int | None, _dimension("--n-head", "Attention heads.", 4)] = None
    block_size: Annotated[int | None, _dimension("--block-size", "Longest name + 1.", 16)] = None

    def dimensions(self) -> dict[str, int | None]:
        """The fields of a Config, None where nothing is asked."""
        return {name: value for name, value in vars(self).items() if name != "vocab"}


@dataclass(frozen=True, eq=False, repr=False)
class Record:
    """What is written down of the run."""

    log: Annotated[
        Path | None,
        typer.Option(help="Write a JSON record per step.", metavar="FILE.jsonl"),
    ] = None
    trace_every: Annotated[
        int | None, typer.Option(help="Add a trace to the log every N steps.", min=1, metavar="N")
    ] = None
    watch: Annotated[
        str | None,
        typer.Option(help="The name that is traced and reported.", metavar="NAME", show_default="emma"),
    ] = None


def train(*, lessons: Lessons, checkpoint: Checkpoint, shape: Shape, record: Record) -> None:
    """Train microGPT on a file of names and leave a checkpoint."""
    if record.trace_every is not None and record.log is None:
        raise InputError("--trace-every adds to a log: it needs --log FILE.jsonl")
    target, resume, log, data = checkpoint.target, checkpoint.resume, record.log, lessons.data
    asked, dimensions = lessons.schedule(), shape.dimensions()
    with ExitStack() as stack:
        check_training_targets(target, log, data, resume, checkpoint.force)
        stack.enter_context(hold(target, *([] if log is None else [log])))
        # again, now that no other run changes it
        check_training_targets(target, log, data, resume, checkpoint.force)
        file = OwnFile(target, checkpoint.force)
        from ..timeline.log_writing import TrainingLog
        from .trainer import new_trainer, resumed_trainer, watched_name
        from .training_run import train_and_report

        if resume is not None:
            trainer = resumed_trainer(resume, asked, dimensions, shape.vocab, data)
        else:
            trainer = new_trainer(asked, dimensions, shape.vocab, data)
        watched = watched_name(trainer, record.watch, log if resume else None)
        every, goes_on = record.trace_every, resume is not None
        records = TrainingLog(log, trainer, watched, every, goes_on, note, overwrite=checkpoint.force)
        train_and_report(trainer, file, records, checkpoint.autosave)


EXAMPLES = (
    "microgpt train · microgpt train --batch-size 32 --out big.safetensors --n-layer 2 · "
    "microgpt train --resume microgpt.safetensors · then: microgpt trace emma --model microgpt.safetensors"
)
