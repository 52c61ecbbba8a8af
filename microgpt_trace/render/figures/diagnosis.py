"""A diagnosis as a figure: which operations of a dump follow from their own inputs, and what explains the
first that does not."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...diagnosis.diagnose import Diagnosis
from ...diagnosis.dump import DumpDiagnosis
from ...errors import InputError
from ...text.wording import counted
from .course import CourseWords, Error, course_picture
from .panel import Picture, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_diagnosis(found: DumpDiagnosis, ax: Axes | None = None) -> Axes:
    """How far each operation is from what follows from its own inputs, beside what rounding explains; at the
    first wrong one what the best explanation leaves of that."""
    return on_axes(diagnosis_picture(found), ax)


def diagnosis_picture(found: DumpDiagnosis) -> Picture:
    """Raises InputError where no operation could be judged."""
    diagnosis = found.diagnosis
    errors = [
        Error(o.name, o.layer, math.inf if o.error is None else o.error, o.tolerance, o.holds)
        for o in diagnosis.operations
        if o.error is not None or not o.holds
    ]
    if not errors:
        raise InputError("diagnosis: no operation could be judged, so there is nothing to draw")
    words = CourseWords("follows from its inputs", "does not", "error of the worst row", _title(diagnosis))
    best = next((f for f in diagnosis.findings if f.explains and f.operation == diagnosis.first_wrong), None)
    left = None if best is None else (best.residual, "left by the explanation")
    return course_picture(errors, words, diagnosis.first_wrong, left)


def _title(diagnosis: Diagnosis) -> str:
    """The explanations of the first wrong operation, or how many operations are right."""
    claims = [finding.claim for finding in diagnosis.findings if finding.explains]
    if claims:
        return claims[0] + (f" (or {counted(len(claims) - 1, 'other')})" if len(claims) > 1 else "")
    judged = counted(diagnosis.judged, "operation")
    if diagnosis.first_wrong is not None:
        return f"{judged} judged; none of {len(diagnosis.tried):,} hypotheses explains the first wrong one"
    return f"{judged} judged, {len(diagnosis.wrong):,} wrong"
