"""microgpt trace"""

from __future__ import annotations

from os.path import realpath  # which does not mind a loop of links
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..files import check_new_folder, check_target
from ..text.command_lines import quoted
from .command import given, refuse, schema_by
from .interventions import Ablate, AblateMean, Add, Patch, Scale, interventions_of
from .options import (
    DECODER,
    MICROGPT,
    STDOUT,
    BosPlace,
    Heads,
    Json,
    Layer,
    ModelFile,
    ModelOrText,
    Out,
    RopePairing,
    Seed,
    Set,
    TextAfterModel,
    TokenIds,
    model_and_text,
    model_from,
    numbers,
    positions_of,
)
from .output import note, out_file, put_schema
from .run_trace import run
from .selection import Request
from .targets import refuse_over_model
from .validation import refuse_beside_validation, run_validation

Show = Annotated[
    list[str] | None, typer.Option("--show", help="Print this tensor or parameter in full.", metavar="NAME")
]
Save = Annotated[
    Path | None,
    typer.Option(
        "--save",
        help="Save the arrays of what is shown as safetensors: a few; of all events with --verbose, of any "
        "with --layer.",
        metavar="FILE",
    ),
]


@schema_by("validate", "as_jsonl")
def trace(
    context: typer.Context,
    first: ModelOrText = None,
    second: TextAfterModel = None,
    model: ModelFile = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every event with full statistics, layer by layer.")
    ] = False,
    layer: Layer = None,
    show_names: Show = None,
    top_k: Annotated[
        int | None, typer.Option(help="Candidates per position.", min=1, show_default="1, production 5")
    ] = None,
    as_json: Json = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON record a line.")] = False,
    values: Annotated[
        bool, typer.Option("--values", help="Add the arrays of what is shown to the JSON; as for --save.")
    ] = False,
    save: Save = None,
    save_aprt: Annotated[
        Path | None,
        typer.Option(
            "--save-aprt", help="Save the stages of apr as APRT dumps, to a new folder.", metavar="DIR"
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --save and --out overwrite.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Add the time of each event.")] = False,
    out: Out = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, trace nothing.")] = False,
    seed: Seed = None,
    validate: Annotated[
        bool,
        typer.Option(
            "--validate",
            help="Show of each event that the computation uses it: replace it, see what changes.",
        ),
    ] = False,
    backward: Annotated[
        bool, typer.Option("--backward", help="Add the gradients of the loss.", rich_help_panel=MICROGPT)
    ] = False,
    step: Annotated[
        bool, typer.Option("--step", help="Go on to one Adam step.", rich_help_panel=MICROGPT)
    ] = False,
    n_head: Heads = None,
    bos: BosPlace = None,
    tokens: TokenIds = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Render the text by the file's template.", rich_help_panel=DECODER)
    ] = False,
    special: Annotated[
        bool, typer.Option("--special", help="Parse special tokens in the text.", rich_help_panel=DECODER)
    ] = False,
    layers: Annotated[
        str | None,
        typer.Option(help="Only these layers (3-5: three of them).", metavar="A-B", rich_help_panel=DECODER),
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(
            help="Which get logits and predictions: all, last or 0,3,-1.",
            metavar="LIST",
            show_default="all",
            rich_help_panel=DECODER,
        ),
    ] = None,
    lens: Annotated[
        bool, typer.Option("--lens", help="The top token after every layer.", rich_help_panel=DECODER)
    ] = False,
    generate: Annotated[
        int | None, typer.Option(help="Continue for so many tokens.", min=1, rich_help_panel=DECODER)
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Draw the tokens.", min=0.0, show_default="0: greedy", rich_help_panel=DECODER),
    ] = None,
    fail_on: Annotated[
        str | None, typer.Option(help="Exit 1 on: anomaly.", metavar="WHAT", rich_help_panel=DECODER)
    ] = None,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Compare with a run unobserved.", rich_help_panel=DECODER)
    ] = False,
    rope_pairs: RopePairing = None,
    settings: Set = None,
    ablate: Ablate = None,
    ablate_mean: AblateMean = None,
    scale: Scale = None,
    patch: Patch = None,
    add: Add = None,
    payload: Annotated[bool, typer.Option("--payload", hidden=True)] = False,
    reference: Annotated[str | None, typer.Option("--reference", hidden=True)] = None,
    diff: Annotated[bool, typer.Option("--diff", hidden=True)] = False,
    save_tensor: Annotated[str | None, typer.Option("--save-tensor", hidden=True)] = None,
) -> None:
    """Trace a text through every stage: shapes, norms, ranges and predictions."""
    _refuse_apr(reference, diff, save_tensor)
    if schema:
        put_schema("validation" if validate else "trace_line" if as_jsonl else "trace", out_file(out))
        return
    request = Request(
        verbose, layer or [], layers, show_names or [], as_json, as_jsonl, values, save, save_aprt,
        None if out == STDOUT else out, fail_on,
    )  # fmt: skip
    asked = given(context)
    _check(request, force)
    _refuse_idle(request, asked)
    if validate:
        refuse_beside_validation(asked)
    path, text = model_and_text(first, second, model)
    for option, target in (("--save", save), ("--out", request.out)):
        if target is not None:
            refuse_over_model(option, target, path)
    own: dict[str, Any] = {"backward": backward, "step": step}
    theirs = {
        "tokens": None if tokens is None else numbers(tokens, "--tokens"), "chat": chat, "special": special,
        "positions": positions_of(positions), "lens": lens, "generate": generate, "temperature": temperature,
        "recheck": recheck,
    }  # fmt: skip
    loaded = model_from(path, seed, n_head, bos, rope_pairs, settings, draws=bool(temperature))
    interventions = interventions_of(ablate, ablate_mean, scale, patch, add, loaded)
    if "prompts" in loaded.abilities:
        _refuse(own, "is for a microGPT: a production model is traced forward only")
        if temperature is not None and generate is None:
            raise InputError("--temperature draws the tokens of --generate N: say how many")
        own = {name: value for name, value in theirs.items() if value} | (
            {} if seed is None else {"seed": seed}
        )
    else:
        extra = {"layers": layers, "fail_on": fail_on}
        _refuse(theirs | extra, f"is for a production model, and this is a microGPT ({loaded.origin})")
    shared = {"text": text, "top_k": top_k, "time": time, "interventions": interventions}
    if validate:
        run_validation(loaded, request, text, own.get("tokens"))
    else:
        run(loaded, request, shared | own)
    if payload:  # of `apr trace`; said in the end, for a refusal is one line
        note("--payload: every trace here runs the forward pass; the flag changes nothing")


trace.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt trace olivia --verbose · microgpt trace emma --backward --step · "
    'microgpt trace qwen2.5-0.5b-q4_k_m.gguf "The capital of France is" --verbose · '
    "microgpt trace emma --ablate layer0.attn.head2 · microgpt trace emma --json | jq .loss"
)


def _refuse_apr(reference: str | None, diff: bool, save_tensor: str | None) -> None:
    """Flags of `apr trace`: what they ask for goes by other names here."""
    if reference is not None or diff:
        option = "--diff" if diff else "--reference"
        raise InputError(f"{option}: comparing two runs is `microgpt diff A B`")
    if save_tensor is not None:
        raise InputError(
            "--save-tensor: use --save-aprt DIR or --save FILE, with --layer "
            f"{quoted(save_tensor)} for these stages"
        )


def _refuse(options: dict[str, Any], why: str) -> None:
    for name, value in options.items():
        if value is not None and value is not False:
            raise InputError(f"--{name.replace('_', '-')} {why}")


def _check(request: Request, force: bool) -> None:
    """What can be known to be wrong before anything is loaded."""
    json = request.as_json or request.as_jsonl
    if request.as_json and request.as_jsonl:
        raise InputError("--json and --jsonl exclude each other")
    if request.values and not json:
        raise InputError(
            "--values adds the arrays to --json or --jsonl; --show prints one, --save saves them"
        )
    if request.show and json:
        raise InputError("--show prints a table; with --json use --layer NAME --values")
    if request.fail_on not in (None, "anomaly"):
        raise InputError(f"--fail-on: expected anomaly, found {request.fail_on!r}")
    targets = {"--save": request.save, "--out": request.out, "--save-aprt": request.save_aprt}
    named: dict[str, str] = {}
    for option, path in targets.items():
        other = named.setdefault(realpath(path), option) if path is not None else option
        if other != option:
            raise InputError(f"{other} and {option} both name {path}")
    for path in (request.save, request.out):
        if path is not None:
            check_target(path, force)
    if request.save_aprt is not None:
        check_new_folder(request.save_aprt)


def _refuse_idle(request: Request, asked: dict[str, str]) -> None:
    """Options that would change nothing beside the others."""
    if "force" in asked and request.save is None and request.out is None:
        raise InputError("--force lets --save and --out overwrite, and neither is given")
    if "chat" in asked:  # whose special tokens are parsed in any case
        refuse(asked, ["special"], "--chat")
