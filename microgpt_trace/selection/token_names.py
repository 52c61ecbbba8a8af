"""Find tokens by their text, with ␣ for a blank, or by an id such as #7042, and positions by number."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from ..errors import InputError
from ..models.language_model import LanguageModel
from ..text.printable import named_token, quoted, shown_token

LIKELIER = 10.0  # another token is proposed if it is this many times as likely as the named token
LIKELY = 0.01  # another token is proposed if its probability is at least this


def token_of(model: LanguageModel, named: str | int) -> int:
    """Return the id of a token from its text (BOS and EOS for a microGPT), #ID or the id itself. Raises
    InputError if the model has no such token."""
    text, size = named if isinstance(named, str) else f"#{named}", model.config.vocab_size
    if re.fullmatch("#[0-9]{1,9}", text):
        if int(text[1:]) >= size:
            raise InputError(f"token {text}: expected an id from #0 to #{size - 1}")
        return int(text[1:])
    return model.token(text)


def blank_notes(
    model: LanguageModel, named: str | int | None, chances: Iterable[Callable[[int], float]]
) -> list[str]:
    """Return a note if the named text with a blank before it is a much more likely token at any position. For
    each position, `chances` contains a function from a token to its probability."""
    if not isinstance(named, str) or named.startswith(("#", "␣", " ")):
        return []
    try:
        own, other = token_of(model, named), token_of(model, f"␣{named}")
    except InputError:
        return []
    for p in chances:
        if p(other) >= max(LIKELY, LIKELIER * p(own)):
            likely, label = token_label(model, other), token_label(model, own)
            return [f"did you mean {likely}? It has P {p(other):.2g}, and {label} has P {p(own):.2g}"]
    return []


def token_label(model: LanguageModel, token: int, target: bool = False) -> str:
    """Return the text of a token, with blanks as ␣. A `target` token may be EOS."""
    return shown_token(model.label(token, target))


def token_with_id(model: LanguageModel, token: int, target: bool = False) -> str:
    """Describe a token, such as "token ␣is (#314)". A digit is quoted, because it is not an id: "token '6'
    (#3)"."""
    return f"token {named_token(model.label(token, target), token)} (#{token})"


def token_argument(model: LanguageModel, token: int) -> str:
    """Return the command line argument for a target token: its text, or #ID if the text is ambiguous."""
    text = token_label(model, token, target=True)
    try:
        return quoted(text if token_of(model, text) == token else f"#{token}")
    except InputError:
        return quoted(f"#{token}")


def chosen_positions(choice: str | Sequence[int], length: int) -> list[int]:
    """Return the positions for logits, from "all", "last" or indices. Negative indices count from the end.
    Raises InputError if a position is outside the prompt."""
    if choice == "all":
        return list(range(length))
    if choice == "last":
        return [length - 1]
    if isinstance(choice, str) or not choice:
        raise InputError(f"positions: expected all, last or a list such as 0,3,-1, found {choice!r}")
    wrong = next((p for p in choice if not -length <= p < length), None)
    if wrong is not None:
        raise InputError(f"position {wrong}: the prompt has positions 0 to {length - 1}")
    return sorted({p % length for p in choice})
