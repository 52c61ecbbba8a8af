"""The verdict about two dumps whose operations a model judged, and how two runs' predictions agree."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...comparison.agreement import Agreement
from ...comparison.differences import Comparison
from ...rounding.precision import PRECISIONS
from ...text.wording import counted
from ..numbers import distance


def judged_title(result: Comparison, place: str) -> str:
    """Return the verdict about two dumps whose operations a model judged. `place` names the first event that
    differs."""
    count = counted(len(result.compared), "event")
    if result.first is None and all(side.clean for side in result.judged):
        if all(event.max_abs == 0 for event in result.compared):
            return f"A and B are equal, number for number, in the {count} compared"
        words = dict.fromkeys(
            PRECISIONS[side.compute].words for side in result.judged if side.compute != "f32"
        )
        how = f"rounding ({' and '.join(words)})" if words else "the reordering of sums in float32"
        return f"A and B are equal within {how}, in the {count} compared"
    if result.first is None:
        which = " and ".join(
            letter for letter, side in zip("AB", result.judged, strict=True) if not side.clean
        )
        return f"A and B agree in the {count} compared, but operations of {which} are wrong"
    return f"A and B differ first at {place}"


def judged_lines(result: Comparison) -> Iterator[str]:
    """Yield for each dump if the first event follows from its inputs, and the causes of its first error."""
    for letter, side in zip("AB", result.judged, strict=True):
        if side.clean:
            count = f"all {side.judged:,} judged operations (of {side.of:,})"
            yield f"{letter}: {count} follow from their own inputs"
            continue
        if result.first is not None and result.first not in side.wrong and side.first_wrong is not None:
            yield f"{letter}: this value follows from its inputs"
        if side.first_wrong is not None and side.error is not None:
            off = f"off by {distance(side.error)}"
            yield f"{letter}: {side.first_wrong} does not follow from its inputs, {off}"
        yield from (f"{letter}: {claim}" for claim in side.claims)


def predictions_line(agreement: Agreement) -> str:
    """Describe how the predictions of two runs agree."""
    unknown = f" ({agreement.unknown:,} have no prediction: NaN)" if agreement.unknown else ""
    positions = counted(agreement.positions, "position")
    same = f"the same token at {agreement.same_argmax:,} of {positions}{unknown}"
    if math.isnan(agreement.mean_kl):
        return f"predictions: {same}, no KL because no position has probabilities on both sides"
    return (
        f"predictions: {same}, KL {agreement.mean_kl:.2g} on average, at most {agreement.max_kl:.2g} "
        f"(position {agreement.max_kl_position})"
    )
