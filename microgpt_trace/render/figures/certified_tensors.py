"""Plot the effect of each parameter of an export on the predictions."""

from __future__ import annotations

import math

from ...certification.certificate import Certificate
from ...errors import InputError
from ..numbers import significant
from .panel import BAR, PAGE, Panel, Picture, SignedValue, draw_bars

TOP = 20  # number of parameters to plot


def certificate_picture(result: Certificate, top: int = TOP) -> Picture:
    """Return the figure: a bar for each of the parameters with the largest effects. Raises InputError if the
    certificate has no effects."""
    if not result.tensors:
        raise InputError("the certificate has no effects of tensors: certify with by_tensor=True")
    effects = [(own.name, math.nan if own.size is None else own.size) for own in result.tensors]
    effects = [own for own in effects if own[1] != 0] or effects[:1]
    rows = [SignedValue(*own) for own in effects[:top]]
    if rest := effects[top:]:
        rows.append(SignedValue(f"{len(rest):,} more", math.fsum(value for _, value in rest), is_sum=True))
    title = "mean KL in nats if only this tensor of the export is used"

    def draw(panel: Panel) -> None:
        draw_bars(panel, rows, significant)
        panel.label(title)

    return Picture(PAGE * 0.75, len(rows) * BAR + 0.8, draw)
