"""The vocabulary in an .apr file, which names neither its pre-tokenizer nor its special tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .bpe import (
    SPACE_MARK,
    Encoder,
    SentencePieceBpe,
    byte_level_bytes,
    byte_level_encoder,
    refusal,
    sentencepiece_bytes,
)
from .metadata import Metadata
from .tokens import Vocabulary

ASSUMED = "assumed, .apr files do not say"
_SPECIAL = re.compile(r"<\|.*\|>", re.DOTALL)
_SIZES = {128256: "llama-bpe", 49152: "smollm"}  # what llama's architecture carries besides SentencePiece


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
    bos_id = said.token("tokenizer.bos_token_id", size)
    control = {i for i, token in enumerate(tokens) if _SPECIAL.fullmatch(token)}
    control |= {i for i in (bos_id, said.token("tokenizer.eos_token_id", size)) if i is not None}
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
        _sentencepiece(said, tokens, control) if sentencepiece else _byte_level(said, tokens, control, pre),
        literal=control,
        bos_id=bos_id,
        eos_id=said.token("tokenizer.eos_token_id", size),
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


def _byte_level(said: Metadata, tokens: Sequence[str], control: set[int], pre: str | None) -> Encoder:
    if pre is None:
        return refusal(
            said.path, "the file does not name its pre-tokenizer, and its architecture does not tell"
        )
    merges = said.strings("tokenizer.merges") or None
    return byte_level_encoder(said.path, tokens, (), control, merges, pre)


def _sentencepiece(said: Metadata, tokens: Sequence[str], control: set[int]) -> Encoder:
    scores = said.numbers("tokenizer.scores", len(tokens))
    if scores is None:
        return refusal(said.path, "it has no scores")
    unknown = tokens.index("<unk>") if "<unk>" in tokens else None
    fixed = control if unknown is None else control | {unknown}
    return SentencePieceBpe(said.path, tokens, (), fixed, scores, True, unknown)
