"""Tokens as a person names them: a text, with ␣ for a blank, or an id as #7042."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import InputError
from .tokenizer import BOS_LABEL, EOS_LABEL

if TYPE_CHECKING:
    from .decoder import Decoder
    from .model import Model
    from .vocabulary.tokens import Vocabulary


def token_of(model: Model | Decoder, text: str) -> int:
    """The id of a token named so: its text (BOS and EOS for a microGPT), or #ID.

    Raises InputError for a text that is no single token of this model.
    """
    size = model.config.vocab_size
    if re.fullmatch("#[0-9]{1,9}", text):
        if int(text[1:]) >= size:
            raise InputError(f"token {text}: this model has tokens #0 to #{size - 1}")
        return int(text[1:])
    if model.family == "microgpt":
        if text in (BOS_LABEL, EOS_LABEL):
            return model.tokenizer.bos_id
        ids = model.tokenizer.encode(text)
        if len(ids) != 1:
            raise InputError(f"token {text!r}: expected one character, BOS, EOS or an id like #3")
        return ids[0]
    if model.vocabulary is None:
        raise InputError(f"token {text!r}: {model.origin} names no tokens; give an id like #7042")
    return _vocabulary_token(model.vocabulary, text.replace("␣", " "))


def _vocabulary_token(vocabulary: Vocabulary, text: str) -> int:
    wanted = text.encode("utf-8", "surrogatepass")  # a byte of the command line that is no UTF-8
    found = [i for i in range(vocabulary.size) if vocabulary.piece(i) == wanted] if wanted else []
    if found:
        return found[0]
    near = " " + text if not text.startswith(" ") else text.strip()
    other = (
        [i for i in range(vocabulary.size) if vocabulary.piece(i) == near.encode("utf-8", "surrogatepass")]
        if near
        else []
    )
    hint = f"; {near.replace(' ', '␣')!r} is #{other[0]}" if other else ""
    raise InputError(f"token {text.replace(' ', '␣')!r}: this model has no such token{hint}")


def token_label(model: Model | Decoder, token: int, target: bool = False) -> str:
    """How a token is written, blanks as ␣. `target`: as what follows, which may be EOS."""
    if model.family == "microgpt":
        return model.tokenizer.label(token, target)
    label = str(token) if model.vocabulary is None else model.vocabulary.label(token)
    return label.replace(" ", "␣")
