"""What a model reads: tokens with their targets and labels. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass

from ..brief import one_line


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
