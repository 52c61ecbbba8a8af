"""What the page of a patching shows beside its sections: the numbers of every site in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...patching.results import MeanPatched, PairsResult, Patched, PatchResult
from .page_view import PageView

Facts = Sequence[tuple[str, float | None]]


def patch_view(result: PatchResult | PairsResult) -> PageView:
    """Of each site how much it restores, and from which logit difference that comes."""
    if isinstance(result, PairsResult):
        return PageView(facts={cell.site: _mean(cell) for cell in result.cells})
    return PageView(facts=_patched(result.cells, result.corrupt.difference, result.clean.difference))


def _patched(cells: Sequence[Patched], corrupt: float, clean: float) -> Mapping[str, Facts]:
    ends = [("corrupted", corrupt), ("clean", clean)]
    return {
        cell.site: [("restored", cell.restored), ("logit difference", cell.difference), *ends]
        for cell in cells
    }


def _mean(cell: MeanPatched) -> Facts:
    return [("mean", cell.mean), ("std", cell.spread), ("pairs", cell.count)]
