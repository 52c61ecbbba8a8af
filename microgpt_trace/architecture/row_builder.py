"""RowBuilder: collects the rows of a plan. Knows no architecture."""

from __future__ import annotations

from collections.abc import Sequence

from .kinds import Kind
from .plan import Operation, stage_of


class RowBuilder:
    """Collects the rows of a plan. Within a layer the names of its events and parameters come without it:
    attn.q, attn_wq."""

    def __init__(self) -> None:
        self.rows: list[Operation] = []
        self._prefix = ""
        self._layer: int | None = None

    def begin_layer(self, index: int | None) -> None:
        """What follows is in this layer, or after them."""
        self._prefix, self._layer = "" if index is None else f"layer{index}.", index

    def name(self, own: str) -> str:
        """The whole name of an event or a parameter of this layer."""
        return self._prefix + own if own.startswith(("attn", "mlp")) else own

    def add(
        self, name: str, kind: Kind, *inputs: str, expr: str, behind: str = "", overview: bool = False,
        extra: bool = False, parts: Sequence[str] = (),
    ) -> str:  # fmt: skip
        """Add a row; its whole name."""
        whole = self.name(name)
        self.rows.append(
            Operation(
                whole, stage_of(name), self._layer, expr, behind, kind.causal, overview, extra, kind,
                tuple(map(self.name, inputs)), tuple(parts),
            )
        )  # fmt: skip
        return whole
