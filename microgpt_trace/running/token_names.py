"""Tokens as a person names them: a text, with ␣ for a blank, or an id as #7042; and positions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ..architecture.model import LanguageModel
from ..errors import InputError
from ..text.printable import named_token, quoted, shown_token

LIKELIER, LIKELY = 10.0, 0.01  # how many times, and from which P on, a token is proposed for another


def token_of(model: LanguageModel, named: str | int) -> int:
    """The id of a token named so: its text (BOS and EOS for a microGPT), #ID or the id itself.

    Raises InputError for what is no single token of this model.
    """
    text, size = named if isinstance(named, str) else f"#{named}", model.config.vocab_size
    if re.fullmatch("#[0-9]{1,9}", text):
        if int(text[1:]) >= size:
            raise InputError(f"token {text}: this model has tokens #0 to #{size - 1}")
        return int(text[1:])
    return model.token(text)


def blank_notes(
    model: LanguageModel, named: str | int | None, chances: Iterable[Callable[[int], float]]
) -> list[str]:
    """A note where the text of a token, with a blank before it, is a much likelier token: at one position at
    least, for each of which `chances` has what gives the P of a token."""
    if not isinstance(named, str) or named.startswith(("#", "␣", " ")):
        return []
    try:
        own, other = token_of(model, named), token_of(model, f"␣{named}")
    except InputError:
        return []
    for p in chances:
        if p(other) >= max(LIKELY, LIKELIER * p(own)):
            meant, said = token_label(model, other), token_label(model, own)
            return [f"did you mean {meant}? It has P {p(other):.2g}, and {said} has P {p(own):.2g}"]
    return []


def token_label(model: LanguageModel, token: int, target: bool = False) -> str:
    """How a token is written, blanks as ␣. `target`: as what follows, which may be EOS."""
    return shown_token(model.label(token, target))


def token_with_id(model: LanguageModel, token: int, target: bool = False) -> str:
    """In words: "token ␣is (#314)", and "token '6' (#3)" of a digit, which is no id."""
    return f"token {named_token(model.label(token, target), token)} (#{token})"


def token_argument(model: LanguageModel, token: int) -> str:
    """What one types for a token that may follow: its text, or #ID where that names it no more."""
    text = token_label(model, token, target=True)
    try:
        return quoted(text if token_of(model, text) == token else f"#{token}")
    except InputError:
        return quoted(f"#{token}")


def chosen_positions(wanted: str | Sequence[int], length: int) -> list[int]:
    """The positions that get logits: "all", "last" or indices, which may count from the end."""
    if wanted == "all":
        return list(range(length))
    if wanted == "last":
        return [length - 1]
    if isinstance(wanted, str) or not wanted:
        raise InputError(f"positions: expected all, last or a list like 0,3,-1, found {wanted!r}")
    wrong = next((p for p in wanted if not -length <= p < length), None)
    if wrong is not None:
        raise InputError(f"position {wrong}: the prompt has positions 0 to {length - 1}")
    return sorted({p % length for p in wanted})
