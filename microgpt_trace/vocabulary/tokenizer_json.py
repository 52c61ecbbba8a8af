"""Encode text with a tokenizer.json, using the package `tokenizers`.

This module runs in a separate process (`sandbox`), because `tokenizers` limits neither time nor memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from tokenizers import Tokenizer

from ..errors import FileFormatError, InputError, MicrogptError
from .sandbox_process import one_line


def encode(path: str, text: str, special: bool) -> list[int]:
    """Return the ids of a text, without BOS and EOS. Raises InputError if encoding fails, and FileFormatError
    if the file is not a valid tokenizer."""
    tokenizer = _tokenizer(path)
    tokenizer.encode_special_tokens = not special
    with _foreign_code(InputError, f"cannot encode {text!r:.60}"):
        return tokenizer.encode(text, add_special_tokens=False).ids


@lru_cache(maxsize=1)
def _tokenizer(path: str) -> Tokenizer:
    with _foreign_code(FileFormatError, "not a valid tokenizer"):
        tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def _foreign_code(kind: type[MicrogptError], message: str) -> Iterator[None]:
    """Turn any exception into a MicrogptError. `tokenizers` raises Exception without a subclass. A hostile
    file can make the Rust code of `tokenizers` panic, which raises a BaseException."""
    try:
        yield
    except BaseException as error:
        raise kind(f"{message}: {one_line(error)}") from error
