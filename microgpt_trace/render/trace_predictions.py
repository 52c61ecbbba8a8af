"""What a trace predicts, as sections: position by position, and as a continuation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..text.printable import shown_token
from ..tracing.result import Candidate, GeneratedToken, Prediction, Trace
from .numbers import figure, probability
from .sections import Bar, Block, Column, Section, Table, Words, words
from .trace_events import stage_sections

MAX_ROWS = 64  # positions whose predictions are listed before some are left out


def prediction_sections(trace: Trace) -> Iterator[Section]:
    """One row per position, the mean and what chance would give, then further candidates."""
    rows = trace.predictions
    if not rows:
        return
    of_names = trace.model["family"] == "microgpt"
    columns = _of_names() if of_names else _of_text(Column("token", _token))
    left = 0 if of_names else len(rows) - MAX_ROWS
    shown = rows if left <= 0 else [*rows[: MAX_ROWS // 2], *rows[-MAX_ROWS // 2 :]]
    blocks: list[Block] = [Table(columns, shown, about=_logits)]
    if left > 0:
        blocks.append(words(f"{left:,} positions in the middle are left out; --json has them all", "dim"))
    if trace.loss is not None:
        chance = f", chance would give ln {trace.model['config']['vocab_size']} = {trace.chance_loss:.4f}"
        blocks.append(Words((("mean loss ", ""), (figure(trace.loss, 4), "bold"), (chance, ""))))
    yield Section(blocks, "Predictions")
    depth = len(rows[-1].top)
    if depth > 1 and of_names:
        candidates = Column("candidates", _candidates, wrap=True)
        yield Section([Table([*columns[:2], candidates], rows, about=_logits)], f"Top {depth}")
    elif depth > 1:
        yield _last_candidates(rows[-1], _token(rows[-1]))


def rows_of_predictions(rows: Sequence[Prediction]) -> list[Section]:
    """Predictions without the trace that they are of."""
    return [Section([Table(_of_text(Column("seen", _seen)), rows, about=_logits)])]


def candidates_sections(prediction: Prediction) -> list[Section]:
    """A prediction by itself."""
    row = rows_of_predictions([prediction])
    return [*row, _last_candidates(prediction, _seen(prediction))] if len(prediction.top) > 1 else row


def _of_names() -> list[Column]:
    return [
        Column("pos", lambda p: str(p.position), right=True),
        Column("seen", _seen),
        Column("target", lambda p: shown_token(p.target.label)),
        Column("predicted", lambda p: shown_token(p.predicted.label) if p.predicted else "–"),
        Column("P(target)", lambda p: probability(p.target.p, 3), right=True),
        Column("", lambda p: Bar(p.target.p, 10), bar=True, style=_cyan),
        Column("rank", lambda p: str(p.rank or "–"), right=True),
        Column("loss", lambda p: figure(p.loss), right=True),
    ]


def _of_text(seen: Column) -> list[Column]:
    return [
        Column("pos", lambda p: str(p.position), right=True),
        seen,
        Column("target", lambda p: shown_token(p.target.label) if p.target else ""),
        Column("predicted", lambda p: shown_token(p.predicted.label) if p.predicted else "–"),
        Column("P", lambda p: _p(p.predicted), right=True),
        Column("P(target)", lambda p: _p(p.target), right=True),
        Column("", lambda p: Bar(p.target.p if p.target else 0.0, 10), bar=True, style=_cyan),
        Column("rank", lambda p: f"{p.rank:,}" if p.rank else "", right=True),
        Column("loss", lambda p: "" if p.loss is None else figure(p.loss), right=True),
    ]


def _candidates(prediction: Prediction) -> str:
    return "  ".join(f"{shown_token(c.label)}={probability(c.p, 3)}" for c in prediction.top)


def _token(prediction: Prediction) -> str:
    return shown_token(prediction.seen)


def _seen(prediction: Prediction) -> str:
    """The same, or of a name as far as it is read; before its first letter that is BOS alone."""
    return _token(prediction) if prediction.seen or prediction.position else "BOS"


def _last_candidates(prediction: Prediction, seen: str) -> Section:
    columns = [
        Column("token", lambda c: shown_token(c.label)),
        Column("id", lambda c: str(c.token), right=True),
        Column("P", lambda c: probability(c.p), right=True),
        Column("", lambda c: Bar(c.p, 20), bar=True, style=_cyan),
    ]
    place = f"after position {prediction.position} {seen}"
    return Section([Table(columns, prediction.top)], f"Top {len(prediction.top)} {place}")


def _logits(prediction: Prediction) -> str:
    return f"logits[{prediction.position}]"


def _cyan(row: Any) -> str:
    return "cyan"


def _p(candidate: Candidate | None) -> str:
    return "" if candidate is None else probability(candidate.p)


def generation_sections(trace: Trace, verbose: bool) -> Iterator[Section]:
    """The continuation, each token with P and its runners-up; if verbose, every step's events."""
    columns = [
        Column("step", lambda g: str(g.step), right=True),
        Column("pos", lambda g: str(g.position), right=True),
        Column("token", lambda g: shown_token(g.token.label)),
        Column("P", lambda g: probability(g.token.p), right=True),
        Column("runners-up", _runners_up, wrap=True),
    ]
    ended = [words(f"ended: {trace.generation_end}", "dim")] if trace.generation_end else []
    yield Section([Table(columns, trace.generation), *ended], "Continuation")
    for token in trace.generation if verbose else ():
        if token.events:
            title = f"Step {token.step}: {shown_token(token.token.label)}"
            yield Section((), title, style="bold magenta")
            yield from stage_sections(trace, token.events, verbose)


def _runners_up(token: GeneratedToken) -> str:
    return "  ".join(f"{shown_token(c.label)}={probability(c.p, 3)}" for c in token.runners_up)
