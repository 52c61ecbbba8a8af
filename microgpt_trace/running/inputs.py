"""What a model reads: tokens with their targets and labels. Knows not what is computed of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..brief import brief, one_line
from ..errors import InputError

if TYPE_CHECKING:
    from ..model import Model


@dataclass(frozen=True, slots=True)
class TraceInput:
    """What was traced: tokens, and what follows each of them. A prompt's last token has no target.

    `notes` say what was changed before (capitals lowered) or taken (special tokens parsed).
    """

    text: str
    tokens: tuple[int, ...]
    targets: tuple[int | None, ...]
    labels: tuple[str, ...]
    target_labels: tuple[str | None, ...]
    notes: tuple[str, ...] = ()

    __repr__ = one_line


def prepare_name(model: Model, text: str) -> TraceInput:
    """What a microGPT reads of a text. Raises InputError for a character or a length that does not fit it."""
    tokenizer, block = model.tokenizer, model.config.block_size
    if len(text) >= block:
        raise InputError(
            f"text {brief(text)}: expected at most {block - 1} characters (block_size {block}), "
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
