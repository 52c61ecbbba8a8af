"""Which tokens a recording was made of: those that it names, or whose rows of the embedding it holds.

Rows may be equal (tokens that were never trained on): then any of them may have been read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.kinds import Lookup
from ..arrays.stats import Array
from ..dumps.layouts import Leftover, Recorded, fit
from ..dumps.recording import Recording
from ..errors import InputError
from ..text.wording import abridged

NEAR = 0.01  # of a token's row, within which another row is taken for it
AS_NEAR = 1.5  # times the nearest row's distance, which rounding may have made
CHANNELS = 8  # that rule out most tokens: the largest ones
MOST_SAID = 4  # tokens of which it is said that others have equal rows


def tokens_said(
    recording: Recording, model: LanguageModel, asked: Sequence[int] | None = None
) -> tuple[int, ...] | None:
    """The tokens that a recording names, or else those whose embedding it holds: those `asked` for, where
    it may be these."""
    name, _ = embedding_of(model)
    if recording.tokens is not None or name not in recording.tensors:
        return recording.tokens
    return recognise(model, recording.tensors[name], asked)


def embedding_of(model: LanguageModel) -> tuple[str, str]:
    """The event that looks tokens up, and the table that it looks them up in."""
    kinds = ((row.name, row.kind) for row in model.plan.of_kind(Lookup))
    return next(
        (name, kind.table) for name, kind in kinds if isinstance(kind, Lookup) and kind.by == "tokens"
    )


def with_tokens(recording: Recording, model: LanguageModel, asked: Sequence[int] | None = None) -> Recording:
    """The recording with its tokens. Where they are not the only ones that it may be a note says so, and
    its loss, which goes by the tokens that come next, is left over."""
    tokens = tokens_said(recording, model, asked)
    if tokens is None or tokens == recording.tokens:
        return recording
    told = replace(recording, tokens=tokens)
    notes = () if asked is not None and tokens == tuple(asked) else ambiguous(model, tokens)
    if not notes:
        return told
    tensors, left = dict(recording.tensors), told.leftovers
    if loss := tensors.pop("loss", None):
        left = (*left, Leftover(loss, "which tokens come next is not known"))
    return replace(told, notes=(*told.notes, *notes), tensors=tensors, leftovers=left)


def recognise(
    model: LanguageModel, recorded: Recorded, asked: Sequence[int] | None = None, table: Array | None = None
) -> tuple[int, ...] | None:
    """The tokens whose rows of the embedding a tensor holds; None where it holds anything else.

    A row counts as the nearest token's where it lies within 1 % of it, or as the one that is `asked` for
    where that is as near; of equal ones it is the first. One row alone may be the last of many, and tells
    nothing. Whoever asks of many tensors gives the `table` of the embedding.
    """
    name, matrix = embedding_of(model)
    length, rest = divmod(math.prod(recorded.shape), model.config.n_embd)
    if rest or length < 2 or recorded.shape[-1] not in (model.config.n_embd, length * model.config.n_embd):
        return None
    try:
        rows = fit(name, recorded, model.plan.shapes(length)).array
    except InputError:
        return None
    wanted = [None] * length if asked is None or len(asked) != length else list(asked)
    table, tokens = model.parameter(matrix) if table is None else table, list[int]()
    with np.errstate(all="ignore"):  # a dump may hold anything; what overflows is near nothing
        channels = np.argsort(-np.abs(rows).max(axis=0))[:CHANNELS]
        columns = np.ascontiguousarray(table[:, channels].T)
        for row, token in zip(rows, wanted, strict=True):
            some = _possible(row[channels], columns, float(np.linalg.norm(row)))
            found = _nearest(row.astype(np.float64), table, some, token)
            if found is None:
                return None
            tokens.append(found)
    return tuple(tokens)


def _possible(row: Array, columns: Array, norm: float) -> Array:
    """The tokens that some channels of a row do not rule out: [n] and [n, V]"""
    limit = NEAR / (1 - NEAR) * norm
    some = np.flatnonzero(np.abs(columns[0] - row[0]) <= limit)
    for column, value in zip(columns[1:], row[1:], strict=True):
        some = some[np.abs(column[some] - value) <= limit]
    return some


def _nearest(row: Array, table: Array, some: Array, asked: int | None) -> int | None:
    """The token of `some` whose row of the table is nearest, or as near the one that is asked for; None
    where none is near."""
    if not len(some):
        return None
    exact = np.linalg.norm(table[some] - row, axis=1)
    best, nearest = int(some[exact.argmin()]), float(exact.min())
    if not nearest <= NEAR * np.linalg.norm(table[best].astype(np.float64)):
        return None
    told = asked is not None and np.linalg.norm(table[asked] - row) <= AS_NEAR * nearest
    return asked if told else best


def ambiguous(model: LanguageModel, tokens: Sequence[int]) -> tuple[str, ...]:
    """What is to be said of tokens whose rows of the embedding are those of others too."""
    table = model.parameter(embedding_of(model)[1])
    first = table[:, 0]
    said = []
    for token in dict.fromkeys(tokens):
        alike = np.flatnonzero(first == first[token])
        equal = alike[(table[alike] == table[token]).all(axis=1)]
        others = [str(other) for other in equal.tolist() if other != token]
        if others:
            said.append(f"token {token} may as well be {abridged(others, 3)}: equal rows of the embedding")
    more = len(said) - MOST_SAID
    return (*said[:MOST_SAID], *([f"so may {more:,} tokens more"] if more > 0 else []))
