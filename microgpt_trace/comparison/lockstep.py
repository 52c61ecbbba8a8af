"""Sides that advance together: at any time an event or two of each is in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from ..running.streams import Piece
from .draws import DrawsSide
from .sides import ModelSide, Side


def side_by_side(
    sides: Sequence[Side], names: Sequence[str], draws: DrawsSide | None = None
) -> Iterator[list[Piece | None]]:
    """What every side has of an event, event by event, and behind them what the draws have; None of a
    side that has statistics alone.

    Attention scores that are not among `names` come from the first model only, because bands grow with
    them.
    """
    models = [side for side in sides if isinstance(side, ModelSide)]
    driver = models[0] if models else next((side for side in sides if not side.statistics), None)
    if driver is None:  # statistics alone: nothing passes by
        return
    chosen, observed = set(names), [*names, *_other_scores(models, names)]
    with ExitStack() as stack:
        for side in sides:
            stack.enter_context(side.run(observed))
        if draws is not None:
            stack.enter_context(draws.run(names))
        for piece in driver.pieces(names):
            taken = [
                piece if side is driver else side.take(piece) if _has(side, piece.name, chosen) else None
                for side in sides
            ]
            if piece.name not in chosen:
                yield [piece]
            else:
                yield [*taken, *(draws.take_all(piece) if draws is not None else ())]


def _has(side: Side, name: str, chosen: set[str]) -> bool:
    """Whether the side must give its part now: a model goes on only when it is taken."""
    return isinstance(side, ModelSide) or (name in chosen and not side.statistics)


def _other_scores(models: Sequence[ModelSide], names: Sequence[str]) -> list[str]:
    """Events of attention scores that all models have and that are not among the names."""
    common = [n for n in models[0].names if all(n in side.names for side in models)] if models else []
    return [name for name in common if name.endswith(".scores") and name not in names]
