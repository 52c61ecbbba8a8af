"""Command lines that are printed to be copied. All of them are made here."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote


def quoted(word: str) -> str:
    """A word as a POSIX shell takes it, on one line; what is not printable as bash and zsh spell it."""
    if word.isprintable():
        return quote(word)
    return "$'" + "".join(map(_spelled, word)) + "'"


def _spelled(char: str) -> str:
    if char.isprintable() and char not in "\\'":
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of the command line that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def command(name: str, words: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """`microgpt NAME` with these arguments and the options behind them, or before them where an argument
    would be taken for an option."""
    dashed = any(word.startswith("-") for word in words)
    rest = [*options, "--", *words] if dashed else [*words, *options]
    return " ".join(["microgpt", name, *map(quoted, rest)])
