"""Plain data about the predictions of a survey, for each part, token and document, and about overfitting."""

from __future__ import annotations

import math
import sys
from copy import deepcopy
from typing import Any

from ..measuring.prediction_meter import PREDICTIONS, RANKS, PredictionTallies
from ..measuring.tallies import gathered, merge_all
from ..microgpt.model import NOTHING
from ..text.frozen import frozen
from ..text.wording import fixed, value_and_limit
from .state import Survey, SurveyExample

ENOUGH = 2  # documents that a standard deviation needs
ERRORS = 2.0  # by chance, a difference exceeds this many standard errors in 2 of 100 cases


@frozen
class SurveyedToken:
    """The quality of the predictions of a token, at the places where this token is the next token. `loss` is
    the mean loss in nats, `accuracy` is the share of places where the token was the most likely, and
    `reciprocal_rank` is the mean of 1 / rank."""

    token: int
    label: str
    count: int
    loss: float
    accuracy: float
    reciprocal_rank: float


@frozen(slots=False)
class SurveyedPart:
    """The quality of the predictions of one part of a corpus. All losses of a part are in nats.

    `loss` is the mean loss over all tokens. `document_loss` is the mean of the documents' mean losses, and
    `spread` is the standard deviation of the documents' mean losses. A token is predicted right if it was the
    most likely token. `accuracy` is the share of tokens that are predicted right. `document_accuracy` is the
    mean of the documents' accuracies. `all_right` counts documents whose tokens are all predicted right.
    `ranks` counts tokens by rank. A key counts the ranks above the previous key, up to the key itself.
    """

    part: str
    documents: int
    tokens: int
    nonfinite: int
    loss: float | None
    document_loss: float | None
    spread: float | None
    accuracy: float | None
    document_accuracy: float | None
    all_right: int
    reciprocal_rank: float | None
    ranks: dict[str, int]
    by_token: tuple[SurveyedToken, ...]
    worst: tuple[SurveyExample, ...]
    best: tuple[SurveyExample, ...]


@frozen
class Overfitting:
    """The judgement whether a model overfits. `holds` is True if the model predicts held-out names worse than
    training names.

    `holds` is None if overfitting is not judged. `gap` is the mean loss of held-out documents minus the mean
    loss of training documents. `error` is the standard error of `gap`, computed from the spread of the
    documents' losses. `text` states the result as a sentence.
    """

    holds: bool | None
    gap: float | None
    error: float | None
    text: str


def surveyed_parts(survey: Survey) -> list[SurveyedPart]:
    """Return the predictions of the training set, then of the held-out set. The training set or the held-out
    set may have no documents. A corpus that is not the model's training data forms a single part."""
    parts = {
        name.removeprefix(PREDICTIONS).removeprefix("."): gathered(PredictionTallies, name, survey.tallies)
        for name in (tally.rpartition("/")[0] for tally in survey.tallies if tally.endswith("/token_loss"))
    }
    if len(parts) > 1 and survey.model.trained_on not in (NOTHING, survey.corpus.data):
        whole, *others = map(deepcopy, parts.values())
        for other in others:
            merge_all(vars(whole), vars(other))
        parts = {"": whole}
    return [_part(survey, part, parts[part]) for part in sorted(parts, reverse=True)]


def _part(survey: Survey, part: str, tallies: Any) -> SurveyedPart:
    documents, tokens = int(tallies.documents.numbers[0]), int(tallies.token_count.numbers.sum())
    mean, spread = _mean_and_spread(tallies, documents)
    total = math.fsum(tallies.token_loss.values().tolist())
    return SurveyedPart(
        part, documents, tokens, int(tallies.nonfinite.numbers[0]),
        total / tokens if tokens else None, mean, spread,
        int(tallies.token_right.numbers.sum()) / tokens if tokens else None,
        float(tallies.share_right.values()[0]) / documents if documents else None,
        int(tallies.all_right.numbers[0]),
        math.fsum(tallies.token_reciprocal_rank.values().tolist()) / tokens if tokens else None,
        dict(zip([*map(str, RANKS), f"above {RANKS[-1]}"], tallies.ranks.numbers.tolist(), strict=True)),
        tuple(_tokens(survey, tallies)),
        survey.corpus.examples(tallies.worst, 0), survey.corpus.examples(tallies.best, 0, sign=-1.0),
    )  # fmt: skip


def _mean_and_spread(tallies: Any, documents: int) -> tuple[float | None, float | None]:
    """Return the mean and the sample standard deviation of the documents' losses. A variance that is only
    rounding of the squares is 0."""
    if not documents:
        return None, None
    sums = tallies.document_loss, tallies.document_loss_squares
    total, squares = (float(own.values()[0]) for own in sums)
    if documents < ENOUGH:
        return total / documents, None
    variance = squares - total * total / documents
    variance = variance if variance > 4 * sys.float_info.epsilon * squares else 0.0
    return total / documents, math.sqrt(variance / (documents - 1))


def _tokens(survey: Survey, tallies: Any) -> list[SurveyedToken]:
    """Return every token that is a next token in the corpus, the most frequent first."""
    counts, right = tallies.token_count.numbers, tallies.token_right.numbers
    loss, ranks = tallies.token_loss.values(), tallies.token_reciprocal_rank.values()
    order = sorted(counts.nonzero()[0].tolist(), key=lambda token: (-counts[token], token))
    return [
        SurveyedToken(
            token, survey.model.labels[token], int(counts[token]), float(loss[token] / counts[token]),
            float(right[token] / counts[token]), float(ranks[token] / counts[token]),
        )
        for token in order
    ]  # fmt: skip


def overfitting(survey: Survey, parts: list[SurveyedPart]) -> Overfitting | None:
    """Judge overfitting by the losses of the training set and the held-out set. Returns None if the survey
    does not separate training names from held-out names."""
    if not any(name.startswith(f"{PREDICTIONS}.") for name in survey.tallies):
        return None
    reason = _why_not_judged(survey)
    by_name = {part.part: part for part in parts}
    if not {"train", "held out"} <= by_name.keys():
        return Overfitting(None, None, None, f"Overfitting is not judged, because {reason}.")
    train, held = by_name["train"], by_name["held out"]
    if train.spread is None or held.spread is None:
        few = "Overfitting is not judged, because one of the two sets has too few names."
        return Overfitting(None, None, None, few)
    gap = (held.document_loss or 0.0) - (train.document_loss or 0.0)
    error = math.hypot(held.spread / math.sqrt(held.documents), train.spread / math.sqrt(train.documents))
    losses = (
        f"The mean loss is {held.document_loss:.4f} for held-out names and {train.document_loss:.4f} for "
        f"training names. The difference is {gap:+.4f} ± {error:.4f} (standard error from the spread over "
        f"{held.documents:,} and {train.documents:,} names)"
    )
    if reason:
        return Overfitting(None, gap, error, f"Overfitting is not judged, because {reason}. {losses}.")
    return Overfitting(gap > ERRORS * error, gap, error, _verdict(gap, error, losses))


def _why_not_judged(survey: Survey) -> str:
    """Return why overfitting cannot be judged, or "" if the corpus is the model's training data."""
    data = survey.model.trained_on
    if data == NOTHING:
        return "the model is untrained"
    if not data:
        return "the training data of the model are unknown"
    other = "the corpus is not the complete data that the model was trained on"
    return "" if data == survey.corpus.data else f"{other} ({data})"


def _verdict(gap: float, error: float, losses: str) -> str:
    times, limit = value_and_limit(abs(gap) / error if error else math.inf, ERRORS, fixed, 1)
    if gap > ERRORS * error:
        return f"The model overfits. {losses}, which is {times} standard errors. Up to {limit} may be chance."
    if gap < -ERRORS * error:
        return f"No overfitting: held-out names are even easier. {losses}."
    more = f"more than {limit} would count as overfitting"
    return f"No overfitting is visible. {losses}, which is {times} standard errors; {more}."
