"""Read the vocabulary in the metadata of a GGUF or .apr file.

Missing GGUF keys have llama.cpp's defaults. An .apr file names no pre-tokenizer and no special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..text.frozen import frozen
from .bpe import (
    SPACE_MARK,
    ByteLevelBpe,
    Encoder,
    SentencePieceBpe,
    byte_level_bytes,
    literal_bytes,
    refusal,
    sentencepiece_bytes,
)
from .pre_tokenizers import ALIASES, PRE_TOKENIZERS, pre_tokenizer
from .tokens import Vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of tokens
LLAMA_CPP = "llama.cpp's default, because the file does not say"
ASSUMED = "assumed, because .apr files do not say"
# The user-defined, the control and the stripping tokens of an encoder
Fixed = tuple[Collection[int], Collection[int], Collection[int]]
_SPECIAL = re.compile(r"<\|.*\|>", re.DOTALL)
_PRE_TOKENIZERS = {128256: "llama-bpe", 49152: "smollm"}  # vocabulary size of a Llama model -> pre-tokenizer


@frozen(slots=False)
class Metadata:
    """Typed access to the metadata of a file. Each method returns None if a key is missing or null, and
    raises FileFormatError if a value is of the wrong type."""

    path: Path
    values: Mapping[str, Any]

    def _get(self, key: str, kind: type, expected: str) -> Any:
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            raise FileFormatError(f"{self.path}: {key}: expected {expected}, found {value!r:.60}")
        return value

    def text(self, key: str) -> str | None:
        return self._get(key, str, "text")

    def flag(self, key: str) -> bool | None:
        return self._get(key, bool, "true or false")

    def token(self, key: str, size: int) -> int | None:
        """Return a token id, which must be below the size of the vocabulary."""
        value = self._get(key, int, "a token id")
        if value is not None and not 0 <= value < size:
            raise FileFormatError(f"{self.path}: {key}: expected an id below {size:,}, found {value:,}")
        return value

    def strings(self, key: str) -> Sequence[str] | None:
        values = self.values.get(key)
        if getattr(values, "dtype", None) is str:  # decodes the texts when they are used: the 48,900 merges
            return values  # of SmolLM2 take 10 ms, and only texts need them
        return self._list(key, (str,), "a list of texts")

    def numbers(self, key: str, size: int) -> list[Any] | None:
        """Return a list with a number for each token. An empty list is treated as missing."""
        values: Any = self.values.get(key)
        if hasattr(values, "__len__") and len(values) not in (0, size):  # before tolist()
            raise FileFormatError(f"{self.path}: {key}: expected {size:,} numbers, found {len(values):,}")
        return self._list(key, (int, float), "a list of numbers") or None

    def _list(self, key: str, kinds: tuple[type, ...], expected: str) -> list[Any] | None:
        values: Any = self.values.get(key)
        is_array = hasattr(values, "tolist")
        values = values.tolist() if is_array else values
        if values is None:
            return None
        first = values[:1] if is_array else values  # the elements of an array have one type
        if not isinstance(values, list) or not set(map(type, first)).issubset(kinds):
            raise FileFormatError(f"{self.path}: {key}: expected {expected}, found {values!r:.60}")
        return values

    def tokens(self, key: str) -> Sequence[str]:
        tokens = [*(self.strings(key) or ())]
        if not tokens:
            raise FileFormatError(f"{self.path}: {key}: expected a list of tokens, found none")
        check_tokens(tokens, self.path)
        return tokens


def check_tokens(tokens: Sequence[str], path: Path) -> None:
    """Raise FileFormatError if a token is not valid Unicode. A surrogate escape stands for an invalid
    byte."""
    try:
        "".join(tokens).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        char = error.object[error.start]
        raise FileFormatError(f"{path}: expected tokens of valid Unicode, found {char!a}") from error


def _byte_level(
    path: Path, tokens: Sequence[str], fixed: Fixed, merges: Sequence[str] | None, pre: str | None
) -> Encoder:
    """Return the encoder of a byte-level vocabulary. The encoder raises an error if the merges are missing or
    the pre-tokenizer is unknown."""
    if pre is None:
        reason = "the file does not name its pre-tokenizer, and its architecture does not determine it"
        return refusal(path, reason)
    row = pre_tokenizer(pre)
    if row is None:
        known = ", ".join((*PRE_TOKENIZERS, *ALIASES))
        return refusal(path, f"its pre-tokenizer {pre!r:.60} is not one of {known}")
    if merges is None:
        return refusal(path, "it has no merges")
    return ByteLevelBpe(path, tokens, *fixed, merges, row)


def _adds_bos(pre: str | None) -> bool:
    row = pre_tokenizer(pre)
    return row is not None and row.adds_bos


def _sentencepiece(
    path: Path, tokens: Sequence[str], fixed: Fixed, scores: Sequence[float] | None, prefix: bool,
    unknown: int | None,
) -> Encoder:  # fmt: skip
    if scores is None:
        return refusal(path, "it has no scores")
    tokens = list(tokens)
    for i in fixed[0]:
        if not tokens[i].strip(" "):  # the converter unmarked Gemma's runs of spaces
            tokens[i] = SPACE_MARK * len(tokens[i])
    return SentencePieceBpe(path, tokens, *fixed, (), scores, prefix, unknown)


# --- GGUF -------------------------------------------------------------------------------------


def from_gguf(metadata: Mapping[str, Any], path: Path) -> Vocabulary | None:
    """Return the vocabulary of a GGUF file, or None if the file has no vocabulary. Missing values have the
    defaults of llama.cpp. Raises FileFormatError if the metadata are inconsistent. If the tokenizer is not
    supported, encoding a text raises FileFormatError.
    """
    file = Metadata(path, metadata)
    model = file.text("tokenizer.ggml.model")
    if model in (None, "none", "no_vocab"):
        return None
    tokens = file.tokens("tokenizer.ggml.tokens")
    size = len(tokens)
    numbers = file.numbers("tokenizer.ggml.token_type", size) or ()
    types = {i: kind for i, kind in enumerate(numbers) if kind != NORMAL}
    keys = [f"tokenizer.ggml.{end}_token_id" for end in ("bos", "eos", "eot", "eom")]
    bos_id, eos_id, *ends = (file.token(key, size) for key in keys)
    user_defined, control = _of_types(types, USER_DEFINED), _of_types(types, UNKNOWN, CONTROL)
    if model == "gpt2":
        fixed: Fixed = user_defined, control, ()
        name = file.text("tokenizer.ggml.pre")
        pre, note = name or "default", "" if name else f", {LLAMA_CPP}"
        encoder = _byte_level(path, tokens, fixed, file.strings("tokenizer.ggml.merges"), pre)
        kind, to_bytes, bos = f"byte-level BPE ({pre:.60}{note})", byte_level_bytes, _adds_bos(pre)
    elif model == "llama":
        unknown = file.token("tokenizer.ggml.unknown_token_id", size)
        if unknown is None:
            unknown = min(_of_types(types, UNKNOWN), default=None)
        scores = file.numbers("tokenizer.ggml.scores", size)
        prefix = file.flag("tokenizer.ggml.add_space_prefix") is not False
        fixed = user_defined, control, _stripping(file, tokens, user_defined | control)
        encoder = _sentencepiece(path, tokens, fixed, scores, prefix, unknown)
        kind, to_bytes, bos = "SentencePiece BPE", sentencepiece_bytes, True
        if size > 2:
            bos_id, eos_id = 1 if bos_id is None else bos_id, 2 if eos_id is None else eos_id
    elif model == "gemma4":
        encoder = _gemma4(file, tokens, (user_defined, control, ()))
        kind, to_bytes, bos = "BPE of Gemma 4", sentencepiece_bytes, True
    else:
        encoder = refusal(path, f"its tokenizer {model!r:.60} is not supported; gpt2, llama and gemma4 are")
        kind, to_bytes, bos = f"the tokenizer {model!r:.60}", literal_bytes, False
    keys[1] = LLAMA_CPP if metadata.get(keys[1]) is None else keys[1]
    places = {key: {end} for key, end in zip(keys[1:], (eos_id, *ends), strict=True) if end is not None}
    return Vocabulary(
        path, tokens, kind, to_bytes, encoder, ends_by_place=places,
        literal=_of_types(types, UNKNOWN, CONTROL, USER_DEFINED, UNUSED), bos_id=bos_id, eos_id=eos_id,
        stop_ids=frozenset(end for end in ends if end is not None), templates=_templates(file), types=types,
        read_merges=partial(file.strings, "tokenizer.ggml.merges"), **_flags(file, bos_id, eos_id, bos),
    )  # fmt: skip


def _gemma4(file: Metadata, tokens: Sequence[str], fixed: Fixed) -> Encoder:
    """Return the encoder of a vocabulary that has SentencePiece's pieces and bytes, and merges."""
    merges = file.strings("tokenizer.ggml.merges")
    if merges is None:
        return refusal(file.path, "it has no merges")
    unknown = file.token("tokenizer.ggml.unknown_token_id", len(tokens))
    return SentencePieceBpe(file.path, tokens, *fixed, merges, (), False, unknown)


def _stripping(file: Metadata, tokens: Sequence[str], ids: Collection[int]) -> Collection[int]:
    """Return the tokens that drop the white space after them. tokenizer.json stores this as rstrip, and GGUF
    files do not. As in llama.cpp, only the SentencePiece tokenizer of Phi-3 has such tokens."""
    plain = ("<unk>", "<s>", "<|endoftext|>")
    phi3 = file.text("general.architecture") == "phi3"
    return frozenset(i for i in ids if phi3 and tokens[i] not in plain)


def _of_types(types: Mapping[int, int], *kinds: int) -> frozenset[int]:
    return frozenset(i for i, kind in types.items() if kind in kinds)


def _flags(file: Metadata, bos_id: int | None, eos_id: int | None, default: bool) -> dict[str, Any]:
    """Return add_bos and add_eos. add_bos is `default` if the file does not store add_bos."""
    add_bos, add_eos = (file.flag(f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos"))
    for name, add, token in (("bos", add_bos, bos_id), ("eos", add_eos, eos_id)):
        if add and token is None:
            raise FileFormatError(f"{file.path}: add_{name}_token is true, but {name}_token_id is missing")
    if add_bos is None:
        return {"add_bos": default and bos_id is not None, "add_eos": bool(add_eos), "bos_note": LLAMA_CPP}
    return {"add_bos": add_bos, "add_eos": bool(add_eos)}


def _templates(file: Metadata) -> dict[str, str]:
    """Return the chat templates by name. tokenizer.chat_template is "default", and
    tokenizer.chat_template.NAME is NAME."""
    first = "tokenizer.chat_template"
    names = [key for key in file.values if key == first or key.startswith(f"{first}.")]
    templates = {key[len(first) + 1 :] or "default": file.text(key) for key in names}
    return {name: template for name, template in templates.items() if template is not None}


# --- .apr -------------------------------------------------------------------------------------


def from_apr(metadata: Mapping[str, Any], path: Path) -> Vocabulary | None:
    """Return the vocabulary of an .apr file, or None if the file has no vocabulary. The special tokens are
    BOS, EOS and all tokens spelled <|...|>. Raises FileFormatError if the metadata are inconsistent. If the
    pre-tokenizer is unknown, encoding a text raises FileFormatError.
    """
    if metadata.get("tokenizer.vocabulary") is None:
        return None
    file = Metadata(path, metadata)
    tokens = file.tokens("tokenizer.vocabulary")
    size = len(tokens)
    bos_id, eos_id = (file.token(f"tokenizer.{end}_token_id", size) for end in ("bos", "eos"))
    control = {i for i, token in enumerate(tokens) if _SPECIAL.fullmatch(token)}
    control |= {i for i in (bos_id, eos_id) if i is not None}
    if any(token.startswith(SPACE_MARK) for token in tokens):
        unknown = tokens.index("<unk>") if "<unk>" in tokens else None
        fixed: Fixed = (), control if unknown is None else control | {unknown}, ()
        scores = file.numbers("tokenizer.scores", size)
        encoder = _sentencepiece(path, tokens, fixed, scores, True, unknown)
        kind, to_bytes, bos = "SentencePiece BPE", sentencepiece_bytes, True
    else:
        pre, merges = _pre_tokenizer(metadata, size), file.strings("tokenizer.merges") or None
        encoder = _byte_level(path, tokens, ((), control, ()), merges, pre)
        kind = f"byte-level BPE ({pre or 'unknown pre-tokenizer'}, {ASSUMED})"
        to_bytes, bos = byte_level_bytes, _adds_bos(pre)
    template = file.text("chat_template")
    return Vocabulary(
        path, tokens, kind, to_bytes, encoder, literal=control, bos_id=bos_id, eos_id=eos_id,
        add_bos=bos and bos_id is not None, bos_note=ASSUMED,
        templates={"default": template} if template else {},
        read_merges=partial(file.strings, "tokenizer.merges"),
        ends_by_place={} if eos_id is None else {"tokenizer.eos_token_id": {eos_id}},
    )  # fmt: skip


def _pre_tokenizer(metadata: Mapping[str, Any], size: int) -> str | None:
    """Return the pre-tokenizer for this architecture and vocabulary size, or None if the pre-tokenizer is
    unknown."""
    names = (metadata.get(key) for key in ("architecture", "hf_model_type", "hf_architecture"))
    architecture = next((name.lower() for name in names if isinstance(name, str) and name), "")
    if re.match(r"qwen[23]($|forcausallm)", architecture):
        return "qwen2"
    return _PRE_TOKENIZERS.get(size) if architecture.startswith("llama") else None
