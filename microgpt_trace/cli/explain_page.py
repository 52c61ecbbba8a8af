"""The page of `explain`: of a model that a page can run itself that of its trace, opened at the element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..tracing.trace import trace
from .drawn import sections_page

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..explaining.explanation import Explanation
    from ..render.sections import Section
    from .trace_page import PageOrder


def explanation_page(
    found: Explanation, model: LanguageModel, text: str | None, sections: Callable[[], Sequence[Section]],
    again: Callable[[str, bool], str], order: Callable[[], PageOrder | None],
) -> Callable[[str], str]:  # fmt: skip
    """Of other models the sections, whose names lead to the explanations of these. `again` gives the command
    of one, or of its gradient."""
    backward = found.phase == "backward"
    if "gradients" not in model.abilities:
        return sections_page(found.element, sections, lambda name: again(name, backward))

    def page(line: str) -> str:
        from ..render.page.trace_page import trace_page

        whole = trace(model, text, values=True, step=True)
        asked = order()
        assert asked is not None  # a page was asked for
        start = f"{'gradient ' * backward}{found.element}"
        return trace_page(whole, model, sections(), line, asked.again(whole, model), start=start)

    return page
