"""Find the tokens of a recording: those that it names, or those whose embedding it holds.

Tokens that were never trained on may have equal rows in the embedding: the recording may be of any of them.
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

NEAR = 0.01  # a row is a token's if it differs from the token's by at most this share
AS_NEAR = 1.5  # rounding may bring an expected row to this multiple of the nearest row's distance
CHANNELS = 8  # the largest channels, which rule out most tokens
MAX_NOTES = 4  # notes about tokens with equal rows
TEXT_AND_TOKENS = "--tokens takes the place of a text: give one of the two"
NO_TOKENS = "{} does not say its tokens and holds no embedding of {} that shows them: give a text or --tokens"
TokenIds = Sequence[int] | None
Tokens = tuple[int, ...] | None


def tokens_of(recording: Recording, model: LanguageModel, expected: TokenIds = None) -> Tokens:
    """Return the tokens that a recording names, or else those whose embedding it holds, or None. If rows of
    the embedding fit several tokens, those `expected` are returned."""
    name, _ = embedding_of(model)
    if recording.tokens is not None or name not in recording.tensors:
        return recording.tokens
    return recognise(model, recording.tensors[name], expected)


def embedding_of(model: LanguageModel) -> tuple[str, str]:
    """Return the event of the token embedding and the name of its table."""
    rows = model.plan.of_kind(Lookup)
    return next((row.name, row.kind.table) for row in rows if row.kind.by == "tokens")


def with_tokens(recording: Recording, model: LanguageModel, expected: TokenIds = None) -> Recording:
    """Return the recording with its tokens, as `tokens_of` finds them. If the tokens are ambiguous, a note
    says so, and the loss is not used: it depends on the tokens."""
    tokens = tokens_of(recording, model, expected)
    if tokens is None or tokens == recording.tokens:
        return recording
    notes = () if expected is not None and tokens == tuple(expected) else ambiguous(model, tokens)
    known = replace(recording, tokens=tokens, notes=(*recording.notes, *notes))
    tensors = dict(recording.tensors)
    if notes and (loss := tensors.pop("loss", None)):
        left = Leftover(loss, "depends on the next tokens, which are ambiguous")
        return replace(known, tensors=tensors, leftovers=(*known.leftovers, left))
    return known


def recognise(
    model: LanguageModel, recorded: Recorded, expected: TokenIds = None, table: Array | None = None
) -> Tokens:
    """Return the tokens whose rows of the embedding a tensor holds, or None if it holds anything else.

    Each row must lie within 1 % of a token's row. It is the nearest token's, or the `expected` one's if that
    is about as near; of equal tokens the first. A single row is not enough: it may be the last of many.
    Pass the `table` of the embedding when there are many tensors to try.
    """
    name, matrix = embedding_of(model)
    length, rest = divmod(math.prod(recorded.shape), model.config.n_embd)
    if rest or length < 2 or recorded.shape[-1] not in (model.config.n_embd, length * model.config.n_embd):
        return None
    try:
        rows = fit(name, recorded, model.plan.shapes(length)).array
    except InputError:
        return None
    guesses = [None] * length if expected is None or len(expected) != length else list(expected)
    table, tokens = model.parameter(matrix) if table is None else table, list[int]()
    with np.errstate(all="ignore"):  # a dump may hold anything, and an overflow matches no token
        channels = np.argsort(-np.abs(rows).max(axis=0))[:CHANNELS]
        columns = np.ascontiguousarray(table[:, channels].T)
        for row, guess in zip(rows, guesses, strict=True):
            candidates = _candidates(row[channels], columns, float(np.linalg.norm(row)))
            token = _nearest(row.astype(np.float64), table, candidates, guess)
            if token is None:
                return None
            tokens.append(token)
    return tuple(tokens)


def _candidates(row: Array, columns: Array, norm: float) -> Array:
    """Return the tokens that n channels of a row do not rule out. `row` is [n] and `columns` [n, V]."""
    limit = NEAR / (1 - NEAR) * norm
    tokens = np.flatnonzero(np.abs(columns[0] - row[0]) <= limit)
    for column, value in zip(columns[1:], row[1:], strict=True):
        tokens = tokens[np.abs(column[tokens] - value) <= limit]
    return tokens


def _nearest(row: Array, table: Array, candidates: Array, expected: int | None) -> int | None:
    """Return the candidate whose row of the table is nearest, or `expected` if it is about as near; None if
    no candidate is near."""
    if not len(candidates):
        return None
    distances = np.linalg.norm(table[candidates] - row, axis=1)
    best, least = int(candidates[distances.argmin()]), float(distances.min())
    if not least <= NEAR * np.linalg.norm(table[best].astype(np.float64)):
        return None
    as_near = expected is not None and np.linalg.norm(table[expected] - row) <= AS_NEAR * least
    return expected if as_near else best


def ambiguous(model: LanguageModel, tokens: Sequence[int]) -> tuple[str, ...]:
    """Return a note for each token whose row of the embedding equals those of other tokens."""
    table = model.parameter(embedding_of(model)[1])
    first = table[:, 0]
    notes = []
    for token in dict.fromkeys(tokens):
        alike = np.flatnonzero(first == first[token])
        equal = alike[(table[alike] == table[token]).all(axis=1)]
        others = [str(other) for other in equal.tolist() if other != token]
        if others:
            notes.append(f"token {token} may also be {abridged(others, 3)}: equal rows of the embedding")
    if len(notes) > MAX_NOTES:
        notes[MAX_NOTES:] = [f"{len(notes) - MAX_NOTES:,} more tokens are ambiguous in the same way"]
    return tuple(notes)
