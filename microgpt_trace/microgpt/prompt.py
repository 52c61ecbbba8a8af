"""What a microGPT reads of a text: its tokens with their targets and labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..architecture.model import TraceInput
from ..architecture.packs import ReadText
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


def read_names(tokenizer: Tokenizer, block_size: int, texts: Sequence[str]) -> list[ReadText | str]:
    """What a microGPT reads of many texts, or of one that does not fit it the reason; ten times as fast as
    one after another. Of those too long only the characters are looked at: one may be 64 MB."""
    short = [text if len(text) < block_size else "" for text in texts]
    lengths = np.fromiter(map(len, short), np.intp, len(short))
    joined = "".join(short)
    chars = sorted(set().union(*texts))
    found = [tokenizer.chars.find(tokenizer.normalize(char)) for char in chars]
    unknown = {char for char, at in zip(chars, found, strict=True) if at < 0}
    known = np.array([at + tokenizer.first_id if at >= 0 else -1 for at in found], np.intp)
    points = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), "<u4")
    ids = known[np.searchsorted(np.array([*map(ord, chars)], np.uint32), points)]
    ends = lengths.cumsum()
    misses = np.concatenate(([0], np.cumsum(ids < 0)))
    missing = misses[ends] - misses[ends - lengths]
    stream = np.full(len(ids) + len(texts) + 1, tokenizer.bos_id)
    stream[np.arange(len(ids)) + np.repeat(np.arange(len(texts)), lengths) + 1] = ids
    outside = f"with a character outside {tokenizer.describe_chars()}"
    long, read = f"longer than {block_size - 1} characters", list[ReadText | str]()
    starts = ends - lengths + np.arange(len(texts))
    for text, start, lacks in zip(texts, starts.tolist(), missing.tolist(), strict=True):
        if len(text) >= block_size:
            read.append(long if unknown.isdisjoint(text) else outside)
        else:
            read.append(outside if lacks else ReadText(stream[start : start + len(text) + 2]))
    return read
