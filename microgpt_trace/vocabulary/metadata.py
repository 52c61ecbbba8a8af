"""The vocabulary in the metadata of a file. What GGUF leaves out is taken as llama.cpp takes it; .apr names
neither its pre-tokenizer nor its special tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..text.brief import frozen
from .bpe import (
    ALIASES,
    SPACE_MARK,
    Encoder,
    byte_level_bytes,
    byte_level_encoder,
    literal_bytes,
    refusal,
    sentencepiece_bytes,
    sentencepiece_encoder,
)
from .tokens import Vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # types of tokens; 6 is a byte
NOT_SAID = "the file does not say, llama.cpp does so"
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
    ends = (said.token(f"tokenizer.ggml.{end}_token_id", size) for end in ("eot", "eom"))
    vocabulary = Vocabulary(
        path,
        tokens,
        f"the tokenizer {model!r:.60}",
        literal_bytes,
        refusal(path, f"its tokenizer {model!r:.60} is not supported; gpt2 and llama are"),
        literal=_of_types(marked, UNKNOWN, CONTROL, USER_DEFINED, UNUSED),
        bos_id=said.token("tokenizer.ggml.bos_token_id", size),
        eos_id=said.token("tokenizer.ggml.eos_token_id", size),
        stop_ids=frozenset(end for end in ends if end is not None),
        templates=_templates(said),
    )
    if model == "gpt2":
        vocabulary = _byte_level(said, vocabulary, marked)
    elif model == "llama":
        vocabulary = _sentencepiece(said, vocabulary, marked)
    return _with_flags(said, vocabulary)


def _of_types(marked: Mapping[int, int], *wanted: int) -> frozenset[int]:
    return frozenset(i for i, kind in marked.items() if kind in wanted)


def _byte_level(said: Metadata, vocabulary: Vocabulary, marked: Mapping[int, int]) -> Vocabulary:
    named = said.text("tokenizer.ggml.pre")
    pre = ALIASES.get(named or "default", named or "default")
    merges = said.strings("tokenizer.ggml.merges")
    fixed = _of_types(marked, USER_DEFINED), _of_types(marked, UNKNOWN, CONTROL)
    return replace(
        vocabulary,
        kind=f"byte-level BPE ({pre:.60}{'' if named else ', ' + NOT_SAID})",
        spell=byte_level_bytes,
        encoder=byte_level_encoder(vocabulary.path, vocabulary.tokens, *fixed, merges, pre),
        add_bos=pre == "llama-bpe",
    )


def _sentencepiece(said: Metadata, vocabulary: Vocabulary, marked: Mapping[int, int]) -> Vocabulary:
    size = vocabulary.size
    scores = said.numbers("tokenizer.ggml.scores", size)
    unknown = said.token("tokenizer.ggml.unknown_token_id", size)
    if unknown is None:
        unknown = min(_of_types(marked, UNKNOWN), default=None)
    prefix = said.flag("tokenizer.ggml.add_space_prefix")
    fixed = _of_types(marked, USER_DEFINED), _of_types(marked, UNKNOWN, CONTROL)
    return replace(
        vocabulary,
        kind="SentencePiece BPE",
        spell=sentencepiece_bytes,
        encoder=sentencepiece_encoder(
            vocabulary.path, vocabulary.tokens, *fixed, scores, prefix is not False, unknown
        ),
        bos_id=1 if vocabulary.bos_id is None and size > 2 else vocabulary.bos_id,
        eos_id=2 if vocabulary.eos_id is None and size > 2 else vocabulary.eos_id,
        add_bos=True,
    )


def _with_flags(said: Metadata, vocabulary: Vocabulary) -> Vocabulary:
    add_bos, add_eos = (said.flag(f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos"))
    for name, add, token in (("bos", add_bos, vocabulary.bos_id), ("eos", add_eos, vocabulary.eos_id)):
        if add and token is None:
            raise FileFormatError(f"{said.path}: add_{name}_token is true, but no {name}_token_id is named")
    note = NOT_SAID if add_bos is None else ""
    if add_bos is None:
        add_bos = vocabulary.add_bos and vocabulary.bos_id is not None
    return replace(vocabulary, add_bos=add_bos, add_eos=bool(add_eos), bos_note=note)


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
    sentencepiece = any(token.startswith(SPACE_MARK) for token in tokens)
    pre = None if sentencepiece else _pre_tokenizer(metadata, size)
    template = said.text("chat_template")
    return Vocabulary(
        path,
        tokens,
        "SentencePiece BPE"
        if sentencepiece
        else f"byte-level BPE ({pre or 'unknown pre-tokenizer'}, {ASSUMED})",
        sentencepiece_bytes if sentencepiece else byte_level_bytes,
        _assumed_encoder(said, tokens, control, pre, sentencepiece),
        literal=control,
        bos_id=bos_id,
        eos_id=eos_id,
        add_bos=bos_id is not None and (sentencepiece or pre == "llama-bpe"),
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


def _assumed_encoder(
    said: Metadata, tokens: Sequence[str], control: set[int], pre: str | None, sentencepiece: bool
) -> Encoder:
    if sentencepiece:
        scores = said.numbers("tokenizer.scores", len(tokens))
        unknown = tokens.index("<unk>") if "<unk>" in tokens else None
        fixed = control if unknown is None else control | {unknown}
        return sentencepiece_encoder(said.path, tokens, (), fixed, scores, True, unknown)
    if pre is None:
        return refusal(
            said.path, "the file does not name its pre-tokenizer, and its architecture does not tell"
        )
    return byte_level_encoder(said.path, tokens, (), control, said.strings("tokenizer.merges") or None, pre)
