"""Tokens as a table calls them."""

from __future__ import annotations

from rich.cells import cell_len, set_cell_size

from ..text.printable import shown_token

WIDTH = 12  # characters of a terminal


def token_label(text: str, width: int = WIDTH) -> str:
    """A token, its blanks to be seen, as far as a table has room for it."""
    label = shown_token(text)
    return label if cell_len(label) <= width else f"{set_cell_size(label, width - 1).rstrip()}…"
