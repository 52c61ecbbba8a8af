"""The heads of a survey as plain data: where a head looks, and which tokens it looks from and to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..arrays.stats import Array
from ..measuring.attention_meter import COUNTS, EVENLY, SUMS, mean_shares
from ..measuring.definitions import Attention, RoleName, role_of
from ..measuring.head_tokens import KINDS, UNIT
from ..plans.kinds import first_key
from ..plans.plan import layer_of
from ..text.frozen import frozen
from .state import Survey

OFTEN = 20  # how often a token or a pair must occur, because a mean over few places says little
MOST_LOOKS = 10  # largest number of tokens, and of pairs, that a report names for each head


@frozen
class SurveyedHead:
    """The statistics of an attention head over all queries from position 1 on. `attention` has its mean
    shares of attention, and `entropy` its mean entropy in nats. `even` and `even_entropy` are the shares and
    the mean entropy that uniform attention would have."""

    layer: int
    head: int
    event: str
    window: int | None
    attention: Attention
    even: Attention
    entropy: float
    even_entropy: float
    role: RoleName


@frozen
class SurveyedLook:
    """The mean `attention` of a head over `count` places, and the mean of `even` attention. `tokens` has the
    token of the query, of the key, or of both. `times_even` is `attention` divided by `even`."""

    tokens: tuple[str, ...]
    count: int
    attention: float
    even: float
    times_even: float


@frozen
class HeadExample:
    """A place where a head attends to a key much more than evenly. `query` and `key` are positions. In the
    `text` up to the query, ‹ › marks the key and [ ] the query."""

    weight: float
    times_even: float
    place: str
    document: int
    query: int
    key: int
    text: str


@frozen
class HeadLooks:
    """The tokens that a head looks from and to. Only keys between position 0 and the query count. Each list
    has the largest multiples of even attention, for tokens and pairs that occur at least 20 times.

    `looks_from` has query tokens, with the attention of a query on all keys, for a head that attends more
    than evenly to position 0 and to the query. `looks_to` has key tokens, with the attention of all queries
    on a key. `pairs` has both tokens, if the vocabulary is tiny. `examples` has the largest multiples on keys
    after position 0, one of each text. Their key may be the query.
    """

    layer: int
    head: int
    event: str
    looks_from: tuple[SurveyedLook, ...]
    looks_to: tuple[SurveyedLook, ...]
    pairs: tuple[SurveyedLook, ...]
    examples: tuple[HeadExample, ...]


def surveyed_heads(survey: Survey) -> Iterator[SurveyedHead]:
    """Yield the statistics of every head with at least one measured query."""
    for event in survey.order.events:
        counts = survey.tallies.get(f"{event}/queries")
        if counts is None or not counts.values()[0]:
            continue
        layer = layer_of(event)
        assert layer is not None  # attention weights belong to a layer
        window = survey.model.windows[layer]
        (even, even_entropy), *_ = _shares(survey, f"{EVENLY}.{window or 'all'}", EVENLY)
        for head, (attention, entropy) in enumerate(_shares(survey, event, event)):
            role = role_of(attention, even)
            yield SurveyedHead(layer, head, event, window, attention, even, entropy, even_entropy, role)


def _shares(survey: Survey, name: str, counter: str) -> Iterator[tuple[Attention, float]]:
    """Return the mean shares and entropy of each head. The tallies of `counter` counted the queries."""
    counts = [int(survey.tallies[f"{counter}/{key}"].values()[0]) for key in COUNTS]
    sums = {key: survey.tallies[f"{name}/{key}"].values() for key in SUMS}
    return mean_shares(sums, *counts)


def looks_of(survey: Survey, heads: Iterable[SurveyedHead]) -> Iterator[HeadLooks]:
    """Yield the looks of heads, or nothing if an older version of this program surveyed a part."""
    for own in heads:
        if (top := survey.tallies.get(f"{own.event}/examples")) is None:
            return
        looks_from, looks_to, pairs = (
            _looks(survey, survey.tallies[f"{own.event}/{kind}"].numbers[[own.head, -2, -1]] * UNIT)
            for kind in KINDS
        )
        if own.attention.first + own.attention.itself <= own.even.first + own.even.itself:
            looks_from = ()
        examples = (
            HeadExample(
                at.value / (at.position + 1 - max(0, first_key(at.position, own.window))), at.value, at.place,
                at.document, at.position, at.channel, at.before,
            )
            for at in survey.corpus.examples(top, own.head)
        )  # fmt: skip
        yield HeadLooks(own.layer, own.head, own.event, looks_from, looks_to, pairs, tuple(examples))


def _looks(survey: Survey, sums: Array) -> tuple[SurveyedLook, ...]:
    """Return the tokens or pairs with the largest multiples of even attention, from the sums of a head's
    attention, of even attention and of counts: [3, S]"""
    labels, looks = survey.model.labels, []
    often = ((sums[2] >= OFTEN) & (sums[1] > 0)).nonzero()[0].tolist()
    for cell in sorted(often, key=lambda cell: (-sums[0, cell] / sums[1, cell], cell))[:MOST_LOOKS]:
        tokens = divmod(cell, len(labels)) if sums.shape[1] > len(labels) else (cell,)
        own, even, count = sums[:, cell].tolist()
        named = tuple(labels[token] for token in tokens)
        looks.append(SurveyedLook(named, int(count), own / count, even / count, own / even))
    return tuple(looks)
