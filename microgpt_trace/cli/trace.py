"""microgpt trace"""

from pathlib import Path

import typer

from ..files import check_new_folder, check_target
from .named_model import model_and_text, model_from, refuse_other_family
from .options import AprSettings, BareWeights, Seed, Source
from .output import note, refuse_over_model
from .run_trace import run, run_validation
from .selection import Request
from .trace_options import (
    DrawnOfTrace,
    Interventions,
    OfMicroGPT,
    OfProduction,
    Shown,
    Written,
    interventions_of,
)


def trace(
    context: typer.Context,
    *,
    source: Source,
    shown: Shown,
    written: Written,
    drawn: DrawnOfTrace,
    seed: Seed = None,
    of_microgpt: OfMicroGPT,
    bare: BareWeights,
    of_production: OfProduction,
    apr: AprSettings,
    interventions: Interventions,
) -> None:
    """Trace a text through every stage: shapes, norms, ranges and predictions."""
    request = Request(shown, written, drawn, of_production.layers, of_production.fail_on is not None)
    path, text = model_and_text(source.first, source.second, source.model)
    _check_files(request, path)
    theirs = of_production.options()
    model = model_from(path, seed, bare, apr, draws=bool(of_production.temperature))
    refuse_other_family(context, model)
    changes = interventions_of(interventions, model)
    own = vars(of_microgpt)
    if "prompts" in model.abilities:
        own = theirs if seed is None else theirs | {"seed": seed}
    if shown.validate:
        run_validation(model, request, text, own.get("tokens"))
    else:
        shared = {"text": text, "top_k": shown.top_k, "time": written.time, "interventions": changes}
        run(context, path, model, request, shared | own)
    if shown.payload:  # said in the end, for a refusal is one line
        note("--payload: every trace here runs the forward pass; the flag changes nothing")


EXAMPLES = (
    "microgpt trace olivia --verbose · microgpt trace emma --backward --step · "
    'microgpt trace qwen2.5-0.5b-q4_k_m.gguf "The capital of France is" --verbose · '
    "microgpt trace emma --ablate layer0.attn.head2 · microgpt trace emma --json | jq .loss"
)


def _check_files(request: Request, model: Path | None) -> None:
    """Raises InputError where a file could not be written, which is known before anything is loaded."""
    written = request.written
    targets = {"--save": written.save, "--out": written.target, "--save-aprt": written.save_aprt}
    request.drawn.check("trace", targets, [model])
    for option, path in (("--save", written.save), ("--out", written.target)):
        if path is not None:
            check_target(path, request.drawn.force)
            refuse_over_model(option, path)
    if written.save_aprt is not None:
        check_new_folder(written.save_aprt)
