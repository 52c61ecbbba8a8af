"""How what a call gives shows itself in a notebook. Knows no result: how each is shown is said in render."""

from __future__ import annotations

from typing import Any


def in_notebook(result: Any) -> str:
    """The `_repr_html_` of a result."""
    from .render.notebook_html import result_html

    return result_html(result)
