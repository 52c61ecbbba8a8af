"""The vocabulary in a GGUF file. What the file leaves out is taken as llama.cpp takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from .bpe import (
    ALIASES,
    Encoder,
    SentencePieceBpe,
    byte_level_bytes,
    byte_level_encoder,
    literal_bytes,
    refusal,
    sentencepiece_bytes,
)
from .metadata import Metadata
from .tokens import Vocabulary

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # types of tokens; 6 is a byte
NOT_SAID = "the file does not say, llama.cpp does so"


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
    vocabulary = Vocabulary(
        path,
        tokens,
        f"the tokenizer {model!r:.60}",
        literal_bytes,
        refusal(path, f"its tokenizer {model!r:.60} is not supported; gpt2 and llama are"),
        literal=_of_types(marked, UNKNOWN, CONTROL, USER_DEFINED, UNUSED),
        bos_id=said.token("tokenizer.ggml.bos_token_id", size),
        eos_id=said.token("tokenizer.ggml.eos_token_id", size),
        stop_ids=_stops(said, size),
        templates=_templates(said),
    )
    if model == "gpt2":
        vocabulary = _byte_level(said, vocabulary, marked)
    elif model == "llama":
        vocabulary = _sentencepiece(said, vocabulary, marked)
    return _with_flags(said, vocabulary)


def _stops(said: Metadata, size: int) -> frozenset[int]:
    """The ends of a turn and of a message."""
    ends = (said.token(f"tokenizer.ggml.{end}_token_id", size) for end in ("eot", "eom"))
    return frozenset(end for end in ends if end is not None)


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
    encoder: Encoder = refusal(vocabulary.path, "it has no scores")
    if scores is not None:
        encoder = SentencePieceBpe(
            vocabulary.path, vocabulary.tokens, *fixed, scores, prefix is not False, unknown
        )
    return replace(
        vocabulary,
        kind="SentencePiece BPE",
        spell=sentencepiece_bytes,
        encoder=encoder,
        bos_id=1 if vocabulary.bos_id is None and size > 2 else vocabulary.bos_id,
        eos_id=2 if vocabulary.eos_id is None and size > 2 else vocabulary.eos_id,
        add_bos=True,
    )


def _with_flags(said: Metadata, vocabulary: Vocabulary) -> Vocabulary:
    add_bos, add_eos = (said.flag(f"tokenizer.ggml.add_{name}_token") for name in ("bos", "eos"))
    for name, add, token in (("bos", add_bos, vocabulary.bos_id), ("eos", add_eos, vocabulary.eos_id)):
        if add and token is None:
            raise FileFormatError(f"{said.path}: add_{name}_token is true, but no {name}_token_id is named")
    if add_bos is None:
        default = vocabulary.add_bos and vocabulary.bos_id is not None
        return replace(vocabulary, add_bos=default, add_eos=bool(add_eos), bos_note=NOT_SAID)
    return replace(vocabulary, add_bos=add_bos, add_eos=bool(add_eos))


def _templates(said: Metadata) -> dict[str, str]:
    """tokenizer.chat_template is the default, tokenizer.chat_template.NAME another."""
    first = "tokenizer.chat_template"
    names = [key for key in said.values if key == first or key.startswith(f"{first}.")]
    found = {key[len(first) + 1 :] or "default": said.text(key) for key in names}
    return {name: template for name, template in found.items() if template is not None}
