"""The options of `trace`: what is shown, what is saved, what is changed in the run, and what one family of
models adds."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError
from .drawn import Drawn
from .option_groups import flag, group, option
from .options import (
    DECODER,
    MICROGPT,
    Layer,
    TokenIds,
    key_and_value,
    positions_of,
    token_ids,
)
from .output import Output

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..running.interventions import Intervention


@group()
class Shown:
    """Which events and arrays are looked at."""

    verbose: bool = flag("--verbose", "-v", help="Every event with full statistics, layer by layer.")
    layer: Layer = None
    show_names: list[str] | None = option(
        "--show",
        help="Print this tensor or parameter in full, or a part: NAME[1], NAME[3,0:8].",
        metavar="NAME",
    )
    brief: bool = flag("--brief", help="No prose: tables, and the self-check in one line.")
    top_k: int | None = option(help="Candidates per position.", min=1, show_default="1, production 5")
    validate: bool = flag(
        "--validate", help="Show of each event that the computation uses it: replace it, see what changes."
    )
    payload: bool = flag("--payload", hidden=True)


@group()
class Written(Output):
    """What is written of them, and where."""

    as_jsonl: bool = flag("--jsonl", help="One JSON record a line.")
    values: bool = flag("--values", help="Add the arrays of what is shown to the JSON; as for --save.")
    save: Path | None = option(
        help="Save the arrays of what is shown as safetensors: a few; of all events with --verbose, of "
        "any with --layer.",
        metavar="FILE",
    )
    save_aprt: Path | None = option(
        help="Save the stages of apr as APRT dumps, to a new folder.", metavar="DIR"
    )
    time: bool = flag("--time", help="Add the time of each event.")

    @property
    def is_json(self) -> bool:
        return self.as_json or self.as_jsonl


@group()
class DrawnOfTrace(Drawn):
    """What is drawn beside a trace."""

    plot: list[str] | None = option(
        help="Draw attention, attention:layer3.head0, stream, lens, probs or loss as .svg, .png or .pdf.",
        metavar="[NAME=]FILE",
        show_default="attention; of a production model: stream",
    )
    html_budget: float | None = option(
        help="Megabytes that the page may fill.",
        min=0.5,
        metavar="MB",
        rich_help_panel=DECODER,
        show_default="2",
    )
    force: bool = flag("--force", help="Let --save, --out, --html and --plot overwrite.")


@group(MICROGPT)
class OfMicroGPT:
    """What only a microGPT can do."""

    backward: bool = flag("--backward", help="Add the gradients of the loss.")
    step: bool = flag("--step", help="Go on to one Adam step.")


@group(DECODER)
class OfProduction:
    """What only a production model can do."""

    tokens: TokenIds = None
    chat: bool = flag("--chat", help="Render the text by the file's template.")
    special: bool = flag("--special", help="Parse special tokens in the text.")
    layers: str | None = option(help="Only these layers (3-5: three of them).", metavar="A-B")
    positions: str | None = option(
        help="Which get logits and predictions: all, last or 0,3,-1.", metavar="LIST", show_default="all"
    )
    lens: bool = flag("--lens", help="The top tokens after every layer.")
    target: str | None = option(
        help="Follow this token through --lens, after attention too: its text, ␣ for a blank, or #ID.",
        metavar="TOKEN",
    )
    generate: int | None = option(help="Continue for so many tokens.", min=1)
    temperature: float | None = option(help="Draw the tokens.", min=0.0, show_default="0: greedy")
    fail_on: Literal["anomaly"] | None = option(help="Exit 1 where this is found.")
    recheck: bool = flag("--recheck", help="Compare with a run unobserved.")

    def options(self) -> dict[str, Any]:
        """The options that tracing.trace takes, as far as they are given. Raises InputError for a list that
        is none."""
        read = {"tokens": token_ids(self.tokens), "positions": positions_of(self.positions)}
        given = {
            name: value for name, value in vars(self).items() if value is not None and value is not False
        }
        return {
            name: read.get(name, value) for name, value in given.items() if name not in ("layers", "fail_on")
        }


@group("Interventions")
class Interventions:
    """What stands in the place of which values."""

    ablate: list[str] | None = option(
        help="Put zeros in the place of an event or head; NAME@3 is its position 3, NAME@3:5 of "
        "it channel 5.",
        metavar="NAME",
    )
    ablate_mean: list[str] | None = option(
        help="Put its mean over the positions in its place.", metavar="NAME"
    )
    scale: list[str] | None = option(
        help="Multiply it; of a NAME that --add names too, multiply what is added.", metavar="NAME=NUMBER"
    )
    patch: list[str] | None = option(
        help="Put there what a saved trace or another dump has.", metavar="NAME=FILE"
    )
    add: list[str] | None = option(help="Add an array, or one row to every position.", metavar="NAME=FILE")


def interventions_of(asked: Interventions, model: "LanguageModel") -> "list[Intervention]":
    """The interventions in the order in which they are made: patch, add, scale, ablate. Raises InputError."""
    if not any(vars(asked).values()):
        return []
    from ..dumps.formats import open_recording
    from ..hooks.sites import parse_site
    from ..running.interventions import Intervention

    known = list(model.plan)

    def meant(target: str) -> tuple[object, ...]:
        """What a target stands for, however it is spelled."""
        site = parse_site(target)
        return tuple(site.names(known)), site.position, site.channel, site.index

    factors = {name: _number(name, text) for name, text in _pairs("--scale", asked.scale)}
    strength = {meant(name): factor for name, factor in factors.items()}
    patches, additions = _pairs("--patch", asked.patch), _pairs("--add", asked.add)
    files = {path: open_recording(Path(path)) for _, path in (*patches, *additions)}
    added = {meant(name) for name, _ in additions}
    return [
        *(Intervention("patch", name, 1.0, files[path], path) for name, path in patches),
        *(
            Intervention("add", name, strength.get(meant(name), 1.0), files[path], path)
            for name, path in additions
        ),
        *(
            Intervention("scale", name, factor)
            for name, factor in factors.items()
            if meant(name) not in added
        ),
        *(Intervention("ablate-mean", name) for name in asked.ablate_mean or ()),
        *(Intervention("ablate", name) for name in asked.ablate or ()),
    ]


def _pairs(option: str, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    wanted = "NAME=NUMBER" if option == "--scale" else "NAME=FILE"
    pairs = [key_and_value(option, wanted, text) for text in texts or ()]
    for name, value in pairs:
        if not value:
            raise InputError(f"{option}: expected {wanted}, found {name + '='!r}")
        if option == "--scale" and sum(name == other for other, _ in pairs) > 1:
            raise InputError(f"--scale: {name} is scaled twice")
    return pairs


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--scale {name}: expected a number, found {text!r}") from error
