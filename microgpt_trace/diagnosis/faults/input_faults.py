"""Mistakes in the input: other tokens, a missing or added BOS, shifted positions, a scaled embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial as bind
from itertools import zip_longest

import numpy as np

from ...arrays.stats import Array
from ...dumps.recording import lost_or_doubled
from ...models.language_model import LanguageModel
from ...operations.by_kind import reference
from ...operations.reference_inputs import ReferenceInputs
from ...plans.kinds import Lookup, Loss
from ...plans.plan import Operation, Plan
from ..case import Case, first_of
from ..finding import Finding
from ..hypothesis import Family, Hypothesis
from .changes import LATE, Which, after, computed, late

PART = 4096  # number of embedding rows to search at a time
FEW = 4  # if at most one token in FEW is wrong, the claim names single tokens


def token_findings(
    model: LanguageModel, tokens: Sequence[int], text_tokens: Sequence[int] | None, starts: Sequence[int] = ()
) -> Iterator[Finding]:
    """Describe the difference, if any, between the tokens of the dump and the tokens of the text. `starts`
    lists the first position of each pass."""
    if text_tokens is None or tuple(tokens) == tuple(text_tokens):
        return
    own, text = list(tokens), list(text_tokens)
    if own == text[1:]:
        id = "bos-missing"
        claim = f"the dump's tokens lack {_named(model, text[0])}, the first token of the text"
    elif own[1:] == text:
        id = "bos-added"
        claim = f"the dump's tokens begin with {_named(model, own[0])}, before the tokens of the text"
    elif claim := lost_or_doubled(own, text, starts):
        id = "token-lost" if len(own) < len(text) else "token-doubled"
    else:
        pairs = enumerate(zip_longest(own, text, fillvalue="none"))
        at, one, other = next((at, a, b) for at, (a, b) in pairs if a != b)
        id = "other-tokens"
        claim = f"the dump's tokens differ from the text's tokens at position {at}: {one}, not {other}"
    yield Finding("tokens", id, f"tokens: {claim}", 0.0, True)


def _named(model: LanguageModel, token: int) -> str:
    return f"token {token} (BOS)" if token == model.bos else f"token {token}"


def embedding(case: Case) -> Iterator[Hypothesis | Family]:
    """Yield hypotheses: the embedding is scaled, or has the rows of other tokens."""
    kind = _table(case, "tokens")
    if kind is None:
        return
    root = f"your rows are multiplied by sqrt({kind.width}), as in Gemma"
    yield Family(
        "embedding-scaled", lambda scale: after(case.plan, looking_up("tokens"), lambda x: scale * x),
        "your rows are multiplied by {}".format, own=1.0, usual=(12.0,),
        special={
            math.sqrt(kind.width): ("embedding-scaled", root),
            -1.0: ("negated", "your values have the wrong sign"),
        },
        low=-math.inf, pivot=None, silent=(0.0,),
    )  # fmt: skip
    if case.row.kind is kind and case.alone:
        yield from _other_tokens(case, nearest_tokens(case))
        return
    tokens, bos = case.given.tokens, case.given.model.bos
    late = np.r_[tokens[0] if bos is None else bos, tokens[:-1]]
    claim = "your tokens are shifted one position later, after an added BOS"
    yield Hypothesis("bos-added", claim, _of_tokens(case, late))
    claim = "your tokens are shifted one position earlier, and the first token is missing"
    yield Hypothesis("bos-missing", claim, _of_tokens(case, np.r_[tokens[1:], tokens[-1:]]))


def _table(case: Case, by: str) -> Lookup | None:
    """Return the kind of the row that looks up embeddings by tokens or by positions, or None."""
    return next((kind for kind in case.rows.kinds(Lookup) if kind.by == by), None)


def looking_up(by: str) -> Which:
    """Return a function that selects the rows that look up embeddings by tokens, or by positions."""
    return lambda row: isinstance(row.kind, Lookup) and row.kind.by == by


def _of_tokens(case: Case, tokens: Array) -> Plan:
    """Return the plan that reads other tokens, both as input and as targets of the loss."""

    def compute(row: Operation, given: ReferenceInputs, *inputs: Array) -> Array:
        return reference(replace(row, otherwise=None), ReferenceInputs(given.model, tokens), *inputs)

    of_tokens = looking_up("tokens")
    return computed(case.plan, lambda row: of_tokens(row) or isinstance(row.kind, Loss), compute)


def nearest_tokens(case: Case) -> Array:
    """Return for each row of the dump the token with the nearest embedding: [T]. If the right token has an
    identical embedding, prefer the right token."""
    kind, own = case.row.kind, case.given.tokens
    assert isinstance(kind, Lookup)
    rows = np.nan_to_num(case.found.astype(np.float64))
    best, nearest = np.full(len(rows), math.inf), np.zeros(len(rows), int)
    for start in range(0, kind.rows, PART):
        ids = np.arange(start, min(start + PART, kind.rows))
        part = case.given.parameter(case.row, kind.table, ids).astype(np.float64)
        distances = np.square(part).sum(axis=1) - 2 * rows @ part.T
        closer = distances.min(axis=1) < best
        best[closer] = distances.min(axis=1)[closer]
        nearest[closer] = start + distances.argmin(axis=1)[closer]
    near, right = (case.given.parameter(case.row, kind.table, ids) for ids in (nearest, own))
    return np.where((near == right).all(axis=1), own, nearest)


def _other_tokens(case: Case, own: Array) -> Iterator[Hypothesis]:
    """Yield the hypothesis that the dump's rows belong to the tokens `own`, unless all tokens are right."""
    tokens, model = case.given.tokens, case.given.model
    wrong = np.flatnonzero(own != tokens)
    if not len(wrong):
        return
    if len(tokens) > 1 and (own[1:] == tokens[:-1]).all():
        id = "bos-added"
        claim = f"your rows begin with {_named(model, own[0])}, and all other rows are one position late"
    elif len(tokens) > 1 and (own[:-1] == tokens[1:]).all():
        id = "bos-missing"
        claim = f"your rows lack {_named(model, tokens[0])}, and all other rows are one position early"
    elif len(wrong) * FEW <= len(tokens) or len(wrong) == 1:
        at = wrong[0]
        id, claim = "another-token", f"your row at position {at} belongs to token {own[at]}, not {tokens[at]}"
        claim += f"; {len(wrong) - 1} more rows belong to wrong tokens" if len(wrong) > 1 else ""
    else:
        id, claim = "other-tokens", f"your rows belong to the tokens {first_of(own, 8)}"
    yield Hypothesis(id, claim, _of_tokens(case, own))


def positions(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: the learned positions do not begin at 0, or are late."""
    length = len(case.given.tokens)
    ways = [(np.arange(length) + by, f"your positions begin at {by}, not at 0") for by in (1, -1, 2)]
    for used, claim in (*ways, (late(length), f"your positions are {LATE}")):
        if _table(case, "positions"):
            yield Hypothesis("position-offset", claim, at_positions(case, used))


def at_positions(case: Case, used: Array) -> Plan:
    """Return the plan that looks up these positions, [T]."""
    return computed(case.plan, looking_up("positions"), bind(_of_positions, used))


def _of_positions(used: Array, row: Operation[Lookup], given: ReferenceInputs) -> Array:
    return given.parameter(row, row.kind.table, used % row.kind.rows).astype(np.float64)
