"""Byte-pair encoding: turn text into ids, and the spelling of a token into bytes.

The package `tokenizers` merges the tokens. `tokenizers` receives only the tokens that are substrings of the
text's words, and the merges that result in such tokens. No other token can result from merging the words, so
the ids are equal to the ids with all tokens. Passing all 48,900 merges of SmolLM2 would take 28 ms, and
finding the few useful merges takes 7 ms.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError, check_installed
from ..text.frozen import frozen
from .pre_tokenizers import PreTokenizer
from .sandbox import seconds_left

SPACE_MARK = "\u2581"  # SentencePiece's character for a space
# The white space that `tokenizers` drops after a token: Unicode's, without the separators \x1c to \x1f
_WHITE = re.compile(r"^[^\S\x1c-\x1f]+")


# Turns text into ids, without BOS and EOS. If the second argument is True, special tokens are parsed.
Encoder = Callable[[str, bool], list[int]]


def tokenizers_package() -> Any:
    """Import the `tokenizers` package when text is first encoded. Raises InputError if the package is
    missing."""
    check_installed("tokenizers", "turning text into tokens needs")
    import tokenizers

    return tokenizers


def refusal(path: Path, reason: str) -> Encoder:
    """Return an encoder that raises FileFormatError because the file's tokenizer is not supported."""

    def refuse(text: str, special: bool) -> list[int]:
        raise FileFormatError(f"{path}: cannot turn text into tokens: {reason}")

    return refuse


def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's character for each byte. A printable byte stands for itself. All other bytes have the
    characters from U+0100 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in sorted(printable)} | {chr(256 + i): b for i, b in enumerate(moved)}


_BYTES = byte_alphabet()
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def literal_bytes(token: str) -> bytes:
    """Return the bytes of a token whose spelling in the file is its text."""
    return token.encode("utf-8", "surrogateescape")


def byte_level_bytes(token: str) -> bytes:
    """Return the bytes of a token that is written in GPT-2's alphabet."""
    try:
        return bytes(map(_BYTES.__getitem__, token))
    except KeyError:
        return literal_bytes(token)


def sentencepiece_bytes(token: str) -> bytes:
    """Return the bytes of a SentencePiece token: U+2581 is a space, <0x0A> is the byte 10."""
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else literal_bytes(token.replace(SPACE_MARK, " "))


@frozen(slots=False, eq=False)
class _Bpe:
    """The common part of the byte-level and the SentencePiece encoder. An encoder cuts fixed tokens out of a
    text, then merges the words between the fixed tokens. Fixed tokens are the `user_defined` tokens and, if
    special tokens are parsed, the `control` tokens. White space after the `stripping` tokens is dropped.
    """

    path: Path
    tokens: Sequence[str]
    user_defined: Collection[int]
    control: Collection[int]
    stripping: Collection[int]
    merges: Sequence[str]  # the first merge first, each "left right"

    def __call__(self, text: str, special: bool) -> list[int]:
        seconds_left()
        fixed = {self.tokens[i]: i for i in (*self.user_defined, *(self.control if special else ()))}
        parts = split_fixed(text, fixed)
        for i in range(1, len(parts), 2):
            if fixed[parts[i]] in self.stripping:
                parts[i + 1] = _WHITE.sub("", parts[i + 1])
        words = [self._words(part) if part else [] for part in parts[::2]]
        model = self._model(set(chain(*words)))
        ids = [[token.id for word in part for token in model.tokenize(word)] for part in words]
        for part, spelling in zip(ids, parts[1::2], strict=False):  # no fixed token follows the last part
            part.append(fixed[spelling])
        return list(chain(*ids))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return dict(zip(self.tokens, range(len(self.tokens)), strict=True))

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted(set(map(len, self.tokens)) - {0})

    def _pieces(self, words: set[str]) -> dict[str, int]:
        """Return the tokens that occur in the words, with the tokens' ids. Control tokens are left out."""
        ids, control = self._ids, set(self.control)
        pieces = (piece for word in words for piece in substrings(word, self._lengths) if piece in ids)
        return {piece: ids[piece] for piece in pieces if ids[piece] not in control}

    def _merges(self, pieces: Mapping[str, int]) -> list[tuple[str, str]]:
        """Return the merges whose result is one of the pieces, in the order of `merges`."""
        makers, others = self._makers
        numbers = [makers[piece] for piece in pieces if piece in makers]
        numbers += [number for piece in pieces for number in others.get(piece, ())]
        halves = [self.merges[number].split(" ") for number in sorted(numbers)]
        for merge in halves:
            if len(merge) != 2 or not all(half in self._ids for half in merge):
                raise FileFormatError(
                    f"{self.path}: expected merges of two tokens, found {' '.join(merge)!r:.60}"
                )
        return [(left, right) for left, right in halves if left in pieces and right in pieces]

    @cached_property
    def _makers(self) -> tuple[dict[str, int], dict[str, list[int]]]:
        """The number of the last merge that results in each token, and the numbers of all other merges that
        result in a token. Raises FileFormatError if the result of a merge is not a token."""
        results = [merge.replace(" ", "", 1) for merge in self.merges]
        if not all(map(self._ids.__contains__, results)):
            wrong = self.merges[next(i for i, token in enumerate(results) if token not in self._ids)]
            raise FileFormatError(f"{self.path}: the merge {wrong!r:.60} makes no token of the vocabulary")
        makers = dict(zip(results, range(len(results)), strict=True))
        others: dict[str, list[int]] = {}
        for number, token in enumerate(results if len(makers) < len(results) else ()):
            if makers[token] != number:
                others.setdefault(token, []).append(number)
        return makers, others

    def _words(self, text: str) -> list[str]:
        raise NotImplementedError

    def _model(self, words: set[str]) -> Any:
        raise NotImplementedError


def split_fixed(text: str, fixed: Collection[str]) -> list[str]:
    """Split a text at fixed tokens. In the result, fixed tokens have the odd indices. If several tokens
    match, the longest token is used."""
    present = sorted((token for token in fixed if token and token in text), key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, present))})", text) if present else [text]


def substrings(word: str, lengths: Sequence[int]) -> Iterator[str]:
    """Yield the substrings of a word whose length is in `lengths`. `lengths` must be in ascending order."""
    for start in range(len(word)):
        for length in lengths:
            if start + length > len(word):
                break
            yield word[start : start + length]


@frozen(slots=False, eq=False)
class ByteLevelBpe(_Bpe):
    """A byte-level BPE encoder, like GPT-2's. Patterns split a text into words, and bytes become characters
    before merging."""

    pre_tokenizer: PreTokenizer

    def _words(self, text: str) -> list[str]:
        if self.pre_tokenizer.composed:
            text = unicodedata.normalize("NFC", text)
        return [word for word, _ in self._split(text)]

    @cached_property
    def _split(self) -> Callable[[str], list[tuple[str, Any]]]:
        package = tokenizers_package()
        splitters, patterns = package.pre_tokenizers, self.pre_tokenizer.patterns
        steps = [splitters.Split(package.Regex(pattern), "isolated") for pattern in patterns]
        steps.append(splitters.ByteLevel(add_prefix_space=False, use_regex=False))
        return splitters.Sequence(steps).pre_tokenize_str

    def _model(self, words: set[str]) -> Any:
        pieces = self._pieces(words)
        self._check_bytes(words, pieces)
        ignore = self.pre_tokenizer.whole_words
        return tokenizers_package().models.BPE(pieces, self._merges(pieces), ignore_merges=ignore)

    def _check_bytes(self, words: set[str], pieces: Mapping[str, int]) -> None:
        """Raise InputError if a byte has no token, because `tokenizers` would drop the byte silently."""
        for word in words:
            missing = next((char for char in word if char not in pieces), None)
            if missing is not None:
                text = byte_level_bytes(word).decode("utf-8", "replace")
                byte = f"0x{_BYTES[missing]:02X}"
                raise InputError(
                    f"{self.path}: the vocabulary has no token for the byte {byte} of {text!r:.60}"
                )


@frozen(slots=False, eq=False)
class SentencePieceBpe(_Bpe):
    """A BPE encoder like SentencePiece's. Text is not split into words. Without `merges`, the first merge is
    the merge that results in a user-defined token, such as a run of spaces, or else in the token with the
    highest score. A character without a token becomes its bytes or the unknown token."""

    scores: Sequence[float]
    add_space_prefix: bool
    unknown: int | None

    def _words(self, text: str) -> list[str]:
        return [(SPACE_MARK if self.add_space_prefix else "") + text.replace(" ", SPACE_MARK)]

    @cached_property
    def _bytes(self) -> dict[str, int]:
        return {token: self._ids[token] for b in range(256) if (token := f"<0x{b:02X}>") in self._ids}

    def _model(self, words: set[str]) -> Any:
        pieces = self._pieces(words)
        self._check_characters(words, pieces)
        vocabulary, unknown = pieces | self._bytes, None
        if self.unknown is not None:
            unknown = " "  # no word has a space; the token's spelling may be invalid
            vocabulary[unknown] = self.unknown
        merges = self._merges(pieces) if self.merges else self._merges_by_score(pieces)
        bpe = tokenizers_package().models.BPE
        return bpe(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)

    def _merges_by_score(self, pieces: Mapping[str, int]) -> list[tuple[str, str]]:
        # Among equal scores, the longest left half comes first, as in the merges of tokenizer.json.
        merges = sorted(
            (-math.inf if id_ in self.user_defined else -self.scores[id_], -cut, cut - len(piece), id_, piece)
            for piece, id_ in pieces.items()
            for cut in range(1, len(piece))
            if piece[:cut] in pieces and piece[cut:] in pieces
        )
        return [(piece[:-cut], piece[-cut:]) for _, cut, _, _, piece in merges]

    def _check_characters(self, words: set[str], pieces: Mapping[str, int]) -> None:
        if self.unknown is None:
            for char in sorted(set(chain(*words)) - pieces.keys()):
                if not all(f"<0x{byte:02X}>" in self._bytes for byte in char.encode()):
                    raise InputError(
                        f"{self.path}: the vocabulary has no token for {char!r} and none for its bytes"
                    )
