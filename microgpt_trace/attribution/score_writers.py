"""Attribute one attention score to pairs of writers: what wrote the query's stream, and what wrote the key's.

A score is bilinear in the two residual streams, if the scale of every norm on the way is the traced one:

    score = scale * q . k,  q = sum over writers w of A_q w + bias,  k = sum over writers u of A_k u + bias

A_q and A_k contain the norms, the matrices of q and k, and RoPE at the two positions (Elhage et al., "A
Mathematical Framework for Transformer Circuits", 2021). Sums are float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..explaining.elements import find_element
from ..models.language_model import LanguageModel
from ..notebook import in_notebook
from ..operations import norm
from ..operations.pass_state import PassState
from ..plans.kinds import Add, Elementwise, Linear, Norm, Rotation, Scores
from ..plans.plan import Operation, Plan
from ..plans.rope import turn
from ..rounding.invariants import OF_SUMS
from ..text.frozen import frozen
from ..tracing.findings import Check
from ..tracing.result import Trace
from ..tracing.trace import trace
from .writes import Observed, direct_writes, times_matrix, way_to

PAIRS = 100  # the number of pairs in a result


@frozen
class ScorePart:
    """The part of a score that two writers make: one of the query's stream, one of the key's stream. An empty
    name stands for all writers."""

    query: str
    key: str
    value: float


@frozen(slots=False)
class ScoreByWriter:
    """A traced score, its parts by writer, the largest of `pair_count` pairs, and the check of the sum."""

    SCHEMA = "microgpt.score_writers/1"

    model: str
    text: str
    element: str
    labels: tuple[str, ...]  # the tokens of the query and of the key
    score: float
    total: float
    check: Check
    queries: tuple[ScorePart, ...]
    keys: tuple[ScorePart, ...]
    pairs: tuple[ScorePart, ...]
    pair_count: int
    _repr_html_ = in_notebook


@np.errstate(all="ignore")
def score_by_writer(
    model: LanguageModel, element: str, text: str | None = None, *, tokens: Sequence[int] | None = None
) -> ScoreByWriter:
    """Return the parts of one score before the mask, such as "layer0.attn.scores[1,3,2]", by writers: events
    and bias parameters. Raises InputError if the element is no score, or if hooks are subscribed, because the
    value that a hook inserts has no writer."""
    inputs, plan = model.read(text, tokens), model.plan
    target = find_element(model, element, plan.shapes(len(inputs.tokens)))
    row = plan[target.name]
    names = row.inputs if isinstance(row.kind, Add) else (row.name,)  # latent attention adds scores
    rows: list[Operation[Any]] = [plan[name] for name in names]
    if not all(isinstance(own.kind, Scores) for own in rows) or len(model.hooks):
        expected = "an attention score, such as layer0.attn.scores[0,3,2], in a run without hooks"
        raise InputError(f"{element}: expected {expected}")
    chains = [_rows_behind(plan, name) for own in rows for name in own.inputs]
    ways = ((*chain, *way_to(plan, chain[-1].inputs[0])) for chain in chains)
    kept = [row.name, *{name for way in ways for each in way for name in (each.name, *each.inputs)}]
    run = trace(model, text, tokens=tokens, names=kept, values=kept)
    head, *places = target.index
    queries, keys = (
        _joined([_vectors(model, run, own, which, head, place) for own in rows])
        for which, place in enumerate(places)
    )
    q, k = (np.concatenate(list(vectors.values())) for vectors in (queries, keys))
    parts = q @ k.T * rows[0].kind.scale  # [writers of the query, writers of the key]
    score, total = float(run[row.name][target.index]), float(parts.sum())
    off, tolerance = float(abs(total - score) / (np.abs(parts).sum() or 1.0)), OF_SUMS[model.dtype]
    check = Check("score", "the parts sum to the score", off <= tolerance, off, tolerance)
    largest = [np.unravel_index(n, parts.shape) for n in np.argsort(-np.abs(parts), axis=None)[:PAIRS]]
    return ScoreByWriter(
        model.origin, inputs.text, str(target), tuple(inputs.labels[i] for i in places), score, total, check,
        tuple(ScorePart(name, "", float(own.sum())) for name, own in zip(queries, parts, strict=True)),
        tuple(ScorePart("", name, float(own.sum())) for name, own in zip(keys, parts.T, strict=True)),
        tuple(ScorePart([*queries][i], [*keys][j], float(parts[i, j])) for i, j in largest), parts.size,
    )  # fmt: skip


def _rows_behind(plan: Plan, name: str) -> list[Operation]:
    """Return the rows from a query or key back to the product that reads the stream, or its norm."""
    rows = list(plan.behind(name))
    while isinstance(plan[plan.source(rows[-1].inputs[0])].kind, Linear):  # of a latent vector
        rows += plan.behind(rows[-1].inputs[0])
    return rows


def _joined(vectors: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Return what each writer adds to the vectors of several products, side by side."""
    none = [np.zeros_like(next(iter(own.values()))) for own in vectors]
    writers = dict.fromkeys(name for own in vectors for name in own)
    return {
        name: np.concatenate([own.get(name, zero) for own, zero in zip(vectors, none, strict=True)], axis=1)
        for name in writers
    }


def _vectors(
    model: LanguageModel, run: Trace, scores: Operation[Any], which: int, head: int, place: int
) -> dict[str, Array]:
    """Return what each writer adds to the query (`which` is 0) or the key of a head: [1, D] by the name of
    the writer"""
    name, dim = scores.inputs[which], scores.kind.head_dim
    own = scores.kind.group[head] if which else head
    columns = slice(own * dim, (own + 1) * dim)
    along = np.eye(run[name].shape[1])[None, columns]  # [1, D, W] the gradients of the head's columns
    parts = dict[str, Array]()
    for row in _rows_behind(model.plan, name):  # RoPE, the norm of heads, and the product
        if isinstance(row.kind, Rotation):
            cos, sin = PassState(model, np.zeros(len(run[name]))).turns(row.kind)
            along = turn(along[0], (cos[[place]], -sin[[place]]), row.kind.head_dim, row.kind.pairs)[None]
        elif isinstance(row.kind, Norm):
            gain = None if row.kind.gain is None else model.parameter(row.kind.gain)
            along = norm.frozen(row.kind, along, run[row.inputs[0]][[place]], gain)
        elif isinstance(row.kind, Elementwise):
            x, y = run[row.inputs[0]][[place]], run[row.name][[place]]
            along = along * np.divide(y, x, out=np.zeros_like(x), where=x != 0)
        elif isinstance(row.kind, Linear):
            if row.bias is not None:
                parts[row.bias] = along @ model.parameter(row.bias)
            along = times_matrix(model, row.kind.weight, along[0])[None]
    way = way_to(model.plan, row.inputs[0])
    used = {name: run[name][[place]] for each in way for name in (each.name, *each.inputs)}
    return parts | direct_writes(model, Observed(way, used), np.empty(0), {row.inputs[0]: along})[1]
