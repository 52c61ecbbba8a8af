"""The predictions of a trace as sections: of each position, of each layer (the logit lens), and of a
continuation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

from ...grouping import grouped
from ...plans.plan import kind_of
from ...text.printable import shown_token
from ...text.wording import are, counted
from ...tracing.result import Candidate, LensRow, Prediction, TargetRow, Trace
from ..characters import token_label
from ..numbers import figure, four_decimals, three_decimals
from ..sections import Bar, Block, Column, Section, Table, Words, fields, words
from .events import stage_sections

MAX_ROWS = 64  # largest number of rows of a table of predictions


def prediction_sections(trace: Trace) -> Iterator[Section]:
    """Yield a table with a row per position, the mean loss and the loss of a uniform guess. A second table
    lists more candidates at every position (microGPT) or at the last position (production model)."""
    rows = trace.predictions
    if not rows:
        return
    of_names = trace.model["family"] == "microgpt"
    columns = _columns(_seen if of_names else _token)
    left = len(rows) - MAX_ROWS
    shown = rows if left <= 0 else [*rows[: MAX_ROWS // 2], *rows[-MAX_ROWS // 2 :]]
    blocks: list[Block] = [Table(columns, shown, about=_logits)]
    if left > 0:
        which = f"{counted(left, 'position')} in the middle {are(left)}"
        blocks.append(words(f"{which} not shown; --json has all of them", "dim"))
    if trace.loss is not None:
        chance = f", a uniform guess has ln {trace.model['config']['vocab_size']} = {trace.chance_loss:.4f}"
        blocks.append(Words((("mean loss ", ""), (four_decimals(trace.loss), "bold"), (chance, ""))))
    yield Section(blocks, "Predictions")
    depth = len(rows[-1].top)
    if depth > 1 and of_names:
        candidates = Column("candidates", lambda p: _listed(p.top), wrap=True)
        yield Section([Table([*columns[:2], candidates], rows, about=_logits)], f"Top {depth}")
    elif depth > 1:
        yield _last_candidates(rows[-1], _token(rows[-1]))


def rows_of_predictions(rows: Sequence[Prediction]) -> list[Section]:
    """Return a table of predictions that do not belong to a trace."""
    return [Section([Table(_columns(_seen), rows, about=_logits)])]


def candidates_sections(prediction: Prediction) -> list[Section]:
    """Return a table with one prediction, and a table with its candidates."""
    row = rows_of_predictions([prediction])
    return [*row, _last_candidates(prediction, _seen(prediction))] if len(prediction.top) > 1 else row


def _columns(seen: Any) -> list[Column]:
    return [
        *fields(str, {"pos": "position"}),
        Column("seen", seen),
        Column("target", lambda p: shown_token(p.target.label) if p.target else ""),
        Column("predicted", lambda p: shown_token(p.predicted.label) if p.predicted else "–"),
        *fields(_p, {"P": "predicted", "P(target)": "target"}),
        Column("", lambda p: Bar(p.target.p if p.target else 0.0, 10), bar=True, style="cyan"),
        Column("rank", lambda p: f"{p.rank:,}" if p.rank else "–" if p.target else "", right=True),
        Column("loss", lambda p: "" if p.loss is None else figure(p.loss), right=True),
    ]


def _token(prediction: Prediction) -> str:
    return shown_token(prediction.seen)


def _seen(prediction: Prediction) -> str:
    """Return the part of a name up to the position. At position 0, the result is BOS."""
    return _token(prediction) if prediction.seen or prediction.position else "BOS"


def _last_candidates(prediction: Prediction, seen: str) -> Section:
    columns = [
        Column("token", lambda c: shown_token(c.label)),
        *fields(str, {"id": "token"}),
        Column("P", _p, right=True),
        Column("", lambda c: Bar(c.p, 20), bar=True, style="cyan"),
    ]
    place = f"after position {prediction.position} {seen}"
    return Section([Table(columns, prediction.top)], f"Top {len(prediction.top)} {place}")


def _logits(prediction: Prediction) -> str:
    return f"logits[{prediction.position}]"


def _p(candidate: Candidate | None) -> str:
    return "" if candidate is None else four_decimals(candidate.p)


def _listed(candidates: Sequence[Candidate]) -> str:
    """Return candidates on one line, such as "a=0.071  e=0.050"."""
    return "  ".join(f"{shown_token(c.label)}={three_decimals(c.p)}" for c in candidates)


def generation_sections(trace: Trace, verbose: bool) -> Iterator[Section]:
    """Return a table of the generated tokens and the runners-up. `verbose` adds the events of each step."""
    columns = [
        *fields(str, {"step": "step", "pos": "position"}),
        Column("token", lambda g: shown_token(g.token.label)),
        Column("P", lambda g: _p(g.token), right=True),
        Column("runners-up", lambda g: _listed(g.runners_up), wrap=True),
    ]
    ended = [words(f"ended: {trace.generation_end}", "dim")] if trace.generation_end else []
    yield Section([Table(columns, trace.generation), *ended], "Continuation")
    for token in trace.generation if verbose else ():
        if token.events:
            title = f"Step {token.step}: {shown_token(token.token.label)}"
            yield Section((), title, style="bold magenta")
            yield from stage_sections(trace, token.events, verbose)


def lens_sections(trace: Trace) -> Iterator[Section]:
    """Return tables of the logit lens: top tokens, candidates at the last position, and targets."""
    if not trace.lens:
        return
    positions, after = trace.lens[0].positions, Column("after", lambda row: str(row.layer), right=True)
    titles = [token_label(trace.input.labels[position]) for position in positions]
    tops = [Column(title, partial(_top, at=at), right=True) for at, title in enumerate(titles)]
    aside = "the top token if the model ended after the layer"
    yield Section([Table([after, *tops], trace.lens)], "Logit lens", aside)
    deepest = max(len(row.top[-1]) for row in trace.lens)
    if deepest > 1:
        candidates = Column("candidates", lambda row: _listed(row.top[-1]) or "–", wrap=True)
        title = f"Logit lens, top {deepest} {_after(trace, positions[-1])}"
        yield Section([Table([after, candidates], trace.lens)], title)
    for position, rows in sorted(grouped(trace.lens_target, attrgetter("position")).items()):
        yield _target(trace, position, rows)


def _top(row: LensRow, at: int) -> str:
    candidate = row.predicted[at]
    return token_label(candidate.label) if candidate else "–"


def _target(trace: Trace, position: int, rows: Sequence[TargetRow]) -> Section:
    """Return P and rank of a token after each attention and layer, and where it first has rank 1."""
    leaving = kind_of(rows[-1].event)
    kinds = sorted({kind_of(row.event) for row in rows}, key=lambda kind: kind == leaving)
    layers = list(grouped(rows, attrgetter("layer")).values())
    columns = [Column("layer", lambda layer: str(layer[0].layer), right=True)]
    for kind in kinds:
        where = "layer" if kind == leaving else kind.partition(".")[0]
        columns += [
            Column(f"P after {where}", _of_kind(kind, lambda row: _p(row.target)), right=True),
            Column("rank", _of_kind(kind, lambda row: f"{row.rank:,}" if row.rank else "–"), right=True),
        ]
    blocks: list[Block] = [Table(columns, layers, about=lambda layer: layer[-1].event)]
    first = next((row for row in rows if row.rank == 1), None)
    if first is not None:
        where = "layer" if kind_of(first.event) == leaving else "the attention of layer"
        blocks.append(words(f"rank 1 for the first time after {where} {first.layer}"))
    return Section(blocks, f"Logit lens of {shown_token(rows[0].target.label)} {_after(trace, position)}")


def _of_kind(kind: str, form: Callable[[TargetRow], str]) -> Callable[[Sequence[TargetRow]], str]:
    """Return a function that shows the row of a kind among a layer's rows. A parallel layer may lack it."""
    return lambda layer: "".join(form(row) for row in layer if kind_of(row.event) == kind)


def _after(trace: Trace, position: int) -> str:
    return f"after position {position} {shown_token(trace.input.labels[position])}"
