"""microgpt train"""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..files import hold
from .options import DEFAULT_CHECKPOINT, Vocab
from .output import note
from .targets import check_training_targets


def _dimension(flag: str, what: str, default: int) -> Any:
    return typer.Option(flag, help=what, min=1, show_default=str(default))


def train(
    steps: Annotated[int | None, typer.Option(help="Adam steps.", min=1, show_default="5000")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="One name a line.", metavar="FILE", show_default="the packaged names.txt"),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Names a step.", min=1, show_default="1")] = None,
    lr: Annotated[float | None, typer.Option(help="First learning rate.", show_default="0.01")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and order.", min=0, show_default="42")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The checkpoint.", metavar="FILE", show_default=str(DEFAULT_CHECKPOINT)),
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with this checkpoint, bit for bit.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing checkpoint or log.")] = False,
    autosave: Annotated[
        float, typer.Option(help="Seconds between two saves of the checkpoint.", min=0.0, metavar="SECONDS")
    ] = 30.0,
    vocab: Annotated[
        Vocab | None, typer.Option(help="a-z, or the characters of the data.", show_default="a-z")
    ] = None,
    n_layer: Annotated[int | None, _dimension("--n-layer", "Layers.", 1)] = None,
    n_embd: Annotated[int | None, _dimension("--n-embd", "Width of the stream.", 16)] = None,
    n_head: Annotated[int | None, _dimension("--n-head", "Attention heads.", 4)] = None,
    block_size: Annotated[int | None, _dimension("--block-size", "Longest name + 1.", 16)] = None,
    log: Annotated[
        Path | None, typer.Option(help="Write a JSON record per step.", metavar="FILE.jsonl")
    ] = None,
    trace_every: Annotated[
        int | None, typer.Option(help="Add a trace to the log every N steps.", min=1, metavar="N")
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(help="The name that is traced and reported.", metavar="NAME", show_default="emma"),
    ] = None,
) -> None:
    """Train microGPT on a file of names and leave a checkpoint."""
    if trace_every is not None and log is None:
        raise InputError("--trace-every adds to a log: it needs --log FILE.jsonl")
    if math.isnan(autosave):
        raise InputError("--autosave: expected seconds, found nan")
    target = out or resume or DEFAULT_CHECKPOINT
    asked = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed}
    dimensions = {"n_layer": n_layer, "n_embd": n_embd, "n_head": n_head, "block_size": block_size}
    with ExitStack() as stack:
        check_training_targets(target, log, data, resume, force)
        for path in (target, log):
            if path is not None:
                stack.enter_context(hold(path))
        check_training_targets(target, log, data, resume, force)  # now that no other run changes it
        from .log import TrainingLog
        from .trainer import new_trainer, resumed_trainer, watched_name
        from .training_run import train_and_report

        trainer = resumed_trainer(resume, asked, dimensions, vocab, data) if resume else new_trainer(
            asked, dimensions, vocab, data
        )  # fmt: skip
        watched = watched_name(trainer, watch, log if resume else None)
        records = stack.enter_context(
            TrainingLog(log, trainer, watched, trace_every, append=resume is not None)
        )
        for text in trainer.documents.notes:  # now that nothing is refused any more: a refusal is one line
            note(text)
        train_and_report(trainer, target, records, autosave)


train.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt train · microgpt train --batch-size 32 --out big.safetensors --n-layer 2 · "
    "microgpt train --resume microgpt.safetensors · then: microgpt trace emma --model microgpt.safetensors"
)
