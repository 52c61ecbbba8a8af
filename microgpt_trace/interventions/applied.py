"""What a trace reports about an intervention."""

from __future__ import annotations

from ..text.frozen import frozen


@frozen
class Applied:
    """An intervention that was applied. `elements` counts the numbers that the intervention changed."""

    kind: str  # ablate, ablate-mean, scale, patch, add
    target: str  # the target as the user wrote it
    text: str  # such as "zero", "× 0.5" or "from clean.safetensors"
    events: tuple[str, ...]
    elements: int
