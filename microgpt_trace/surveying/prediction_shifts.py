"""How predictions differ between two surveys of one corpus, as plain data. Shows nothing."""

from __future__ import annotations

import math

from ..text.brief import frozen
from .predictions import ERRORS, SurveyedPart, SurveyedToken, surveyed_parts
from .state import Survey


@frozen
class TokenShift:
    """A token as what follows, so many times on both sides: mean losses in nats, shares of times that it was
    the likeliest, and how many nats B loses more on it in all."""

    token: int
    label: str
    count: int
    loss_a: float
    loss_b: float
    accuracy_a: float
    accuracy_b: float
    lost: float


@frozen(slots=False)
class PartShift:
    """The predictions of one part of a corpus in two surveys, as SurveyedPart has them.

    `perplexity_ratio` is e to the difference of the mean losses by token. `difference` is that of the means
    by text, and `error` the standard error that it would have if the texts of the two sides were unrelated:
    they are the same, but surveys keep no pairs. `by_token` has the tokens that follow as often on both
    sides, those on which B loses most first, and `other_tokens` counts the others.
    """

    part: str
    documents_a: int
    documents_b: int
    tokens_a: int
    tokens_b: int
    loss_a: float | None
    loss_b: float | None
    perplexity_ratio: float | None
    document_loss_a: float | None
    document_loss_b: float | None
    difference: float | None
    error: float | None
    accuracy_a: float | None
    accuracy_b: float | None
    all_right_a: int
    all_right_b: int
    by_token: tuple[TokenShift, ...]
    other_tokens: int

    @property
    def beyond_error(self) -> bool | None:
        """Whether the difference is more than ERRORS standard errors; None where these tell nothing."""
        if self.difference is None or not self.error:
            return None
        return abs(self.difference) > ERRORS * self.error

    @property
    def distance(self) -> float:
        """What is held against a tolerance: how far apart the mean losses are, relatively; infinite where
        other tokens have one."""
        if (self.documents_a, self.tokens_a) != (self.documents_b, self.tokens_b):
            return math.inf
        if self.loss_a is None or self.loss_b is None or self.loss_a == self.loss_b:
            return 0.0
        return abs(self.loss_b - self.loss_a) / self.loss_a if self.loss_a else math.inf


def part_shifts(a: Survey, b: Survey) -> list[PartShift]:
    """The parts of the corpus that both surveys have, in their order."""
    of_b = {part.part: part for part in surveyed_parts(b)}
    return [_part_shift(part, of_b[part.part]) for part in surveyed_parts(a) if part.part in of_b]


def _part_shift(a: SurveyedPart, b: SurveyedPart) -> PartShift:
    tokens = _token_shifts(a, b)
    every = {token.token for part in (a, b) for token in part.by_token}
    return PartShift(
        a.part, a.documents, b.documents, a.tokens, b.tokens, a.loss, b.loss, _ratio(a.loss, b.loss),
        a.document_loss, b.document_loss, _difference(a.document_loss, b.document_loss), _error(a, b),
        a.accuracy, b.accuracy, a.all_right, b.all_right, tuple(tokens), len(every) - len(tokens),
    )  # fmt: skip


def _token_shifts(a: SurveyedPart, b: SurveyedPart) -> list[TokenShift]:
    of_b = {token.token: token for token in b.by_token}
    pairs = [(token, of_b[token.token]) for token in a.by_token if token.token in of_b]
    found = [_token_shift(one, two) for one, two in pairs if one.count == two.count]
    return sorted(found, key=lambda token: (-token.lost, token.token))


def _token_shift(a: SurveyedToken, b: SurveyedToken) -> TokenShift:
    lost = a.count * (b.loss - a.loss)
    return TokenShift(a.token, a.label, a.count, a.loss, b.loss, a.accuracy, b.accuracy, lost)


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else b - a


def _ratio(a: float | None, b: float | None) -> float | None:
    difference = _difference(a, b)
    if difference is None:
        return None
    return math.exp(difference) if difference < math.log(1e300) else math.inf


def _error(a: SurveyedPart, b: SurveyedPart) -> float | None:
    if a.spread is None or b.spread is None:
        return None
    return math.hypot(a.spread / math.sqrt(a.documents), b.spread / math.sqrt(b.documents))
