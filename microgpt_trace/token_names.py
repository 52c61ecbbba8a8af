"""Tokens as a person names them: a text, with ␣ for a blank, or an id as #7042."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import InputError
from .printable import named_token, shown_token
from .shell import quoted
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
        ids = model.tokenizer.encode(text if "␣" in model.tokenizer.chars else text.replace("␣", " "))
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
    hint = f"; '{shown_token(near)}' is #{other[0]}" if other else ""
    raise InputError(f"token '{shown_token(text)}': this model has no such token{hint}")


def token_label(model: Model | Decoder, token: int, target: bool = False) -> str:
    """How a token is written, blanks as ␣. `target`: as what follows, which may be EOS."""
    return shown_token(_label(model, token, target))


def token_with_id(model: Model | Decoder, token: int, target: bool = False) -> str:
    """In words: "token ␣is (#314)", and "token '6' (#3)" of a digit, which is no id."""
    return f"token {named_token(_label(model, token, target), token)} (#{token})"


def token_argument(model: Model | Decoder, token: int) -> str:
    """What one types for a token that may follow: its text, or #ID where that names it no more."""
    text = token_label(model, token, target=True)
    try:
        return quoted(text if token_of(model, text) == token else f"#{token}")
    except InputError:
        return quoted(f"#{token}")


def _label(model: Model | Decoder, token: int, target: bool) -> str:
    if model.family == "microgpt":
        return model.tokenizer.label(token, target)
    return str(token) if model.vocabulary is None else model.vocabulary.label(token)
