"""trace --validate: whether each captured value is the one that the computation uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError
from .output import put, show
from .progress import progress

if TYPE_CHECKING:
    from ..decoder import Decoder
    from ..model import Model
    from .run_trace import Request

_ACCEPTED = ("text", "tokens", "interventions")  # the last one is refused in its own words


def run_validation(model: Model | Decoder, request: Request, options: dict[str, Any]) -> None:
    """Validate and show the verdicts; exit 1 where an event failed. Raises InputError for an option that
    would be ignored."""
    asked = options | {
        name: getattr(request, name) for name in ("as_jsonl", "values", "show", "save", "save_aprt", "layers")
    }
    for name, value in asked.items():
        if value and name not in _ACCEPTED:
            option = "jsonl" if name == "as_jsonl" else name.replace("_", "-")
            raise InputError(f"--{option} means nothing with --validate")
    if options.get("interventions"):
        raise InputError("--validate makes interventions of its own: give it none")
    from ..validation import validate

    with progress("layer") as report:
        found = validate(
            model, options.get("text"), tokens=options.get("tokens"), names=request.layer, report=report
        )
    if request.as_json:
        from ..render.document import to_text
        from ..render.validation import validation_document

        put([to_text(validation_document(found))], request.out)
    else:
        from ..render.validation import print_validation

        show(lambda screen: print_validation(found, screen, verbose=request.verbose), request.out)
    if not found.ok:
        raise typer.Exit(1)
