"""The Trainer that a command line asks for, new or from a checkpoint, and the name that is watched.

Loaded by a run alone, after what it may write was found to be free.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError
from ..microgpt.checkpoint import load
from ..microgpt.documents import Documents, default_data, read_lines
from ..microgpt.model import Schedule, init
from ..microgpt.parameters import Config
from ..microgpt.tokenizer import Tokenizer
from ..microgpt.training import Trainer
from ..text.wording import counted
from ..timeline.log import watched_before
from .options import Vocab

WATCHED = "emma"


def new_trainer(
    asked: dict[str, Any], dimensions: dict[str, int | None], vocab: Vocab | None, data: Path | None
) -> Trainer:
    """One that begins with the names of the data. Raises FileFormatError where none fits the model."""
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


def resumed_trainer(
    path: Path, asked: dict[str, Any], dimensions: dict[str, int | None], vocab: Vocab | None,
    data: Path | None,
) -> Trainer:  # fmt: skip
    """One that goes on with a checkpoint. Raises InputError for what contradicts it."""
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
