"""What `microgpt diff` does with two surveys: it holds what they found against each other, and runs
nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import InputError
from ..surveying import is_survey
from .option_rules import refuse
from .output import Output

if TYPE_CHECKING:
    from ..surveying.comparison import SurveyComparison

MEANT = ("a", "b", "layer", "verbose", "rtol", "as_json", "schema", "out")  # parameters that mean something


def are_surveys(sides: Sequence[Path | None]) -> bool:
    """Whether both sides are surveys. Raises InputError where one alone is."""
    found = [side is not None and is_survey(side) for side in sides]
    if any(found) and not all(found):
        survey, other = (sides[found.index(answer)] for answer in (True, False))
        if other is None:
            raise InputError(f"{survey} is a survey: microgpt diff compares it with another one")
        raise InputError(f"{survey} is a survey and {other} is none: `microgpt survey` makes one of a model")
    return all(found)


def diff_surveys(
    sides: tuple[Path, Path], asked: Mapping[str, str], layer: Sequence[str], rtol: float | None,
    verbose: bool, output: Output,
) -> None:  # fmt: skip
    """Compare two surveys; exit 1 where they differ. Raises InputError for an option that means nothing."""
    refuse(asked, [name for name in asked if name not in MEANT], "two surveys")
    if "as_json" in asked:
        refuse(asked, ["verbose"], "--json")
    result = _compared(sides, layer, rtol)
    from ..render.results.survey_comparison import survey_comparison_sections

    output.give(result, lambda: survey_comparison_sections(result, verbose=verbose))
    if not result.agree:
        raise typer.Exit(1)


def _compared(sides: tuple[Path, Path], layer: Sequence[str], rtol: float | None) -> SurveyComparison:
    from ..surveying.comparison import compare_surveys
    from ..surveying.survey_files import read_survey

    a, b = map(read_survey, sides)
    return compare_surveys(a, b, names=layer, rtol=rtol, called=(str(sides[0]), str(sides[1])))
