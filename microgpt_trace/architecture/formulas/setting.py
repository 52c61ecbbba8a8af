"""Setting: what the formulas of rows depend on besides these. Knows no kind."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..kinds import Shape
from ..plan import Plan


@dataclass(frozen=True, eq=False)
class Setting:
    """A plan, and what hooks put other values in the place of, by pass and name."""

    plan: Plan
    replaced: Collection[tuple[str, str]] = ()

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Of the events, for texts of any length."""
        return self.plan.open_shapes

    def is_cut(self, name: str) -> bool:
        """Whether a hook replaced an event, so that the loss no longer depends on what it had read."""
        return ("forward", name) in self.replaced

    def is_touched(self, name: str) -> bool:
        """Whether a hook replaced an event or its gradient."""
        return self.is_cut(name) or ("backward", name) in self.replaced
