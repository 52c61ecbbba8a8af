"""Byte-pair encoding: text -> ids, and a token's spelling -> bytes. Knows no file format.

`tokenizers` does the merging. It is given only those tokens that are substrings of the text's words,
and the merges that make them: no other can arise on the way to these words, so the ids are the same.
(Handing over SmolLM2's 48,900 merges takes 28 ms, finding the few that matter takes 7.)
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError, check_installed
from ..text.brief import frozen

SPACE_MARK = "\u2581"  # SentencePiece's space

_CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
_GPT2 = rf"{_CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    rf"(?i:{_CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# How text is cut into words before merging: each pattern cuts what those before it left.
# Source: the tokenizers of GPT-2, Llama 3, Qwen2 and SmolLM, and what llama.cpp takes for "default".
PATTERNS: Mapping[str, tuple[str, ...]] = {
    "gpt-2": (_GPT2,),
    "llama-bpe": (_LLAMA3,),
    "qwen2": (_LLAMA3.replace("{1,3}", ""),),
    "smollm": (r"\p{N}", _GPT2),
    "default": (r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
ALIASES = {"gpt2": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe", "deepseek-r1-qwen": "qwen2"}


# Text -> ids, without BOS and EOS. Special tokens in the text are parsed where the second argument says so.
Encoder = Callable[[str, bool], list[int]]


def tokenizers_package() -> Any:
    """The `tokenizers` package, loaded when text is first encoded. Raises InputError where it is missing."""
    check_installed("tokenizers", "turning text into tokens needs")
    import tokenizers

    return tokenizers


def refusal(path: Path, reason: str) -> Encoder:
    """The encoder of a file whose tokens can be read but not made."""

    def refuse(text: str, special: bool) -> list[int]:
        raise FileFormatError(f"{path}: cannot turn text into tokens: {reason}")

    return refuse


def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes: printable ones stand for themselves, the others are moved
    behind U+0100 in their order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in sorted(printable)} | {chr(256 + i): b for i, b in enumerate(moved)}


_BYTES = byte_alphabet()
_BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")


def literal_bytes(token: str) -> bytes:
    """The bytes of a token that means what it says."""
    return token.encode("utf-8", "surrogateescape")


def byte_level_bytes(token: str) -> bytes:
    """The bytes of a token written in GPT-2's alphabet."""
    try:
        return bytes(map(_BYTES.__getitem__, token))
    except KeyError:
        return literal_bytes(token)


def sentencepiece_bytes(token: str) -> bytes:
    """The bytes of a SentencePiece token: U+2581 is a space, <0x0A> the byte 10."""
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else literal_bytes(token.replace(SPACE_MARK, " "))


@dataclass(frozen=True, eq=False)
class _Bpe:
    """What both kinds of vocabulary share: fixed tokens are cut out, the words between are merged.

    `user_defined` tokens are found in every text, `control` tokens only where special ones are parsed.
    """

    path: Path
    tokens: Sequence[str]
    user_defined: Collection[int]
    control: Collection[int]

    def __call__(self, text: str, special: bool) -> list[int]:
        fixed = {self.tokens[i]: i for i in (*self.user_defined, *(self.control if special else ()))}
        parts = split_fixed(text, fixed)
        words = [self._words(part) if part else [] for part in parts[::2]]
        model = self._model(set(chain(*words)))
        ids = [[token.id for word in part for token in model.tokenize(word)] for part in words]
        for part, spelling in zip(ids, parts[1::2], strict=False):  # the last part has none after it
            part.append(fixed[spelling])
        return list(chain(*ids))

    @cached_property
    def _ids(self) -> dict[str, int]:
        return dict(zip(self.tokens, range(len(self.tokens)), strict=True))

    @cached_property
    def _lengths(self) -> list[int]:
        return sorted(set(map(len, self.tokens)) - {0})

    def _pieces(self, words: set[str]) -> dict[str, int]:
        """The tokens that occur in the words; a control token is none of their pieces."""
        ids, control = self._ids, set(self.control)
        pieces = (piece for word in words for piece in substrings(word, self._lengths) if piece in ids)
        return {piece: ids[piece] for piece in pieces if ids[piece] not in control}

    def _words(self, text: str) -> list[str]:
        raise NotImplementedError

    def _model(self, words: set[str]) -> Any:
        raise NotImplementedError


def split_fixed(text: str, fixed: Collection[str]) -> list[str]:
    """The text between fixed tokens and, at odd places, these tokens; the longest wins."""
    present = sorted((token for token in fixed if token and token in text), key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, present))})", text) if present else [text]


def substrings(word: str, lengths: Sequence[int]) -> Iterator[str]:
    """All substrings of a word of these lengths, the shortest first."""
    for start in range(len(word)):
        for length in lengths:
            if start + length > len(word):
                break
            yield word[start : start + length]


@frozen(slots=False, eq=False)
class ByteLevelBpe(_Bpe):
    """GPT-2's kind: words by a pattern, their bytes as characters, merges in the order of their list."""

    merges: Sequence[str]  # "left right"
    pre_tokenizer: str

    def _words(self, text: str) -> list[str]:
        if self.pre_tokenizer == "qwen2":
            text = unicodedata.normalize("NFC", text)
        return [word for word, _ in self._cut(text)]

    @cached_property
    def _cut(self) -> Callable[[str], list[tuple[str, Any]]]:
        package = tokenizers_package()
        cutters = package.pre_tokenizers
        steps = [
            cutters.Split(package.Regex(pattern), "isolated") for pattern in PATTERNS[self.pre_tokenizer]
        ]
        steps.append(cutters.ByteLevel(add_prefix_space=False, use_regex=False))
        return cutters.Sequence(steps).pre_tokenize_str

    def _model(self, words: set[str]) -> Any:
        pieces = self._pieces(words)
        self._check_bytes(words, pieces)
        whole = self.pre_tokenizer == "llama-bpe"  # a word that is a token is not merged from its parts
        return tokenizers_package().models.BPE(pieces, self._merges(pieces), ignore_merges=whole)

    def _merges(self, pieces: Mapping[str, int]) -> list[tuple[str, str]]:
        """The merges that make one of the pieces, in their order."""
        makers, others = self._makers
        numbers = [makers[piece] for piece in pieces if piece in makers]
        numbers += [number for number, token in others if token in pieces]
        halves = [self.merges[number].split(" ") for number in sorted(numbers)]
        for merge in halves:
            if len(merge) != 2 or not all(half in self._ids for half in merge):
                raise FileFormatError(f"{self.path}: the merge {' '.join(merge)!r:.60} joins no two tokens")
        return [(left, right) for left, right in halves if left in pieces and right in pieces]

    @cached_property
    def _makers(self) -> tuple[dict[str, int], list[tuple[int, str]]]:
        """By token the number of the last merge that makes it, and other merges with the tokens that they
        make. Raises FileFormatError for one that makes none."""
        made = [merge.replace(" ", "", 1) for merge in self.merges]
        if not all(map(self._ids.__contains__, made)):
            wrong = next(i for i, token in enumerate(made) if token not in self._ids)
            raise FileFormatError(f"{self.path}: the merge {self.merges[wrong]!r:.60} makes no token")
        makers = dict(zip(made, range(len(made)), strict=True))
        others = enumerate(made) if len(makers) < len(made) else ()
        return makers, [(number, token) for number, token in others if makers[token] != number]

    def _check_bytes(self, words: set[str], pieces: Mapping[str, int]) -> None:
        """`tokenizers` would leave out in silence what the vocabulary has no token for."""
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
    """SentencePiece's kind: no words, the merge that makes the token of the highest score comes first,
    and a character without a token is written as its bytes, or as the unknown token."""

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
        merges = [
            (-self.scores[id_], piece[:cut], piece[cut:])
            for piece, id_ in pieces.items()
            for cut in range(1, len(piece))
            if piece[:cut] in pieces and piece[cut:] in pieces
        ]
        merges.sort(key=lambda merge: merge[0])
        vocabulary, unknown = pieces | self._bytes, None
        if self.unknown is not None:
            unknown = " "  # not its spelling, which may be no text; no word has a blank
            vocabulary[unknown] = self.unknown
        ranked = [(left, right) for _, left, right in merges]
        bpe = tokenizers_package().models.BPE
        return bpe(vocabulary, ranked, unk_token=unknown, fuse_unk=True, byte_fallback=True)

    def _check_characters(self, words: set[str], pieces: Mapping[str, int]) -> None:
        if self.unknown is None:
            for char in sorted(set(chain(*words)) - pieces.keys()):
                if not all(f"<0x{byte:02X}>" in self._bytes for byte in char.encode()):
                    raise InputError(
                        f"{self.path}: the vocabulary has no token for {char!r} and none for its bytes"
                    )
