"""microgpt diff"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .command import given, refuse, schema_by
from .options import BosPlace, Heads, Json, Layer, Out, RopePairing, Set, numbers, positions_of
from .output import out_file, put, put_schema, show_sections
from .progress import progress
from .sources import Layouts, MapFile, Opener, Tokens, layouts_of, name_map, refuse_idle

BAND, GATE = "How far apart is the same", "Other comparisons"


class Precision(str, Enum):
    bf16 = "bf16"
    f16 = "f16"
    q8 = "q8"


@dataclass(frozen=True)
class View:
    """What is shown of a comparison, and where it goes."""

    verbose: bool
    as_json: bool
    by_position: bool
    out: Path | None


@schema_by("weights", "prompts")
def diff(
    context: typer.Context,
    a: Annotated[
        Path | None,
        typer.Argument(
            metavar="A", help="A model, a saved trace, or another engine's dump.", show_default=False
        ),
    ] = None,
    b: Annotated[
        Path | None, typer.Argument(metavar="B", help="The other one.", show_default=False)
    ] = None,
    text: Annotated[
        str | None,
        typer.Argument(
            metavar="[TEXT]", help="What models read.", show_default="what a dump was made of, else as trace"
        ),
    ] = None,
    tokens: Tokens = None,
    layer: Layer = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every event of every layer.")] = False,
    positions: Annotated[
        str | None,
        typer.Option(help="Add a view by position: all, last or 0,3,-1.", metavar="LIST"),
    ] = None,
    map_file: MapFile = None,
    layouts: Layouts = None,
    suggest_map: Annotated[
        bool, typer.Option("--suggest-map", help="Draft a --map of the dump's names, compare nothing.")
    ] = False,
    compute: Annotated[
        Precision | None,
        typer.Option(help="The other engine computes so: measure what that does.", rich_help_panel=BAND),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="A third run, whose distance from A is right.", metavar="REF", rich_help_panel=BAND
        ),
    ] = None,
    factor: Annotated[
        float | None,
        typer.Option(
            help="Times the distance that --compute or --calibrate measures.", min=0.0,
            show_default="8; 12 for --calibrate", rich_help_panel=BAND,
        ),
    ] = None,
    rtol: Annotated[
        float | None, typer.Option(help="Share of a row that may differ.", min=0.0, rich_help_panel=BAND)
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option(help="Difference of an element that does not count.", min=0.0, rich_help_panel=BAND),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="A prompt a line, through both models.", metavar="FILE", rich_help_panel=GATE),
    ] = None,
    weights: Annotated[
        bool, typer.Option("--weights", help="Compare the parameters, run nothing.", rich_help_panel=GATE)
    ] = False,
    as_json: Json = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema, compare nothing.")] = False,
    out: Out = None,
    n_head: Heads = None,
    bos: BosPlace = None,
    rope_pairs: RopePairing = None,
    settings: Set = None,
) -> None:  # fmt: skip
    """Compare two runs event by event and name the first place where they part.

    Exit code 0: all that was compared agrees. 1: they differ. 2: they cannot be compared.
    """
    out = out_file(out)
    if schema:
        put_schema("weights" if weights else "prompts" if prompts is not None else "diff", out)
        return
    if a is None or b is None:
        raise InputError("two sides are needed: microgpt diff A B")
    _refuse_mixtures(given(context))
    opener = Opener(n_head, bos, rope_pairs, settings, name_map(map_file))
    sides = [opener.open(a), opener.open(b)]
    of_models = {"--n-head": n_head, "--bos": bos, "--rope-pairs": rope_pairs, "--set": settings}
    refuse_idle(sides, of_models, {"--map": map_file, "--layout": layouts})
    view = View(verbose, as_json, positions is not None, out)
    options: dict[str, Any] = {
        "names": layer or [], "rtol": rtol, "atol": atol, "factor": factor,
        "compute": compute.value if compute else None,
        "calibrate": opener.open(calibrate) if calibrate is not None else None,
    }  # fmt: skip
    ids = None if tokens is None else numbers(tokens, "--tokens")
    if weights:
        same = _weights(sides, layer or [], rtol, view)
    elif prompts is not None:
        same = _prompts(sides, prompts, options, view)
    elif suggest_map:
        from ..comparison.map_suggestion import drafted_map

        put([drafted_map(sides, text, ids)], out)
        same = True
    else:
        options |= {"map": opener.names, "layouts": layouts_of(layouts)}
        options["positions"] = positions_of(positions) or "all"
        same = _compare(sides, text, ids, options, view)
    if not same:
        raise typer.Exit(1)


diff.epilog = (  # type: ignore[attr-defined]
    "Examples: microgpt diff model.gguf dumps/ · "
    "microgpt diff model.gguf dumps/ --suggest-map --out map.toml · "
    "microgpt diff a.safetensors b.safetensors emma · "
    "microgpt diff qwen.gguf qwen-folder --calibrate qwen-q8.gguf · "
    "microgpt diff old.gguf new.gguf --prompts prompts.txt"
)


def _refuse_mixtures(asked: dict[str, str]) -> None:
    """Options of which one would be ignored beside the other."""
    modes = [option for option in ("weights", "prompts", "suggest_map") if option in asked]
    if len(modes) > 1:
        raise InputError(f"{asked[modes[0]]} and {asked[modes[1]]} exclude each other")
    bands = ["compute", "calibrate", "factor", "atol"]
    silent = {
        "weights": ["text", "tokens", "positions", "map_file", "layouts", *bands],
        "prompts": ["text", "tokens", "positions", "map_file", "layouts", "verbose"],
        "suggest_map": ["positions", "layer", "verbose", "as_json", "map_file", "layouts", "rtol", *bands],
    }
    for mode in modes:
        refuse(asked, silent[mode], asked[mode])
    if "as_json" in asked:
        refuse(asked, ["verbose"], "--json")


def _compare(
    sides: Sequence[Any], text: str | None, tokens: list[int] | None, options: dict[str, Any], view: View
) -> bool:
    from ..comparison.diff import diff as compare

    a, b = sides
    with progress("event") as report:
        result = compare(a, b, text, tokens=tokens, report=report, **options)
    if view.as_json:
        from ..render.results import comparison_document, to_json

        put([to_json(comparison_document(result))], view.out)
    else:
        from ..render.comparison import comparison_sections

        sections = comparison_sections(result, verbose=view.verbose, by_position=view.by_position)
        show_sections(sections, view.out)
    return result.agree


def _weights(sides: Sequence[Any], names: list[str], rtol: float | None, view: View) -> bool:
    from ..comparison.weights import compare_weights

    a, b = _two_models(sides, "--weights")
    with progress("parameter") as report:
        result = compare_weights(a, b, names=names, rtol=rtol, report=report)
    if view.as_json:
        from ..render.results import to_json, weights_document

        put([to_json(weights_document(result))], view.out)
    else:
        from ..render.weights import weights_sections

        show_sections(weights_sections(result, verbose=view.verbose), view.out)
    return result.agree


def _prompts(sides: Sequence[Any], path: Path, options: dict[str, Any], view: View) -> bool:
    from ..comparison.prompts import diff_prompts, read_prompts

    a, b = _two_models(sides, "--prompts")
    with progress("prompt") as report:
        results = list(diff_prompts(a, b, read_prompts(path), report, **options))
    if view.as_json:
        from ..render.results import prompts_document, to_json

        put([to_json(prompts_document(a.origin, b.origin, results))], view.out)
    else:
        from ..render.prompts import prompts_sections

        show_sections(prompts_sections(results), view.out)
    return all(result.agree for result in results)


def _two_models(sides: Sequence[Any], option: str) -> tuple[Any, Any]:
    for side in sides:
        if not hasattr(side, "family"):
            raise InputError(f"{option} is for two models, and {side.origin} is none ({side.kind})")
    return sides[0], sides[1]
