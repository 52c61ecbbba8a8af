"""Characters <-> ids. One special token, BOS, begins a name and ends it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

from ..errors import InputError
from ..text.brief import brief, frozen, token_list
from ..text.printable import on_one_line, shown_token

BOS_LABEL = "BOS"
EOS_LABEL = "EOS"
HINTED = 1000  # characters of a text that a hint is made for
MAX_SAID = 200  # characters in a description of the vocabulary


@frozen
class Tokenizer:
    """The characters of a vocabulary and where BOS stands: before them (id 0) or after them."""

    chars: str = "abcdefghijklmnopqrstuvwxyz"
    bos: Literal["first", "last"] = "first"

    def __post_init__(self) -> None:
        if not isinstance(self.chars, str) or len(set(self.chars)) != len(self.chars):
            raise InputError(f"a vocabulary names each character once, found {brief(self.chars)}")
        if any("\ud800" <= char <= "\udfff" for char in self.chars):
            raise InputError("a vocabulary names characters, found half of one")
        if self.bos not in ("first", "last"):
            raise InputError(f"BOS stands first or last, found {brief(self.bos)}")

    @classmethod
    def of(cls, names: Iterable[str]) -> Tokenizer:
        """The sorted characters that occur in the names."""
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
        """The text in the case the vocabulary has: a capital that it lacks is lowered."""
        if not text.strip(self.chars):  # as nearly always: all of its characters are known
            return text
        return "".join(c if c in self.chars or len(c.lower()) > 1 else c.lower() for c in text)

    def encode(self, text: str) -> list[int]:
        """Ids of the characters, without BOS; capitals as `normalize` has them.

        Raises InputError naming the first character that is unknown.
        """
        for index, char in enumerate(text):
            if self.normalize(char) not in self.chars:
                hint = self._plain(text[:HINTED])
                raise InputError(
                    f"character {char!r} at position {index} of {brief(text)} is not in the vocabulary "
                    f"{self.describe_chars()}" + (f"; try {brief(hint)}" if hint else "")
                )
        return [self.chars.index(char) + self.first_id for char in self.normalize(text)]

    def encode_name(self, text: str) -> list[int]:
        """The name between two BOS: what the model reads is all but the last, its targets all but
        the first."""
        return [self.bos_id, *self.encode(text), self.bos_id]

    def decode(self, ids: Sequence[int]) -> str:
        """The characters of ids; BOS is left out."""
        return "".join(self.chars[i - self.first_id] for i in ids if i != self.bos_id)

    def token(self, text: str) -> int:
        """The token of a character, with ␣ for a blank, or of BOS and EOS. Raises InputError for others."""
        if text in (BOS_LABEL, EOS_LABEL):
            return self.bos_id
        ids = self.encode(text if "␣" in self.chars else text.replace("␣", " "))
        if len(ids) != 1:
            raise InputError(f"token {text!r}: expected one character, BOS, EOS or an id like #3")
        return ids[0]

    def name_of(self, tokens: Sequence[int]) -> str:
        """The name that is read as these tokens. Raises InputError for others than BOS and characters."""
        bos, size = self.bos_id, self.vocab_size
        if not tokens or tokens[0] != bos or bos in tokens[1:] or not all(0 <= t < size for t in tokens):
            raise InputError(
                f"tokens {token_list(tokens)}: this microGPT reads BOS = {bos}, then characters below {size}"
            )
        return self.decode(list(tokens[1:]))

    def label(self, token: int, target: bool = False) -> str:
        """How a token is written: its character, BOS as an input and EOS as a target. A character that a
        terminal would obey is spelled out."""
        if token == self.bos_id:
            return EOS_LABEL if target else BOS_LABEL
        return on_one_line(self.chars[token - self.first_id])

    def describe_chars(self) -> str:
        """The characters, runs of the alphabet shortened: "a..z"."""
        points = [*map(ord, self.chars)]
        cuts = [i for i in range(1, len(points)) if points[i] != points[i - 1] + 1]
        runs = [self.chars[start:stop] for start, stop in pairwise([0, *cuts, len(points)])]
        said = shown_token("".join(run if len(run) < 6 else f"{run[0]}..{run[-1]}" for run in runs))
        return said if len(said) <= MAX_SAID else f"{said[:MAX_SAID]}... ({len(points):,} characters)"

    def describe(self) -> str:
        """The convention in words: "0 = BOS and EOS, a..z = 1..26"."""
        last = self.first_id + len(self.chars) - 1
        return f"{self.bos_id} = BOS and EOS, {self.describe_chars()} = {self.first_id}..{last}"

    def _plain(self, text: str) -> str:
        """The text without accents and what else the vocabulary lacks, or nothing of it is left."""
        decomposed = unicodedata.normalize("NFKD", text)
        return "".join(c for c in self.normalize(decomposed) if c in self.chars)
