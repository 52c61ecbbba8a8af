"""What a microGPT reads of a text: its tokens with their targets and labels."""

from __future__ import annotations

from ..architecture.model import TraceInput
from ..errors import InputError
from ..text.brief import brief
from .tokenizer import Tokenizer


def read_name(tokenizer: Tokenizer, block_size: int, text: str) -> TraceInput:
    """What a microGPT reads of a text. Raises InputError for a character or a length that does not fit it."""
    if len(text) >= block_size:
        raise InputError(
            f"text {brief(text)}: expected at most {block_size - 1} characters (block_size {block_size}), "
            f"found {len(text):,}"
        )
    lowered = tokenizer.normalize(text)
    ids = tokenizer.encode_name(text)
    return TraceInput(
        lowered,
        tuple(ids[:-1]),
        tuple(ids[1:]),
        tuple(tokenizer.label(i) for i in ids[:-1]),
        tuple(tokenizer.label(i, target=True) for i in ids[1:]),
        (f"{text!r} was lowered to {lowered!r}",) if lowered != text else (),
    )
