"""Mistakes at the entrance: other tokens, BOS, shifted positions, a scaled embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ..architecture.model import LanguageModel
from ..arrays.stats import Array
from .fitting import Family
from .hypotheses import Case, Finding, Hypothesis

PART = 4096  # rows of the vocabulary looked at together
FEW = 4  # one row in so many, at most, is called wrong rather than all of them other


def token_finding(
    model: LanguageModel, tokens: Sequence[int], text_tokens: Sequence[int] | None
) -> Finding | None:
    """What is different about the dump's tokens where the text gives others."""
    if text_tokens is None or tuple(tokens) == tuple(text_tokens):
        return None
    own, text = list(tokens), list(text_tokens)
    if own == text[1:]:
        id, claim = "bos-missing", f"lack {_named(model, text[0])}, which the model's tokenizer puts first"
    elif own[1:] == text:
        id = "bos-added"
        claim = f"begin with {_named(model, own[0])}, which the model's tokenizer does not put first"
    else:
        pairs = zip(own, text, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(own), len(text)))
        id = "other-tokens"
        claim = (
            f"part from those of the text at position {at}: {_at(own, at)}, where it gives {_at(text, at)}"
        )
    return Finding("tokens", id, f"tokens: the dump's {claim}", 0.0, True)


def _at(tokens: Sequence[int], position: int) -> str:
    return str(tokens[position]) if position < len(tokens) else "none"


def _named(model: LanguageModel, token: int) -> str:
    return f"token {token} (BOS)" if token == model.bos else f"token {token}"


def embedding(case: Case) -> Iterator[Hypothesis | Family]:
    """The rows of other tokens, and rows times a constant."""
    if "embed.tok" not in case.kinds:
        return
    rules, tokens, width = case.rules, case.rules.tokens, case.weights.shapes["wte"][1]
    special = {
        math.sqrt(width): ("embedding-scaled", f"your rows are multiplied by sqrt({width}), as Gemma's are"),
        -1.0: ("negated", "your values have the wrong sign: minus the right ones"),
    }
    yield Family(
        "embedding-scaled", lambda scale: replace(rules, embedding_scale=scale),
        "your rows are multiplied by {}".format, own=1.0, usual=(12.0,),
        special=special, low=-math.inf, pivot=None, silent=(0.0,),
    )  # fmt: skip
    if case.kind == "embed.tok" and case.alone:
        yield from _other_tokens(case, nearest_tokens(case))
        return
    bos = case.weights.model.bos
    first = tokens[0] if bos is None else bos
    for id, moved, words in (
        ("bos-added", np.r_[first, tokens[:-1]], "one position late, after a BOS"),
        ("bos-missing", np.r_[tokens[1:], tokens[-1:]], "one position early, without the first one"),
    ):
        yield Hypothesis(id, f"your tokens come {words}", replace(rules, tokens=moved))


def nearest_tokens(case: Case) -> Array:
    """Whose embedding each row of the dump is nearest to, of equal ones the token's own: [T]"""
    vocab, own = case.weights.shapes["wte"][0], case.rules.tokens
    rows = np.nan_to_num(case.found.astype(np.float64))
    best, nearest = np.full(len(rows), math.inf), np.zeros(len(rows), int)
    for start in range(0, vocab, PART):
        part = case.weights.rows("wte", np.arange(start, min(start + PART, vocab))).astype(np.float64)
        apart = np.square(part).sum(axis=1) - 2 * rows @ part.T
        closer = apart.min(axis=1) < best
        best[closer], nearest[closer] = apart.min(axis=1)[closer], start + apart.argmin(axis=1)[closer]
    equal = (case.weights.rows("wte", nearest) == case.weights.rows("wte", own)).all(axis=1)
    return np.where(equal, own, nearest)


def _other_tokens(case: Case, own: Array) -> Iterator[Hypothesis]:
    """What the tokens whose rows the dump has tell of the mistake."""
    tokens, model = case.rules.tokens, case.weights.model
    wrong = np.flatnonzero(own != tokens)
    if not len(wrong):
        return
    if len(tokens) > 1 and (own[1:] == tokens[:-1]).all():
        id, claim = (
            "bos-added",
            f"your rows are those of {_named(model, own[0])} and then of the tokens, one late",
        )
    elif len(tokens) > 1 and (own[:-1] == tokens[1:]).all():
        id, claim = "bos-missing", f"your rows lack that of {_named(model, tokens[0])} and come one early"
    elif len(wrong) * FEW <= len(tokens) or len(wrong) == 1:
        at = wrong[0]
        id, claim = "another-token", f"your row of position {at} is that of token {own[at]}, not {tokens[at]}"
        claim += f"; so are {len(wrong) - 1} more" if len(wrong) > 1 else ""
    else:
        shown = ", ".join(map(str, own[:8])) + (", ..." if len(own) > 8 else "")
        id, claim = "other-tokens", f"your rows are those of the tokens {shown}"
    yield Hypothesis(id, claim, replace(case.rules, tokens=own))


def positions(case: Case) -> Iterator[Hypothesis]:
    """Learned positions that begin elsewhere."""
    if "embed.pos" not in case.kinds:
        return
    for offset in (1, -1, 2):
        claim = f"your positions begin at {offset}, not at 0"
        yield Hypothesis("position-offset", claim, replace(case.rules, position_offset=offset))
