"""The logit lens: the predictions of a model that ends after a layer, or after the layer's attention.

The lens finds the layers in the model's plan. The logits of all layers are never in memory at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..arrays.logits import best_tokens, in_products, rank_of, softmax
from ..arrays.stats import Array
from ..hooks.event import TraceEvent
from ..interpreter.run import final_forward, head_forward
from ..models.language_model import LanguageModel
from ..plans.plan import Plan
from ..selection.token_names import blank_notes, token_of
from .result import Candidate, LensRow, TargetRow, candidate_of


def streams_within(plan: Plan) -> list[list[str]]:
    """List the streams of each layer: after attention (except in a parallel layer) and after the layer."""
    sums = ([row.name for row in rows if row.name in plan.residuals] for rows in plan.layers)
    return [[*names[:-1], leaving] for names, leaving in zip(sums, plan.streams[1:], strict=True)]


class Lens:
    """A hook that keeps the residual streams at chosen positions. Subscribe a Lens to `names`.

    After the pass, `results` has `depth` candidates at `positions` for every layer. `results` also gives the
    probability of the target at the positions `targeted`, after every attention and every layer. If the token
    with a leading blank is much more likely than the target, `notes` suggest this token.
    """

    def __init__(
        self, model: LanguageModel, positions: Sequence[int], depth: int, target: str | int | None,
        targeted: Sequence[int],
    ) -> None:  # fmt: skip
        self.notes: list[str] = []
        self._model, self._depth, self._named = model, depth, target
        self._target = None if target is None else token_of(model, target)
        self._layer_of = {
            name: layer for layer, names in enumerate(streams_within(model.plan)) for name in names
        }
        self._last, self._leaving = model.plan.streams[-1], set(model.plan.streams[1:])
        self._positions, self._targeted = positions, targeted if target is not None else ()
        self._kept: dict[str, Array] = {}
        self.names = [name for name in self._layer_of if self._positions_of(name)]

    def __call__(self, event: TraceEvent, value: Array) -> None:
        self._kept[event.name] = value[list(self._positions_of(event.name))]

    def results(self) -> tuple[tuple[LensRow, ...], tuple[TargetRow, ...]]:
        """Return a row for each layer, and a row for each stream and position of the target."""
        tops: dict[int, list[tuple[Candidate, ...]]] = {}
        targets, targeted = list[TargetRow](), set(self._targeted)
        for name, position, logits in self._logits():
            layer, probs = self._layer_of[name], softmax(logits)
            finite = math.isfinite(float(probs.sum()))
            if name in self._leaving:
                best = best_tokens(logits, self._depth) if finite else []
                tops.setdefault(layer, []).append(tuple(candidate_of(self._model, probs, t) for t in best))
            if self._target is not None and position in targeted:
                rank = rank_of(logits, self._target) if finite else None
                target = candidate_of(self._model, probs, self._target)
                targets.append(TargetRow(layer, name, position, target, rank))
                if name == self._last and not self.notes:
                    self.notes = blank_notes(self._model, self._named, [probs.item])
        positions = tuple(self._positions)
        rows = (
            LensRow(layer, positions, tuple(best[0] if best else None for best in top), tuple(top))
            for layer, top in tops.items()
        )
        return tuple(rows), tuple(targets)

    def _positions_of(self, name: str) -> Sequence[int]:
        return self._positions if name in self._leaving else self._targeted

    def _logits(self) -> Iterator[tuple[str, int, Array]]:
        """Yield the stream, the position and the logits [V] of every row that was kept."""
        places = [(name, position) for name in self._kept for position in self._positions_of(name)]
        stacked = final_forward(self._model, np.concatenate(list(self._kept.values())))
        for part in in_products(len(stacked), self._model.config.vocab_size):
            for place, row in zip(places[part], head_forward(self._model, stacked[part]), strict=True):
                yield (*place, row)
