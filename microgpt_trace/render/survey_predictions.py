"""How the predictions of two surveys differ, as sections: losses, and the tokens that got worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..surveying.prediction_shifts import PartShift
from ..surveying.predictions import ERRORS
from ..text.printable import shown_token
from ..text.wording import counted, fixed, told_apart
from .numbers import figure, percent, signed, significant, two_apart
from .sections import Block, Column, Section, Table, words

WORST = 8  # tokens that are shown without --verbose


def loss_course(part: PartShift) -> str:
    """What became of the loss, in a line."""
    name = f" ({part.part})" if part.part else ""
    if part.loss_a is None or part.loss_b is None:
        return f"loss{name}: none on one side"
    one, two = two_apart(part.loss_a, part.loss_b)
    change = signed(part.loss_b - part.loss_a, 4)
    times = significant(part.perplexity_ratio)
    return f"loss{name}: {one} in A, {two} in B ({change} nats a token, perplexity × {times})"


def prediction_sections(parts: Sequence[PartShift], *, verbose: bool = False) -> Iterator[Section]:
    """The losses of every part, how sure that is, and the tokens on which B loses most."""
    if not parts:
        return
    columns = [
        Column("", lambda part: part.part or "all", whole=True),
        Column("texts", lambda part: f"{part.documents_a:,}", right=True),
        Column("tokens", lambda part: f"{part.tokens_a:,}", right=True),
        Column("loss A", lambda part: figure(part.loss_a, 4), right=True),
        Column("loss B", lambda part: figure(part.loss_b, 4), right=True),
        Column("perplexity", lambda part: f"× {significant(part.perplexity_ratio)}", right=True),
        Column("right A", lambda part: percent(part.accuracy_a), right=True),
        Column("right B", lambda part: percent(part.accuracy_b), right=True),
    ]
    blocks: list[Block] = [Table(columns, parts)]
    for part in parts:
        blocks += [words(said) for said in _how_sure(part)]
    yield Section(blocks, "Predictions", "loss: mean -log P of what follows, in nats")
    for part in parts:
        yield from _tokens(part, verbose)


def _how_sure(part: PartShift) -> Iterator[str]:
    """Whether the losses of texts are farther apart than these spread, and on which tokens they are known."""
    name = f"{part.part}: " if part.part else ""
    if (part.documents_a, part.tokens_a) != (part.documents_b, part.tokens_b):
        yield (
            f"{name}not the same is predicted: {counted(part.documents_a, 'text')} and "
            f"{counted(part.tokens_a, 'token')} in A, {part.documents_b:,} and {part.tokens_b:,} in B"
        )
    if part.difference is None:
        return
    if part.error is None:
        yield f"{name}how sure that is cannot be told of fewer than 2 texts"
        return
    if not part.error:
        yield f"{name}how sure that is cannot be told: the losses of texts do not differ on a side"
        return
    times, limit = told_apart(abs(part.difference) / part.error, ERRORS, fixed, 1)
    beyond = "more than" if part.beyond_error else "not more than"
    yield (
        f"{name}mean of the texts {signed(part.difference, 4)} ± {figure(part.error, 4)}: {times} standard "
        f"errors, {beyond} {limit}; these are of unpaired texts, from their spread: both read the same ones, "
        "but surveys keep no differences text by text"
    )


def _tokens(part: PartShift, verbose: bool) -> Iterator[Section]:
    worse = [token for token in part.by_token if token.lost > 0]
    shown = part.by_token if verbose else worse[:WORST]
    if not shown:
        return
    columns = [
        Column("token", lambda token: shown_token(token.label), right=True),
        Column("times", lambda token: f"{token.count:,}", right=True),
        Column("loss A", lambda token: figure(token.loss_a, 4), right=True),
        Column("loss B", lambda token: figure(token.loss_b, 4), right=True),
        Column("right A", lambda token: percent(token.accuracy_a), right=True),
        Column("right B", lambda token: percent(token.accuracy_b), right=True),
        Column("in all", lambda token: signed(token.lost, 2), right=True),
    ]
    said = (
        f"in all: times × change of the loss; worse: {len(worse):,} of {counted(len(part.by_token), 'token')}"
    )
    if part.other_tokens:
        said += f"; {part.other_tokens:,} more follow more often on one side"
    blocks: list[Block] = [Table(columns, shown), words(said, "dim")]
    yield Section(blocks, "Tokens" if verbose else "Tokens on which B loses most", part.part)
