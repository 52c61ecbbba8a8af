"""microgpt trace"""

from os.path import realpath  # which does not mind a loop of links
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError
from ..files import check_new_folder, check_target
from .interventions import Interventions, interventions_of
from .named_model import model_and_text, model_from
from .option_checks import given, refuse, schema_by
from .options import AprSettings, BareWeights, Seed, Source
from .output import note, out_file, put_schema
from .output_files import refuse_over_model
from .run_trace import run
from .selection import Request
from .trace_options import DrawnOfTrace, OfMicroGPT, OfProduction, Shown, Written
from .trace_page import page_order
from .validation import refuse_beside_validation, run_validation

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel


@schema_by("validate", "as_jsonl")
def trace(
    context: typer.Context,
    *,
    source: Source,
    shown: Shown,
    written: Written,
    drawn: DrawnOfTrace,
    seed: Seed = None,
    validate: Annotated[
        bool,
        typer.Option(
            "--validate",
            help="Show of each event that the computation uses it: replace it, see what changes.",
        ),
    ] = False,
    of_microgpt: OfMicroGPT,
    bare: BareWeights,
    of_production: OfProduction,
    apr: AprSettings,
    interventions: Interventions,
    payload: Annotated[bool, typer.Option("--payload", hidden=True)] = False,
) -> None:
    """Trace a text through every stage: shapes, norms, ranges and predictions."""
    if written.schema:
        schema = "validation" if validate else "trace_line" if written.as_jsonl else "trace"
        put_schema(schema, out_file(written.out))
        return
    request = Request(shown, written, drawn, of_production.layers, of_production.fail_on)
    asked = given(context)
    _check(request)
    _refuse_idle(request, asked)
    if validate:
        refuse_beside_validation(asked)
    path, text = model_and_text(source.first, source.second, source.model)
    plots = [(option, target) for option, target, _ in drawn.targets("trace")]
    for option, target in (("--save", written.save), ("--out", written.target), *plots):
        if target is not None:
            refuse_over_model(option, target, path)
    theirs = of_production.options()
    model = model_from(path, seed, bare, apr, draws=bool(of_production.temperature))
    changes = interventions_of(interventions, model)
    own = _of_the_family(model, request, vars(of_microgpt), theirs, seed)
    if validate:
        run_validation(model, request, text, own.get("tokens"))
    else:
        shared = {"text": text, "top_k": shown.top_k, "time": written.time, "interventions": changes}
        run(model, request, shared | own, page_order(context, drawn.html, path, seed, bare, apr))
    if payload:  # said in the end, for a refusal is one line
        note("--payload: every trace here runs the forward pass; the flag changes nothing")


EXAMPLES = (
    "microgpt trace olivia --verbose · microgpt trace emma --backward --step · "
    'microgpt trace qwen2.5-0.5b-q4_k_m.gguf "The capital of France is" --verbose · '
    "microgpt trace emma --ablate layer0.attn.head2 · microgpt trace emma --json | jq .loss"
)


def _of_the_family(
    model: "LanguageModel", request: Request, own: dict[str, Any], theirs: dict[str, Any], seed: int | None
) -> dict[str, Any]:
    """The options of the model's family. Raises InputError for one that is the other's."""
    if "prompts" not in model.abilities:
        extra = {
            "layers": request.layers,
            "fail_on": request.fail_on,
            "html_budget": request.drawn.html_budget,
        }
        _refuse(theirs | extra, f"is for a production model, and this is a microGPT ({model.origin})")
        return own
    _refuse(own, "is for a microGPT: a production model is traced forward only")
    if theirs["temperature"] is not None and theirs["generate"] is None:
        raise InputError("--temperature draws the tokens of --generate N: say how many")
    asked = {name: value for name, value in theirs.items() if value is not None and value is not False}
    return asked | ({} if seed is None else {"seed": seed})


def _refuse(options: dict[str, Any], why: str) -> None:
    for name, value in options.items():
        if value is not None and value is not False:
            raise InputError(f"--{name.replace('_', '-')} {why}")


def _check(request: Request) -> None:
    """What can be known to be wrong before anything is loaded."""
    written = request.written
    if written.as_json and written.as_jsonl:
        raise InputError("--json and --jsonl exclude each other")
    if written.values and not written.is_json:
        raise InputError(
            "--values adds the arrays to --json or --jsonl; --show prints one, --save saves them"
        )
    if request.shown.show_names and written.is_json:
        raise InputError("--show prints a table; with --json use --layer NAME --values")
    if request.shown.brief and written.is_json:
        raise InputError("--brief shortens what is printed; a JSON document is always whole")
    if request.fail_on not in (None, "anomaly"):
        raise InputError(f"--fail-on: expected anomaly, found {request.fail_on!r}")
    targets = {"--save": written.save, "--out": written.target, "--save-aprt": written.save_aprt}
    named: dict[str, str] = {}
    for option, path in targets.items():
        other = named.setdefault(realpath(path), option) if path is not None else option
        if other != option:
            raise InputError(f"{other} and {option} both name {path}")
    for path in (written.save, written.target):
        if path is not None:
            check_target(path, request.drawn.force)
    if written.save_aprt is not None:
        check_new_folder(written.save_aprt)
    request.drawn.check_targets("trace", targets)


def _refuse_idle(request: Request, asked: dict[str, str]) -> None:
    """Options that would change nothing beside the others."""
    written = request.written
    drawn = request.drawn
    if "force" in asked and not any((written.save, written.target, drawn.plot, drawn.html)):
        raise InputError("--force lets --save, --out, --html and --plot overwrite, and none is given")
    if "html_budget" in asked and drawn.html is None:
        raise InputError("--html-budget is the size of the page of --html, which is not given")
    if "target" in asked and "lens" not in asked:
        raise InputError("--target is the token that --lens follows, which is not given")
    if "chat" in asked:  # whose special tokens are parsed in any case
        refuse(asked, ["special"], "--chat")
