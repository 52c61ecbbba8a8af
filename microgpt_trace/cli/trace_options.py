"""The options of `trace`: what is shown, what is saved, and what one family of models adds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .drawn import Drawn
from .options import DECODER, MICROGPT, Json, Layer, Out, TokenIds, positions_of, schema_option, token_ids
from .output import named_file


@dataclass(frozen=True, eq=False, repr=False)
class Shown:
    """Which events and arrays are looked at."""

    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Every event with full statistics, layer by layer.")
    ] = False
    layer: Layer = None
    show_names: Annotated[
        list[str] | None,
        typer.Option(
            "--show",
            help="Print this tensor or parameter in full, or a part: NAME[1], NAME[3,0:8].",
            metavar="NAME",
        ),
    ] = None
    brief: Annotated[
        bool, typer.Option("--brief", help="No prose: tables, and the self-check in one line.")
    ] = False
    top_k: Annotated[
        int | None, typer.Option(help="Candidates per position.", min=1, show_default="1, production 5")
    ] = None


@dataclass(frozen=True, eq=False, repr=False)
class Written:
    """What is written of them, and where."""

    as_json: Json = False
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON record a line.")] = False
    values: Annotated[
        bool, typer.Option("--values", help="Add the arrays of what is shown to the JSON; as for --save.")
    ] = False
    save: Annotated[
        Path | None,
        typer.Option(
            "--save",
            help="Save the arrays of what is shown as safetensors: a few; of all events with --verbose, of "
            "any with --layer.",
            metavar="FILE",
        ),
    ] = None
    save_aprt: Annotated[
        Path | None,
        typer.Option(
            "--save-aprt", help="Save the stages of apr as APRT dumps, to a new folder.", metavar="DIR"
        ),
    ] = None
    time: Annotated[bool, typer.Option("--time", help="Add the time of each event.")] = False
    out: Out = None
    schema: Annotated[bool, schema_option("trace")] = False

    @property
    def is_json(self) -> bool:
        return self.as_json or self.as_jsonl

    @property
    def target(self) -> Path | None:
        """The file that --out names; None is stdout."""
        return named_file(self.out)


@dataclass(frozen=True, eq=False, repr=False)
class DrawnOfTrace(Drawn):
    """The same of a trace."""

    plot: Annotated[
        list[str] | None,
        typer.Option(
            "--plot",
            help="Draw attention, attention:layer3.head0, stream, lens, probs or loss as .svg, .png or .pdf.",
            metavar="[NAME=]FILE",
            show_default="attention; of a production model: stream",
        ),
    ] = None
    html_budget: Annotated[
        float | None,
        typer.Option(
            "--html-budget",
            help="Megabytes that the page may fill.",
            min=0.5,
            metavar="MB",
            rich_help_panel=DECODER,
            show_default="2",
        ),
    ] = None
    force: Annotated[
        bool, typer.Option("--force", help="Let --save, --out, --html and --plot overwrite.")
    ] = False


@dataclass(frozen=True, eq=False, repr=False)
class OfMicroGPT:
    """What only a microGPT can do."""

    backward: Annotated[
        bool, typer.Option("--backward", help="Add the gradients of the loss.", rich_help_panel=MICROGPT)
    ] = False
    step: Annotated[
        bool, typer.Option("--step", help="Go on to one Adam step.", rich_help_panel=MICROGPT)
    ] = False


@dataclass(frozen=True, eq=False, repr=False)
class OfProduction:
    """What only a production model can do."""

    tokens: TokenIds = None
    chat: Annotated[
        bool, typer.Option("--chat", help="Render the text by the file's template.", rich_help_panel=DECODER)
    ] = False
    special: Annotated[
        bool, typer.Option("--special", help="Parse special tokens in the text.", rich_help_panel=DECODER)
    ] = False
    layers: Annotated[
        str | None,
        typer.Option(help="Only these layers (3-5: three of them).", metavar="A-B", rich_help_panel=DECODER),
    ] = None
    positions: Annotated[
        str | None,
        typer.Option(
            help="Which get logits and predictions: all, last or 0,3,-1.",
            metavar="LIST",
            show_default="all",
            rich_help_panel=DECODER,
        ),
    ] = None
    lens: Annotated[
        bool,
        typer.Option("--lens", help="The top tokens after every layer.", rich_help_panel=DECODER),
    ] = False
    target: Annotated[
        str | None,
        typer.Option(
            help="Follow this token through --lens, after attention too: its text, ␣ for a blank, or #ID.",
            metavar="TOKEN",
            rich_help_panel=DECODER,
        ),
    ] = None
    generate: Annotated[
        int | None, typer.Option(help="Continue for so many tokens.", min=1, rich_help_panel=DECODER)
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(help="Draw the tokens.", min=0.0, show_default="0: greedy", rich_help_panel=DECODER),
    ] = None
    fail_on: Annotated[
        str | None, typer.Option(help="Exit 1 on: anomaly.", metavar="WHAT", rich_help_panel=DECODER)
    ] = None
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Compare with a run unobserved.", rich_help_panel=DECODER)
    ] = False

    def options(self) -> dict[str, Any]:
        """Those that tracing.trace takes. Raises InputError for a list that is none."""
        return {
            "tokens": token_ids(self.tokens), "chat": self.chat, "special": self.special,
            "positions": positions_of(self.positions), "lens": self.lens, "target": self.target,
            "generate": self.generate, "temperature": self.temperature, "recheck": self.recheck,
        }  # fmt: skip
