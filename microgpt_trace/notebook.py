"""Shows results in a notebook. The package `render` contains the views of each result."""

from __future__ import annotations

from typing import Any


def in_notebook(result: Any) -> str:
    """Return the HTML of a result. This function is the `_repr_html_` of all results."""
    from .render.notebook_html import result_html

    return result_html(result)
