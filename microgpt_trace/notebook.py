"""Lets results show themselves in a notebook. Knows no result: render has the views of each."""

from __future__ import annotations

from typing import Any


def in_notebook(result: Any) -> str:
    """Return the HTML of a result; results use it as their `_repr_html_`."""
    from .render.notebook_html import result_html

    return result_html(result)
