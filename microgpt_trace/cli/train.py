"""microgpt train"""

from __future__ import annotations

import math
from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import FileFormatError, InputError
from ..files import hold
from ..log_records import watched_before
from ..running.inputs import prepare_name
from ..tokenizer import Tokenizer
from ..wording import counted
from .options import DEFAULT_CHECKPOINT
from .output import note
from .targets import check_training_targets

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer
    from ..training import Trainer

WATCHED = "emma"


class Vocab(str, Enum):
    az = "a-z"
    data = "data"


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
        trainer = _resumed(resume, asked, dimensions, vocab, data) if resume else _new(
            asked, dimensions, vocab, data
        )  # fmt: skip
        from .log import TrainingLog
        from .training_run import train_and_report

        watched = _watched(trainer, watch, log if resume else None)
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


def _new(
    asked: dict[str, Any], dimensions: dict[str, int | None], vocab: Vocab | None, data: Path | None
) -> Trainer:
    from ..documents import Documents, default_data, read_lines
    from ..model import Schedule, init
    from ..parameters import Config
    from ..training import Trainer

    schedule = Schedule(**{key: value for key, value in asked.items() if value is not None})
    path = data or default_data()
    lines = read_lines(path)
    tokenizer = _tokenizer(vocab, lines)
    config = Config(vocab_size=tokenizer.vocab_size, **{k: v for k, v in dimensions.items() if v is not None})
    hint = "" if vocab is Vocab.data else "--vocab data takes the characters of the data"
    documents = Documents.fit(lines, tokenizer, config.block_size, hint)
    if not len(documents):
        why = "; ".join(documents.notes)
        raise FileFormatError(f"{path}: none of its {counted(len(lines), 'line')} fits the model: {why}")
    return Trainer(init(config, seed=schedule.seed, tokenizer=tokenizer), documents, schedule)


def _resumed(
    path: Path, asked: dict[str, Any], dimensions: dict[str, int | None], vocab: Vocab | None,
    data: Path | None,
) -> Trainer:  # fmt: skip
    from ..checkpoint import load
    from ..documents import Documents, default_data, read_lines
    from ..training import Trainer

    model = load(path)
    state = model.training
    if state is None or state.moments is None:
        raise FileFormatError(f"{path}: holds weights but no training state to resume")
    stored = vars(state.schedule) | vars(model.config)
    for name, value in (asked | dimensions).items():
        if value is not None and value != stored[name]:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} {value} contradicts {path}, which says {stored[name]}")
    if state.step >= state.schedule.steps:
        raise InputError(f"{path}: stands at its last step, {state.step:,}; nothing is left to resume")
    lines = read_lines(data or default_data())
    if vocab is not None and _tokenizer(vocab, lines) != model.tokenizer:
        said = model.tokenizer.describe_chars()
        raise InputError(f"--vocab {vocab.value} contradicts {path}, whose characters are {said}")
    documents = Documents.fit(lines, model.tokenizer, model.config.block_size)
    if documents.fingerprint != state.data:
        raise InputError(
            f"{path} was trained on other data: expected {state.data}, found {documents.fingerprint}"
        )
    return Trainer(model, documents, state.schedule)


def _tokenizer(vocab: Vocab | None, lines: list[str]) -> Tokenizer:
    return Tokenizer.of(line.strip() for line in lines) if vocab is Vocab.data else Tokenizer()


def _watched(trainer: Trainer, asked: str | None, log: Path | None) -> str:
    """The name whose probabilities are shown: the one asked for, that of a log that is gone on with, emma, or
    the first of the data that can be written. Raises InputError for one that does not fit."""
    if asked is None and log is not None:
        asked = watched_before(log)
    if asked is not None:
        return prepare_name(trainer.model("this run"), asked).text
    names = trainer.documents.names
    fits = set(WATCHED) <= set(trainer.tokenizer.chars) and len(WATCHED) < trainer.params.config.block_size
    return WATCHED if fits else names[0]
