"""trace --validate: whether each captured value is the one that the computation uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from ..errors import InputError
from .option_checks import refuse
from .output import Output
from .progress import progress

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from .selection import Request

_INPUT = ("first", "second", "model", "tokens", "seed", "n_head", "bos", "rope_pairs", "settings", "payload")
_USED = ("validate", "layer", "verbose", "as_json", "out", "force", *_INPUT)
_INTERVENTIONS = ("ablate", "ablate_mean", "scale", "patch", "add")


def refuse_beside_validation(asked: dict[str, str]) -> None:
    """Raises InputError for an option given that would be ignored."""
    if any(name in asked for name in _INTERVENTIONS):
        raise InputError("--validate makes interventions of its own: give it none")
    refuse(asked, [name for name in asked if name not in _USED], "--validate")
    if "as_json" in asked:
        refuse(asked, ["verbose"], "--validate and --json")


def run_validation(
    model: LanguageModel, request: Request, text: str | None, tokens: list[int] | None
) -> None:
    """Validate and show the verdicts; exit 1 where an event failed."""
    from ..render.validation import validation_sections
    from ..tracing.validation import validate

    shown, written = request.shown, request.written
    with progress("layer") as report:
        found = validate(model, text, tokens=tokens, names=shown.layer or [], report=report)
    output = Output(as_json=written.as_json, out=written.out)
    output.give(found, lambda: validation_sections(found, verbose=shown.verbose))
    if not found.ok:
        raise typer.Exit(1)
