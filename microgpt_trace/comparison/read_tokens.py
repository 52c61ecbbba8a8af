"""Find the tokens of a recording: read the stored tokens, or recognise rows of the embedding.

Tokens that never occurred in training may have equal rows in the embedding. Tokens with equal rows are
ambiguous.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..arrays.stats import Array
from ..dumps.layouts import Leftover, Recorded, fit
from ..dumps.recording import Recording
from ..errors import InputError
from ..models.language_model import LanguageModel
from ..plans.kinds import Lookup
from ..text.wording import abridged

NEAR = 0.01  # a row belongs to a token if its relative distance from the token's row is at most this
AS_NEAR = 1.5  # because of rounding, the expected token may be this many times as far as the nearest token
CHANNELS = 8  # how many channels are compared first: the largest channels rule out most tokens
MAX_NOTES = 4  # largest number of notes about tokens with equal rows
TEXT_AND_TOKENS = "--tokens replaces the text and cannot be combined with a text"
NO_TOKENS = "{} has no token ids and no rows of the embedding of {}: give a text or --tokens"
TokenIds = Sequence[int] | None
Tokens = tuple[int, ...] | None


def tokens_of(recording: Recording, model: LanguageModel, expected: TokenIds = None) -> Tokens:
    """Return the tokens of a recording: stored tokens, or else tokens recognised from rows of the embedding,
    or None. If several tokens match a row, return the `expected` token."""
    name, _ = embedding_of(model)
    if recording.tokens is not None or name not in recording.tensors:
        return recording.tokens
    return recognise(model, recording.tensors[name], expected)


def embedding_of(model: LanguageModel) -> tuple[str, str]:
    """Return the event of the token embedding and the name of its table."""
    return next((row.name, row.kind.table) for row in model.plan.of_kind(Lookup) if row.kind.by == "tokens")


def with_tokens(recording: Recording, model: LanguageModel, expected: TokenIds = None) -> Recording:
    """Return the recording with the tokens that `tokens_of` finds. If the tokens are ambiguous, add a note
    and do not compare the loss, which depends on the tokens."""
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
    """Return the tokens whose rows of the embedding match a tensor's rows, or None if a row matches no token.

    Each row must lie within 1 % of the row of a token. For each row, return the nearest token, or the
    `expected` token if it is about as near. If several tokens have equal rows, return the first token. The
    tensor must have at least two rows, because a single row may be the last row of many. `table` is the
    embedding, if the caller has read the embedding before.
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
    with np.errstate(all="ignore"):  # values may overflow, and then match no token
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
    """Return the tokens whose rows are near `row` in n channels. `row` is [n] and `columns` [n, V]."""
    limit = NEAR / (1 - NEAR) * norm
    tokens = np.flatnonzero(np.abs(columns[0] - row[0]) <= limit)
    for column, value in zip(columns[1:], row[1:], strict=True):
        tokens = tokens[np.abs(column[tokens] - value) <= limit]
    return tokens


def _nearest(row: Array, table: Array, candidates: Array, expected: int | None) -> int | None:
    """Return the candidate whose row of the table is nearest, or `expected` if the expected row is about as
    near. Return None if no candidate is near."""
    if not len(candidates):
        return None
    distances = np.linalg.norm(table[candidates] - row, axis=1)
    best, least = int(candidates[distances.argmin()]), float(distances.min())
    if not least <= NEAR * np.linalg.norm(table[best].astype(np.float64)):
        return None
    as_near = expected is not None and np.linalg.norm(table[expected] - row) <= AS_NEAR * least
    return expected if as_near else best


def ambiguous(model: LanguageModel, tokens: Sequence[int]) -> tuple[str, ...]:
    """Return a note for each token whose row of the embedding equals the rows of other tokens."""
    table = model.parameter(embedding_of(model)[1])
    first = table[:, 0]
    notes = []
    for token in dict.fromkeys(tokens):
        alike = np.flatnonzero(first == first[token])
        equal = alike[(table[alike] == table[token]).all(axis=1)]
        others = [str(other) for other in equal.tolist() if other != token]
        if others:
            notes.append(f"token {token} may also be {abridged(others, 3)}: the embedding rows are equal")
    if len(notes) > MAX_NOTES:
        notes[MAX_NOTES:] = [f"{len(notes) - MAX_NOTES:,} more tokens are ambiguous in the same way"]
    return tuple(notes)
