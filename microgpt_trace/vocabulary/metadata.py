"""The vocabulary in the metadata of a file. What GGUF leaves out is taken as llama.cpp takes it; .apr names
neither its pre-tokenizer nor its special tokens."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..text.brief import frozen
from .bpe import (
    ALIASES,
    PATTERNS,
    SPACE_MARK,
    ByteLevelBpe,
    Encoder,
    SentencePieceBpe,
    byte_level_bytes,
    literal_bytes,
    refusal,
    sentencepiece_bytes,
)
from .tokens import Vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # types of tokens; 6 is a byte
NOT_SAID = "the file does not say, llama.cpp does so"
Fixed = tuple[Collection[int], Collection[int]]  # tokens found in every text, and where special ones are
ASSUMED = "assumed, .apr files do not say"
_SPECIAL = re.compile(r"<\|.*\|>", re.DOTALL)
_SIZES = {128256: "llama-bpe", 49152: "smollm"}  # what llama's architecture carries besides SentencePiece


@frozen(slots=False)
class Metadata:
    """Typed access to what a file says. Each method gives None where a key is missing or null."""

    path: Path
    values: Mapping[str, Any]

    def _get(self, key: str, kind: type, what: str) -> Any:
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            raise FileFormatError(f"{self.path}: {key}: expected {what}, found {value!r:.60}")
        return value

    def text(self, key: str) -> str | None:
        return self._get(key, str, "text")

    def flag(self, key: str) -> bool | None:
        return self._get(key, bool, "true or false")

    def token(self, key: str, size: int) -> int | None:
        """An id below the vocabulary's size."""
        value = self._get(key, int, "a token id")
        if value is not None and not 0 <= value < size:
            raise FileFormatError(f"{self.path}: {key}: expected an id below {size:,}, found {value:,}")
        return value

    def strings(self, key: str) -> list[str] | None:
        return self._list(key, (str,), "a list of texts")

    def numbers(self, key: str, size: int) -> list[Any] | None:
        """A list with a number for each token; an empty one is none."""
        found: Any = self.values.get(key)
        if hasattr(found, "__len__") and len(found) not in (0, size):  # before it becomes a list
            raise FileFormatError(f"{self.path}: {key}: expected {size:,} numbers, found {len(found):,}")
        return self._list(key, (int, float), "a list of numbers") or None

    def _list(self, key: str, kinds: tuple[type, ...], what: str) -> list[Any] | None:
        values: Any = self.values.get(key)
        alike = hasattr(values, "tolist")  # an array, whose elements have one type
        values = values.tolist() if alike else values
        if values is None:
            return None
        if not isinstance(values, list) or not set(map(type, values[:1] if alike else values)).issubset(
            kinds
        ):
            raise FileFormatError(f"{self.path}: {key}: expected {what}, found {values!r:.60}")
        return values

    def tokens(self, key: str) -> Sequence[str]:
        tokens = self.strings(key)
        if not tokens:
            raise FileFormatError(f"{self.path}: {key}: expected the tokens, found none")
        check_tokens(tokens, self.path)
        return tokens


def check_tokens(tokens: Sequence[str], path: Path) -> None:
    try:
        "".join(tokens).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise FileFormatError(
            f"{path}: a token holds what is no text: {error.object[error.start]!a}"
        ) from error


def _byte_level(
    path: Path, tokens: Sequence[str], fixed: Fixed, merges: Sequence[str] | None, pre: str | None
) -> Encoder:
    """The encoder of a file, or the refusal of one whose words cannot be cut or merged."""
    if pre is None:
        reason = "the file does not name its pre-tokenizer, and its architecture does not tell"
        return refusal(path, reason)
    if pre not in PATTERNS:
        return refusal(path, f"its pre-tokenizer {pre!r:.60} is not one of {', '.join(PATTERNS)}")
    if merges is None:
        return refusal(path, "it has no merges")
    return ByteLevelBpe(path, tokens, *fixed, merges, pre)


def _sentencepiece(
    path: Path, tokens: Sequence[str], fixed: Fixed, scores: Sequence[float] | None, prefix: bool,
    unknown: int | None,
) -> Encoder:  # fmt: skip
    if scores is None:
        return refusal(path, "it has no scores")
    return SentencePieceBpe(path, tokens, *fixed, scores, prefix, unknown)


# --- GGUF -------------------------------------------------------------------------------------


def from_gguf(metadata: Mapping[str, Any], path: Path) -> Vocabulary | None:
    """The vocabulary of a GGUF file, None where it has none; defaults are llama.cpp's.

    Raises FileFormatError for metadata that contradicts itself. A tokenizer that is not supported is
    refused when text is encoded.
    """
    said = Metadata(path, metadata)
    model = said.text("tokenizer.ggml.model")
    if model in (None, "none", "no_vocab"):
        return None
    tokens = said.tokens("tokenizer.ggml.tokens")
    size = len(tokens)
    types = said.numbers("tokenizer.ggml.token_type", size) or ()
    marked = {i: kind for i, kind in enumerate(types) if kind != NORMAL}
    bos_id, eos_id, *ends = (
        said.token(f"tokenizer.ggml.{end}_token_id", size) for end in ("bos", "eos", "eot", "eom")
    )
    fixed = _of_types(marked, USER_DEFINED), _of_types(marked, UNKNOWN, CONTROL)
    if model == "gpt2":
        named = said.text("tokenizer.ggml.pre")
        pre, note = ALIASES.get(named or "default", named or "default"), "" if named else f", {NOT_SAID}"
        encoder = _byte_level(path, tokens, fixed, said.strings("tokenizer.ggml.merges"), pre)
        kind, spell, usual = f"byte-level BPE ({pre:.60}{note})", byte_level_bytes, pre == "llama-bpe"
    elif model == "llama":
        unknown = said.token("tokenizer.ggml.unknown_token_id", size)
        if unknown is None:
            unknown = min(_of_types(marked, UNKNOWN), default=None)
        scores = said.numbers("tokenizer.ggml.scores", size)
        prefix = said.flag("tokenizer.ggml.add_space_prefix") is not False
        encoder = _sentencepiece(path, tokens, fixed, scores, prefix, unknown)
        kind, spell, usual = "SentencePiece BPE", sentencepiece_bytes, True
        if size > 2:
            bos_id, eos_id = 1 if bos_id is None else bos_id, 2 if eos_id is None else eos_id
    else:
        encoder = refusal(path, f"its tokenizer {model!r:.60} is not supported; gpt2 and llama are")
        kind, spell, usual = f"the tokenizer {model!r:.60}", literal_bytes, False
    return Vocabulary(
        path,
        tokens,
        kind,
        spell,
        encoder,
        literal=_of_types(marked, UNKNOWN, CONTROL, USER_DEFINED, UNUSED),
        bos_id=bos_id,
        eos_id=eos_id,
        stop_ids=frozenset(end for end in ends if end is not None),
        templates=_templates(said),
        **_flags(said, bos_id, eos_id, usual),
    )


def _of_types(marked: Mapping[int, int], *wanted: int) -> frozenset[int]:
    return frozenset(i for i, kind in marked.items() if kind in wanted)


def _flags(said: Metadata, bos_id: int | None, eos_id: int | None, usual: bool) -> dict[str, Any]:
    """Whether BOS and EOS are added, BOS as `usual` where the file does not say."""
    add_bos, add_eos = (said.flag(f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos"))
    for name, add, token in (("bos", add_bos, bos_id), ("eos", add_eos, eos_id)):
        if add and token is None:
            raise FileFormatError(f"{said.path}: add_{name}_token is true, but no {name}_token_id is named")
    if add_bos is None:
        return {"add_bos": usual and bos_id is not None, "add_eos": bool(add_eos), "bos_note": NOT_SAID}
    return {"add_bos": add_bos, "add_eos": bool(add_eos)}


def _templates(said: Metadata) -> dict[str, str]:
    """tokenizer.chat_template is the default, tokenizer.chat_template.NAME another."""
    first = "tokenizer.chat_template"
    names = [key for key in said.values if key == first or key.startswith(f"{first}.")]
    found = {key[len(first) + 1 :] or "default": said.text(key) for key in names}
    return {name: template for name, template in found.items() if template is not None}


# --- .apr -------------------------------------------------------------------------------------


def from_apr(metadata: Mapping[str, Any], path: Path) -> Vocabulary | None:
    """The vocabulary of an .apr file, None where it has none.

    Special are the tokens spelled <|...|>, BOS and EOS. Raises FileFormatError for metadata that
    contradicts itself; where the pre-tokenizer cannot be told, encoding is refused.
    """
    if metadata.get("tokenizer.vocabulary") is None:
        return None
    said = Metadata(path, metadata)
    tokens = said.tokens("tokenizer.vocabulary")
    size = len(tokens)
    bos_id, eos_id = (said.token(f"tokenizer.{end}_token_id", size) for end in ("bos", "eos"))
    control = {i for i, token in enumerate(tokens) if _SPECIAL.fullmatch(token)}
    control |= {i for i in (bos_id, eos_id) if i is not None}
    if any(token.startswith(SPACE_MARK) for token in tokens):
        unknown = tokens.index("<unk>") if "<unk>" in tokens else None
        fixed = (), control if unknown is None else control | {unknown}
        scores = said.numbers("tokenizer.scores", size)
        encoder = _sentencepiece(path, tokens, fixed, scores, True, unknown)
        kind, spell, usual = "SentencePiece BPE", sentencepiece_bytes, True
    else:
        pre, merges = _pre_tokenizer(metadata, size), said.strings("tokenizer.merges") or None
        encoder = _byte_level(path, tokens, ((), control), merges, pre)
        kind = f"byte-level BPE ({pre or 'unknown pre-tokenizer'}, {ASSUMED})"
        spell, usual = byte_level_bytes, pre == "llama-bpe"
    template = said.text("chat_template")
    return Vocabulary(
        path,
        tokens,
        kind,
        spell,
        encoder,
        literal=control,
        bos_id=bos_id,
        eos_id=eos_id,
        add_bos=usual and bos_id is not None,
        bos_note=ASSUMED,
        templates={"default": template} if template else {},
    )


def _pre_tokenizer(metadata: Mapping[str, Any], size: int) -> str | None:
    """The pre-tokenizer of this architecture and size of vocabulary, None where it cannot be told."""
    named = (metadata.get(key) for key in ("architecture", "hf_model_type", "hf_architecture"))
    architecture = next((name.lower() for name in named if isinstance(name, str) and name), "")
    if re.match(r"qwen[23]($|forcausallm)", architecture):
        return "qwen2"
    return _SIZES.get(size) if architecture.startswith("llama") else None
