"""How well a corpus was predicted, as plain data: by part, by token, by document, and what that says of
overfitting. Shows nothing."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any

from ..measuring.predictions import PREDICTIONS, RANKS, PredictionTallies
from ..measuring.tallies import gathered, merge_all
from ..microgpt.model import NOTHING
from ..text.brief import frozen
from ..text.wording import fixed, told_apart
from .state import Survey, SurveyExample

ENOUGH = 2  # documents that a spread is of, at least
ERRORS = 2.0  # standard errors beyond which a difference is more than chance: 2 in 100 by chance


@frozen
class SurveyedToken:
    """A token as what follows: how often, its mean loss in nats, the share of times that it was the
    likeliest, and the mean of 1 / its rank."""

    token: int
    label: str
    count: int
    loss: float
    accuracy: float
    reciprocal_rank: float


@frozen(slots=False)
class SurveyedPart:
    """The predictions of one part of a corpus, losses in nats.

    `loss` is the mean over tokens, `document_loss` the mean of the documents' means, and `spread` the
    standard deviation of these. `accuracy` is the share of tokens that were the likeliest,
    `document_accuracy` the mean of the documents' shares, `all_right` the number of documents of which all
    tokens were.
    `ranks` counts tokens by rank: up to each of the ranks that it names, and above the last.
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
    """Whether names that were not trained on are predicted worse, by document: `gap` is how much larger their
    mean loss is, and `error` the standard error of that, from the spread over documents. `holds` is None
    where that cannot be told, which `text` says in words."""

    holds: bool | None
    gap: float | None
    error: float | None
    text: str


def surveyed_parts(survey: Survey) -> list[SurveyedPart]:
    """The parts of the corpus, those to train on first; one may have no documents. A corpus that is not the
    data that the model was trained on is one part."""
    names = [name.rpartition("/")[0] for name in survey.tallies if name.endswith("/token_loss")]
    parts = {
        name.removeprefix(PREDICTIONS).removeprefix("."): gathered(PredictionTallies, name, survey.tallies)
        for name in names
    }
    if len(parts) > 1 and survey.model.trained_on not in (NOTHING, survey.corpus.data):
        parts = {"": _together(*parts.values())}
    return [_part(survey, part, parts[part]) for part in sorted(parts, reverse=True)]


def _together(*parts: PredictionTallies) -> PredictionTallies:
    """The tallies of all parts, which stay as they are."""
    whole = deepcopy(parts[0])
    for other in parts[1:]:
        merge_all(vars(whole), vars(other))
    return whole


def _part(survey: Survey, part: str, own: Any) -> SurveyedPart:
    documents, tokens = int(own.documents.numbers[0]), int(own.token_count.numbers.sum())
    mean, spread = _mean_and_spread(own, documents)
    total = math.fsum(own.token_loss.values().tolist())
    return SurveyedPart(
        part, documents, tokens, int(own.nonfinite.numbers[0]),
        total / tokens if tokens else None, mean, spread,
        int(own.token_right.numbers.sum()) / tokens if tokens else None,
        float(own.share_right.values()[0]) / documents if documents else None, int(own.all_right.numbers[0]),
        math.fsum(own.token_reciprocal_rank.values().tolist()) / tokens if tokens else None,
        dict(zip([*map(str, RANKS), f"above {RANKS[-1]}"], own.ranks.numbers.tolist(), strict=True)),
        tuple(_tokens(survey, own)),
        survey.corpus.examples(own.worst, 0), survey.corpus.examples(own.best, 0, sign=-1.0),
    )  # fmt: skip


def _mean_and_spread(own: Any, documents: int) -> tuple[float | None, float | None]:
    """The mean of the documents' losses, and their standard deviation, of a sample."""
    if not documents:
        return None, None
    total, squares = float(own.document_loss.values()[0]), float(own.document_loss_squares.values()[0])
    if documents < ENOUGH:
        return total / documents, None
    return total / documents, math.sqrt(max(squares - total * total / documents, 0.0) / (documents - 1))


def _tokens(survey: Survey, own: Any) -> list[SurveyedToken]:
    """The tokens that follow anywhere, the most frequent first."""
    counts, right = own.token_count.numbers, own.token_right.numbers
    loss, ranks = own.token_loss.values(), own.token_reciprocal_rank.values()
    order = sorted(counts.nonzero()[0].tolist(), key=lambda token: (-counts[token], token))
    return [
        SurveyedToken(
            token, survey.model.labels[token], int(counts[token]), float(loss[token] / counts[token]),
            float(right[token] / counts[token]), float(ranks[token] / counts[token]),
        )
        for token in order
    ]  # fmt: skip


def overfitting(survey: Survey, parts: list[SurveyedPart]) -> Overfitting | None:
    """What train and held-out documents say of overfitting; None where a corpus has no such parts."""
    if not any(name.startswith(f"{PREDICTIONS}.") for name in survey.tallies):
        return None
    why = _why_not_judged(survey)
    of = {part.part: part for part in parts}
    if not {"train", "held out"} <= of.keys():
        return Overfitting(None, None, None, f"Overfitting is not judged, for {why}.")
    train, held = of["train"], of["held out"]
    if train.spread is None or held.spread is None:
        few = "Overfitting is not judged, for there are too few names of one of the two parts."
        return Overfitting(None, None, None, few)
    gap = (held.document_loss or 0.0) - (train.document_loss or 0.0)
    error = math.hypot(held.spread / math.sqrt(held.documents), train.spread / math.sqrt(train.documents))
    measured = (
        f"mean loss of held-out names {held.document_loss:.4f}, of those to train on "
        f"{train.document_loss:.4f}, which is {gap:+.4f} ± {error:.4f} (standard error, from the spread over "
        f"{held.documents:,} and {train.documents:,} names)"
    )
    if why:
        return Overfitting(None, gap, error, f"Overfitting is not judged, for {why}: {measured}.")
    return Overfitting(gap > ERRORS * error, gap, error, _said(gap, error, measured))


def _why_not_judged(survey: Survey) -> str:
    """Why nothing is said of overfitting; nothing where the corpus is what the model was trained on."""
    known = survey.model.trained_on
    if known == NOTHING:
        return "the model is untrained"
    if not known:
        return "what the model was trained on is not known"
    other = "the corpus is not, or not all of, the data that the model was trained on"
    return "" if known == survey.corpus.data else f"{other} ({known})"


def _said(gap: float, error: float, measured: str) -> str:
    times, limit = told_apart(abs(gap) / error if error else math.inf, ERRORS, fixed, 1)
    if gap > ERRORS * error:
        return f"It overfits: {measured}, {times} standard errors, where {limit} may be chance."
    if gap < -ERRORS * error:
        return f"No overfitting, held-out names are even easier: {measured}."
    return f"No overfitting shows: {measured}; it is {times} standard errors, more than {limit} would count."
