"""JSON that others wrote, read within bounds. Knows no file and nothing of what the values mean."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 64
MAX_DIGITS = 64  # of an integer: far below what float() can take, above what transformers writes (31)
MAX_VALUES = 1 << 20  # 70 MB where each is an empty list, which is 3 bytes of text
MANY_VALUES = 1 << 23  # of vocabularies and traces; the largest tokenizer.json of today has 3 million

_DIGITS_AS_ZEROS = bytes(ord("0") if chr(i) in "123456789" else i for i in range(256))
_UNMARKED = bytes(i for i in range(256) if chr(i) not in '"[]{},')
_AS_BRACKETS = bytes(ord({"{": "[", "}": "]"}.get(chr(i), chr(i))) for i in range(256))
_STRING = re.compile(rb'"[^"]*"')


class OutOfBounds(ValueError):
    """It may be JSON, but more of it than is read."""


def from_json(text: str | bytes, *, most: int = MAX_VALUES, unique: bool = False) -> Any:
    """The value of a JSON text of at most `most` values. A key that is there twice is refused where `unique`
    says so; else the last one counts.

    Raises ValueError, its message short, for what is no JSON, and of this kind OutOfBounds for more values,
    for some nested deeper than MAX_DEPTH, and for an integer of more than MAX_DIGITS digits.
    """
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    if len(raw) > most or raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        _check_structure(raw, most)
    hooks: dict[str, Any] = {"object_pairs_hook": _without_repeats} if unique else {}
    if b"0" * MAX_DIGITS in raw.translate(_DIGITS_AS_ZEROS):  # the hook costs half as much again
        hooks["parse_int"] = _integer
    try:
        return json.loads(str(text, "utf-8") if isinstance(text, bytes) else text, **hooks)
    except RecursionError as error:  # of brackets that nothing closes
        raise OutOfBounds(f"values nested more than {MAX_DEPTH} deep") from error


def _check_structure(raw: bytes, most: int) -> None:
    """Count values and levels before any of them is made (a tenth of the time that reading them takes)."""
    marks = raw.replace(rb"\\", b"").replace(rb"\"", b"").translate(None, _UNMARKED)
    marks = _STRING.sub(b"", marks.replace(b'""', b"")).translate(_AS_BRACKETS)
    values = marks.count(b",") + marks.count(b"[") + 1  # or less: an empty list is counted twice
    if values > most:
        raise OutOfBounds(f"too many values; at most {most:,} are read")
    brackets = marks.translate(None, b",")
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets:
        raise OutOfBounds(f"values nested more than {MAX_DEPTH} deep")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise OutOfBounds(f"an integer of {len(digits):,} digits; at most {MAX_DIGITS} are read")
    return int(digits)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for name, value in pairs:
        if name in named:
            raise ValueError(f"{name[:80]!r} is there twice")
        named[name] = value
    return named
