"""Text as a terminal may be given it: whatever is in a file, nothing of it is obeyed; and command lines that
are printed to be copied, all of which are made here. Knows no terminal.

Control characters (C0, C1), those that turn the reading direction, and all others without a shape of
their own are spelled out: ESC as \\x1b, U+202E as \\u202e, half of a surrogate pair as \\udcff.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from shlex import quote

LONGEST = 2000  # characters of a note or an error


def on_one_line(text: str) -> str:
    """The text without anything that a terminal would obey; a line's end becomes \\n."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_lines(text: str) -> str:
    """The same, but the ends of lines stay what they are."""
    if text.isprintable() or text.replace("\n", "").isprintable():
        return text
    return "\n".join(map(on_one_line, text.split("\n")))


def as_message(text: str) -> str:
    """A note or an error on one line that somebody reads."""
    return shortened(on_one_line(text.strip()))


def shortened(text: str) -> str:
    """The text, or of a very long one its beginning and its end."""
    if len(text) <= LONGEST:
        return text
    kept = LONGEST // 2
    return f"{text[:kept]} ... ({len(text) - 2 * kept:,} characters left out) ... {text[-kept:]}"


def shown_token(text: str) -> str:
    """A token as every view shows it, its blanks to be seen: " is" as ␣is. An empty one is ''."""
    return on_one_line(text.replace(" ", "␣")) or "''"


def named_token(text: str, token: int) -> str:
    """The same beside its id: digits are quoted, so that they are not taken for one."""
    shown = shown_token(text)
    return repr(shown) if shown.isdecimal() and shown != str(token) else shown


def with_ids(texts: Iterable[str], tokens: Iterable[int]) -> str:
    """Tokens and their ids in a line: "BOS=0 e=5 '7'=6" """
    return " ".join(f"{named_token(text, token)}={token}" for text, token in zip(texts, tokens, strict=False))


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
