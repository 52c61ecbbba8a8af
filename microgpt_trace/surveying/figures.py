"""The figures in the rows of a survey's report. The tables of a report and the comparison of two surveys both
follow from this description. This module does not know how a screen formats a number."""

from __future__ import annotations

from typing import Literal, NamedTuple

Unit = Literal["count", "nats", "percent", "few percent", "share", "mean", "growth", "bits", "value"]


class Figure(NamedTuple):
    """A figure of a row: its `name`, and the `path` of the attribute, such as "attention.first".

    `unit` decides the format of a table's cells; a figure without a unit is in no table. The title of the
    column is `title`, by default `name`. The column is left out on a screen of fewer than `from_width`
    characters. `scale` is a number, or the path of a number in the same row. The distance of a figure of two
    surveys is its change divided by the scale in survey A. Figures without a scale are not compared.
    """

    name: str
    path: str
    unit: Unit | None
    scale: str | float | None = None
    title: str = ""
    from_width: int = 0


# The figures of each kind of row. The scale 0 makes every change infinite.
FIGURES: dict[str, tuple[Figure, ...]] = {
    "prediction": (
        Figure("texts", "documents", "count"),
        Figure("tokens", "tokens", "count"),
        Figure("loss", "loss", "nats", "loss"),
        Figure("loss by text", "document_loss", "nats", "document_loss", "by text"),
        Figure("spread", "spread", "nats", "spread"),
        Figure("accuracy", "accuracy", "percent", 1),
        Figure("accuracy by text", "document_accuracy", "percent", 1, "by text", 100),
        Figure("texts all right", "all_right", "count", None, "", 90),
        Figure("mean 1/rank", "reciprocal_rank", "mean", 1, "", 90),
        Figure("losses not finite", "nonfinite", None, 0),
    ),
    "token": (
        Figure("times", "count", "count"),
        Figure("loss", "loss", "nats"),
        Figure("accuracy", "accuracy", "percent"),
        Figure("mean 1/rank", "reciprocal_rank", "mean"),
    ),
    "layer": (
        Figure("growth", "growth", "growth", "growth"),
        Figure("cosine", "cosine", "mean", 1),
        Figure("massive", "massive_share", "few percent", 1),
    ),
    "head": (
        Figure("entropy", "entropy", "share", "even_entropy"),
        Figure("self", "attention.itself", "share", 1),
        Figure("previous", "attention.previous", "share", 1),
        Figure("position 0", "attention.first", "share", 1),
        Figure("repeat", "attention.repeat", "share", 1),
    ),
    "router": (
        Figure("load", "load_entropy", "bits", "most_entropy"),
        Figure("router", "routing_entropy", "bits", "most_entropy"),
        Figure("token", "token_entropy", "bits", "most_entropy"),
        Figure("equal", "most_entropy", "bits"),
    ),
    "event": (
        Figure("mean", "mean", "value"),
        Figure("std", "std", "value"),
        Figure("least", "least", "value"),
        Figure("largest", "largest", "value"),
        Figure("zeros", "zeros", "few percent", 1),
        Figure("values not finite", "nonfinite", None, 0),
    ),
}
