"""Encoding by a tokenizer.json, as `tokenizers` builds it from the file. Runs in a process of its own
(`sandbox`): its rules are a program, of which the package bounds neither time nor memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from tokenizers import Tokenizer

from ..errors import FileFormatError, InputError, MicrogptError
from .sandbox_process import one_line


def encode(path: str, text: str, special: bool) -> list[int]:
    """The ids of a text, without BOS and EOS. Raises InputError, and FileFormatError for no tokenizer."""
    tokenizer = _tokenizer(path)
    tokenizer.encode_special_tokens = not special
    with _foreign_code(InputError, f"cannot encode {text!r:.60}"):
        return tokenizer.encode(text, add_special_tokens=False).ids


@lru_cache(maxsize=1)
def _tokenizer(path: str) -> Tokenizer:
    with _foreign_code(FileFormatError, "no tokenizer"):
        tokenizer = Tokenizer.from_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def _foreign_code(kind: type[MicrogptError], what: str) -> Iterator[None]:
    """What goes wrong inside, as an error of ours: `tokenizers` raises bare Exceptions, and a panic of its
    Rust code, which a hostile file can provoke, is not even one of these."""
    try:
        yield
    except BaseException as error:
        raise kind(f"{what}: {one_line(error)}") from error
