"""The tokenizer of a microGPT turns characters into ids and back. BOS marks both ends of a name."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from ..errors import InputError
from ..text.brief import brief, token_list
from ..text.frozen import frozen
from ..text.printable import on_one_line, shown_token

BOS_LABEL = "BOS"
EOS_LABEL = "EOS"
HINTED = 1000  # largest number of characters of a text that a hint uses
PLAIN = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "ß": "ss", "æ": "ae", "œ": "oe", "đ": "d"})
MAX_LENGTH = 200  # largest number of characters in a description of the vocabulary


@frozen
class Tokenizer:
    """A vocabulary of the characters `chars` and BOS. BOS is the first token (id 0) or the last token."""

    chars: str = "abcdefghijklmnopqrstuvwxyz"
    bos: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        if not isinstance(self.chars, str) or len(set(self.chars)) != len(self.chars):
            raise InputError(f"chars: expected each character once, found {brief(self.chars)}")
        if any("\ud800" <= char <= "\udfff" for char in self.chars):
            raise InputError("chars: expected valid characters, found half a character (a surrogate)")
        if self.bos not in ("first", "last"):
            raise InputError(f"bos: expected first or last, found {brief(self.bos)}")

    @classmethod
    def of(cls, names: Iterable[str]) -> Tokenizer:
        """Make a tokenizer from the sorted characters of these names."""
        return cls("".join(sorted(set().union(*names))))

    @property
    def vocab_size(self) -> int:
        return len(self.chars) + 1

    @property
    def bos_id(self) -> int:
        return 0 if self.bos == "first" else len(self.chars)

    @property
    def first_id(self) -> int:
        """The id of the first character."""
        return 1 if self.bos == "first" else 0

    def normalize(self, text: str) -> str:
        """Turn capital letters that are not in the vocabulary into lower case."""
        if not text.strip(self.chars):  # usually all characters are in the vocabulary
            return text
        return "".join(c if c in self.chars or len(c.lower()) > 1 else c.lower() for c in text)

    def encode(self, text: str) -> list[int]:
        """Return the ids of the characters of a text after `normalize`, without BOS. Raises InputError at the
        first character that is not in the vocabulary.
        """
        for index, char in enumerate(text):
            if self.normalize(char) not in self.chars:
                hint = self.nearest(text[:HINTED])
                raise InputError(
                    f"character {char!r} at position {index} of {brief(text)} is not in the vocabulary "
                    f"{self.describe_chars()}" + (f"; try {brief(hint)}" if hint else "")
                )
        return [self.chars.index(char) + self.first_id for char in self.normalize(text)]

    def encode_name(self, text: str) -> list[int]:
        """Return the ids of a name between two BOS. The model reads all ids except the last id. The targets
        are all ids except the first id."""
        return [self.bos_id, *self.encode(text), self.bos_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, without BOS."""
        return "".join(self.chars[i - self.first_id] for i in ids if i != self.bos_id)

    def token(self, text: str) -> int:
        """Return the token of a character (␣ is a space), BOS or EOS. Raises InputError for another text."""
        if text in (BOS_LABEL, EOS_LABEL):
            return self.bos_id
        ids = self.encode(text if "␣" in self.chars else text.replace("␣", " "))
        if len(ids) != 1:
            raise InputError(f"token {text!r}: expected one character, BOS, EOS or an id like #3")
        return ids[0]

    def name_of(self, tokens: Sequence[int]) -> str:
        """Return the name that tokens spell. Raises InputError unless they are BOS and then characters."""
        bos, size = self.bos_id, self.vocab_size
        if not tokens or tokens[0] != bos or bos in tokens[1:] or not all(0 <= t < size for t in tokens):
            raise InputError(
                f"tokens {token_list(tokens)}: expected BOS = {bos}, then ids of characters below {size}"
            )
        return self.decode(list(tokens[1:]))

    def label(self, token: int, target: bool = False) -> str:
        """Return the label of a token: BOS (EOS as a target), or its character, escaped if unprintable."""
        if token == self.bos_id:
            return EOS_LABEL if target else BOS_LABEL
        return on_one_line(self.chars[token - self.first_id])

    def describe_chars(self) -> str:
        """Describe the characters. Consecutive characters are shortened, such as "a..z"."""
        points = [*map(ord, self.chars)]
        cuts = [i for i in range(1, len(points)) if points[i] != points[i - 1] + 1]
        runs = [self.chars[start:stop] for start, stop in pairwise([0, *cuts, len(points)])]
        text = shown_token("".join(run if len(run) < 6 else f"{run[0]}..{run[-1]}" for run in runs))
        return text if len(text) <= MAX_LENGTH else f"{text[:MAX_LENGTH]}... ({len(points):,} characters)"

    def describe(self) -> str:
        """Describe the ids in words: "0 = BOS and EOS, a..z = 1..26"."""
        last = self.first_id + len(self.chars) - 1
        return f"{self.bos_id} = BOS and EOS, {self.describe_chars()} = {self.first_id}..{last}"

    def nearest(self, text: str) -> str:
        """Return the text without accents and without characters outside the vocabulary.

        >>> Tokenizer().nearest("José O'Brien")
        'joseobrien'
        """
        chars = (c if c in self.chars else unicodedata.normalize("NFKD", c.translate(PLAIN)) for c in text)
        return "".join(c for c in self.normalize("".join(chars)) if c in self.chars)
