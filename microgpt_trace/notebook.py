"""Shows results in a notebook. A result does not import its view, which lies above it: when the package is
imported, it registers the function that writes the HTML of all results."""

from __future__ import annotations

TYPE_CHECKING = False  # as in __init__.py
if TYPE_CHECKING:
    from collections.abc import Callable

_writers: list[Callable[[object], str]] = []


def register_writer(writer: Callable[[object], str]) -> None:
    """Let `writer` write the HTML of all results."""
    _writers.append(writer)


def in_notebook(result: object) -> str:
    """Return the HTML of a result. This function is the `_repr_html_` of all results."""
    return _writers[-1](result)
