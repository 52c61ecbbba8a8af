"""Make text safe to print, whatever a file contains, and write command lines that a user can copy.

Characters without a visible shape are escaped: a control character such as ESC as \\x1b, a character that
changes the reading direction as \\u202e, and half of a surrogate pair as \\udcff.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from shlex import quote

LONGEST = 2000  # largest number of characters of a note or an error


def on_one_line(text: str) -> str:
    """Escape every unprintable character, so that no text controls a terminal. A line end becomes \\n."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_lines(text: str) -> str:
    """Escape every unprintable character except line ends."""
    return "\n".join(map(on_one_line, text.split("\n")))


def as_message(text: str) -> str:
    """Return a note or an error on one line, without the middle of a line that is longer than LONGEST."""
    line, kept = on_one_line(text.strip()), LONGEST // 2
    if len(line) <= LONGEST:
        return line
    return f"{line[:kept]} ... ({len(line) - 2 * kept:,} characters left out) ... {line[-kept:]}"


def shown_token(text: str) -> str:
    """Return a token with visible spaces, as in every view: " is" as ␣is. An empty token is shown as ''."""
    return on_one_line(text.replace(" ", "␣")) or "''"


def named_token(text: str, token: int) -> str:
    """Return a token to print next to its id. Quote a token of digits, which would look like an id."""
    shown = shown_token(text)
    return repr(shown) if shown.isdecimal() and shown != str(token) else shown


def with_ids(texts: Iterable[str], tokens: Iterable[int]) -> str:
    """Return tokens and their ids on one line, such as "BOS=0 e=5 '7'=6"."""
    return " ".join(f"{named_token(text, token)}={token}" for text, token in zip(texts, tokens, strict=False))


def quoted(word: str) -> str:
    """Quote a word for a POSIX shell, on one line. A word with unprintable characters needs bash or zsh."""
    if word.isprintable():
        return quote(word)
    return "$'" + "".join(map(_escape, word)) + "'"


def _escape(char: str) -> str:
    if char.isprintable() and char not in "\\'":
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # Python's form of a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def command(name: str, words: Sequence[str] = (), options: Sequence[str] = ()) -> str:
    """Return the command line `microgpt NAME ARGUMENTS OPTIONS`. If an argument begins with a dash, write the
    options first, then "--", then the arguments."""
    dashed = any(word.startswith("-") for word in words)
    rest = [*options, "--", *words] if dashed else [*words, *options]
    return " ".join(["microgpt", name, *map(quoted, rest)])
