"""microgpt trace"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from ..files import check_target
from .options import STDOUT, BosPlace, Heads, Json, ModelFile, Out, Seed, Text, model_from
from .output import note, put, show

if TYPE_CHECKING:
    from ..model import Model
    from ..render.screen import Screen
    from ..tracing import Trace

Layer = Annotated[
    list[str] | None,
    typer.Option("--layer", help="Only the events this name, glob or apr stage matches.", metavar="GLOB"),
]
Show = Annotated[
    list[str] | None, typer.Option("--show", help="Print this tensor or parameter in full.", metavar="NAME")
]
Save = Annotated[Path | None, typer.Option("--save", help="Save the arrays as safetensors.", metavar="FILE")]


def trace(
    text: Text = "emma",
    model: ModelFile = None,
    seed: Seed = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every event, full statistics, attention matrices.")
    ] = False,
    layer: Layer = None,
    show_names: Show = None,
    top_k: Annotated[int, typer.Option(help="Candidates per position.", min=1)] = 1,
    backward: Annotated[bool, typer.Option("--backward", help="Add the gradients of the loss.")] = False,
    step: Annotated[bool, typer.Option("--step", help="Go on to one Adam step.")] = False,
    as_json: Json = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON record a line.")] = False,
    values: Annotated[bool, typer.Option("--values", help="Add the arrays to the JSON.")] = False,
    save: Save = None,
    force: Annotated[bool, typer.Option("--force", help="Let --save and --out overwrite.")] = False,
    time: Annotated[bool, typer.Option("--time", help="Add the time of each event.")] = False,
    out: Out = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, trace nothing.")] = False,
    n_head: Heads = None,
    bos: BosPlace = None,
) -> None:
    """Trace a name through every stage: shapes, norms, ranges and predictions."""
    if schema:
        _put_schema(as_jsonl, out)
        return
    if as_json and as_jsonl:
        raise InputError("--json and --jsonl exclude each other")
    if values and not (as_json or as_jsonl):
        raise InputError(
            "--values adds the arrays to --json or --jsonl; --show prints one, --save saves them"
        )
    if show_names and (as_json or as_jsonl):
        raise InputError("--show prints a table; with --json use --layer NAME --values")
    out = None if out == STDOUT else out
    if save is not None and out is not None and save.resolve() == out.resolve():
        raise InputError(f"--save and --out both name {out}")
    for path in (save, out):
        if path is not None:
            check_target(path, force)
    from ..tracing import selection
    from ..tracing import trace as run_trace

    traced_model = model_from(model, seed, n_head, bos)
    names = layer or selection(traced_model, verbose)
    wanted = [*(show_names or ()), *(["layer*.attn.weights"] if verbose else [])]
    wanted += names if values or save else []
    result = run_trace(
        traced_model, text, names=names, values=wanted,
        top_k=top_k, backward=backward, step=step, time=time,
    )  # fmt: skip
    if save is not None:
        from ..checkpoint import save_arrays

        save_arrays(result, save)
        note(f"saved {len(result)} arrays to {save}")
    if as_json or as_jsonl:
        from ..render.document import to_json, to_json_lines

        for text_note in result.input.notes:
            note(text_note)
        put(to_json_lines(result, values) if as_jsonl else [to_json(result, values)], out)
    else:
        show(lambda screen: _paint(result, traced_model, verbose, show_names or [], screen), out)
    if not result.ok:
        raise typer.Exit(1)


trace.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt trace olivia --verbose · microgpt trace emma --backward --step · "
    "microgpt trace emma --show layer0.attn.weights · microgpt trace emma --json | jq .loss"
)


def _put_schema(of_lines: bool, out: Path | None) -> None:
    from ..render.document import dump
    from ..render.schema import document_schema, line_schema

    put([dump(line_schema() if of_lines else document_schema(), indent=2) + "\n"], out)


def _paint(result: Trace, model: Model, verbose: bool, names: list[str], screen: Screen) -> None:
    from ..events import select_names
    from ..render.arrays import print_array
    from ..render.table import print_trace

    specs = model.hooks.specs
    print_trace(result, screen, specs, verbose=verbose)
    for name in [found for asked in names for found in select_names([asked], list(specs))]:
        labels = result.input.labels
        if name in model.config.shapes():
            print_array(name, model.params[name], model, labels, screen)
        if ("forward", name) in result.arrays:
            print_array(name, result[name], model, labels, screen)
        if ("backward", name) in result.arrays:
            print_array(name, result.gradient(name), model, labels, screen, f"d loss / d {name}")
