"""The picture of a microGPT for browsers without JavaScript: lanes, the attention of one lane, and the
probability of each real next token."""

from __future__ import annotations

import numpy as np

from ...arrays.stats import Array
from ...plans.kinds import Softmax
from ...plans.plan import Plan
from ...text.printable import shown_token
from ...tracing.result import Trace
from .markup import Markup, element

LANE, LEFT, HEAD, RIGHT = 40, 70, 100, 150  # heights and widths in pixels
THICKEST = 10  # pixels of a line of 100 %


def static_picture(trace: Trace, plan: Plan) -> Markup:
    """Return an SVG of the first layer. The chosen lane is the one with the largest attention weight on
    another lane. The trace must have kept the attention weights."""
    weights = trace.arrays["forward", plan.of_kind(Softmax)[0].name]
    heads, length = len(weights), weights.shape[-1]
    elsewhere = np.where(np.tri(length, k=-1, dtype=bool), weights, 0)
    chosen = int(np.unravel_index(int(elsewhere.argmax()), elsewhere.shape)[1]) if length > 1 else 0
    width, height = LEFT + heads * HEAD + RIGHT, 30 + length * LANE
    lanes = [part for at in range(length) for part in _lane(trace, at, at == chosen, width)]
    columns = [part for head in range(heads) for part in _head(head, weights[head, chosen, : chosen + 1])]
    words = f"Attention of the {heads} heads at place {chosen}, and the chance of each real next letter"
    box = f"0 0 {width} {height}"
    return element("svg", *lanes, *columns, viewBox=box, width=str(width), role="img", aria_label=words)


def _y(at: int) -> float:
    return 30 + (at + 0.5) * LANE


def _lane(trace: Trace, at: int, is_chosen: bool, width: int) -> list[Markup]:
    ground = element(
        "rect", x="0", y=str(30 + at * LANE + 2), width=str(width), height=str(LANE - 4), rx="6",
        fill="var(--card)" if is_chosen else "var(--soft)", stroke="var(--ink)" if is_chosen else "none",
    )  # fmt: skip
    target = trace.predictions[at].target
    chance = f"{shown_token(target.label)} {target.p:.1%}" if target else ""
    texts = ((12, shown_token(trace.input.labels[at])), (width - RIGHT + 20, chance))
    return [ground, *(_text(x, _y(at) + 5, text) for x, text in texts)]


def _head(head: int, shares: Array) -> list[Markup]:
    x, end, last = LEFT + head * HEAD, LEFT + (head + 1) * HEAD - 30, _y(len(shares) - 1)
    parts = [_text(x, 18, f"head {head}")]
    for key, share in enumerate(np.nan_to_num(shares).tolist()):
        path = f"M{x} {_y(key)}C{(x + end) / 2} {_y(key)} {(x + end) / 2} {last} {end} {last}"
        thick = f"{max(0.5, THICKEST * share):.1f}"
        parts.append(element("path", d=path, fill="none", stroke="var(--share-6)", stroke_width=thick))
        parts.append(_text(x + 4, _y(key) - 6, f"{share:.0%}"))
    return parts


def _text(x: float, y: float, text: str) -> Markup:
    return element("text", text, x=f"{x:.0f}", y=f"{y:.0f}", fill="currentColor", font_size="12")
