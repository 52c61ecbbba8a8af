"""The data of a production model's first screen: what its heads and MLPs do for one prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...attribution.results import AttributionResult
from ...text.printable import shown_token


def whole_model(attribution: AttributionResult, here: Mapping[str, float]) -> dict[str, Any]:
    """Return the prediction that `attribution` describes, and the parts of the model by event.

    A part has the probability of the target without it (None if no part was removed), and its addition to the
    logit of the target over that of the other token. A head also has the key that it looks at most, and the
    share of this key. `here` is the probability of the target if a head is removed at this position only.
    `atFirst` counts the heads that give position 0 more than half of their attention on average, over the
    queries from position 1 on. It is None for one token.
    """
    (explained,) = attribution.positions
    looks = {role.name: role.looks[0] for role in attribution.roles}
    parts: dict[str, list[float | None]] = {}
    for part in explained.parts:
        if part.kind in ("head", "mlp"):
            change = part.loss_change
            without = None if change is None else math.exp(-(explained.loss + change))
            parts[part.name] = [without, part.difference]
            if look := looks.get(part.name):
                parts[part.name] += [look.most_at, look.share]
    contrast = explained.contrast
    return {
        "position": contrast.position, "token": contrast.target, "p": explained.target.p,
        "label": shown_token(contrast.target_label), "other": shown_token(contrast.against_label),
        "isMeasured": attribution.ablation, "parts": parts, "here": here,
        "atFirst": sum(role.attention.first > 0.5 for role in attribution.roles) if looks else None,
    }  # fmt: skip
