"""The options of `trace`: what is shown, what is saved, what is changed in the run, and what one family of
models adds; and the events that they choose, one selection for all that is shown, serialised and saved."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError
from ..hooks.names import ALIASES, glob_pattern, select_names
from ..text.wording import counted
from .drawn import Drawn
from .option_groups import flag, group, option
from .options import DECODER, MICROGPT, Layer, TokenIds, key_and_value, positions_of, token_ids
from .output import Output

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..running.interventions import Intervention
    from ..tracing.result import Trace


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
        asked = {**vars(self), **read, "layers": None, "fail_on": None}  # not those of tracing.trace
        return {name: value for name, value in asked.items() if value is not None and value is not False}


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
    patches, additions = _pairs("--patch", asked.patch), _pairs("--add", asked.add)
    files = {path: open_recording(Path(path)) for _, path in (*patches, *additions)}
    strength = {meant(name): factor for name, factor in factors.items()}
    added = {meant(name) for name, _ in additions}
    made = [Intervention("patch", name, 1.0, files[path], path) for name, path in patches]
    for name, path in additions:
        made.append(Intervention("add", name, strength.get(meant(name), 1.0), files[path], path))
    made += [Intervention("scale", name, by) for name, by in factors.items() if meant(name) not in added]
    made += [Intervention("ablate-mean", name) for name in asked.ablate_mean or ()]
    return made + [Intervention("ablate", name) for name in asked.ablate or ()]


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


@dataclass(frozen=True)
class Request:
    """What is shown of a model's trace, and where it goes."""

    model: "LanguageModel"
    shown: Shown
    written: Written
    drawn: DrawnOfTrace
    layers: Sequence[int]  # those of --layers, none without it

    def selected(self, verbose: bool = False) -> list[str]:
        """The events asked for by name, else those of the overview or, if `verbose`, all but those that cost
        a computation of their own; and of these the chosen layers'."""
        verbose = verbose or self.shown.verbose
        specs = self.model.hooks.specs
        asked = self.shown.layer and select_names(self.shown.layer, list(specs))
        names = asked or [n for n, s in specs.items() if (verbose and not s.extra) or s.overview]
        if not self.layers:
            return names
        found = [
            name for name in names if specs[name].layer in (self.layers if asked else [None, *self.layers])
        ]
        if not found:
            raise InputError("--layers has none of the events that --layer names")
        return found

    def kept(self, result: "Trace", verb: str, where: str = "") -> str:
        """How many arrays were kept, and where that is not all which options keep others."""
        count = len(result)
        if self.shown.layer:
            return f"{counted(count, 'array')}{where}"
        total = self._of_all(result)
        heads = any(spec.extra for spec in self.model.hooks.specs.values()) and "--layer '*.head*'"
        if count == total:
            return f"{counted(count, 'array')}{where}" + (f"; {heads} {verb} the heads" if heads else "")
        more = f"; --verbose {verb} {total:,}" + (f", {heads} the heads" if heads else "")
        return f"{count:,} of {counted(total, 'array')}{where}{more}"

    def _of_all(self, result: "Trace") -> int:
        """How many arrays the same request with --verbose keeps."""
        names = self.selected(verbose=True)
        parameters = [name for name in names if self.model.hooks.specs[name].parameter == name]
        computed = len(names) - len(parameters) - ("loss" in names and result.loss is None)
        of_phase = {"forward": computed, "backward": len(names), "update": len(parameters)}
        return sum(of_phase[phase] for phase in {event.phase for event in result})


def with_stages(model: "LanguageModel", names: list[str]) -> list[str]:
    """Those of the names that a stage of apr stands for."""
    stages = [glob_pattern(glob) for globs in ALIASES.values() for glob in globs]
    found = [name for name in names if any(stage.fullmatch(name) for stage in stages)]
    if not found:
        raise InputError("--save-aprt: none of the chosen events is a stage of apr")
    return found


def layers_of(text: str | None, count: int) -> list[int]:
    """ "3-5" is three layers, "3,7" two."""
    if text is None:
        return []
    chosen: list[int] = []
    for part in text.split(","):
        bounds = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if bounds is None:
            raise InputError(f"--layers: expected something like 3-5 or 0,7, found {text!r}")
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        if last < first:
            raise InputError(f"--layers {text}: {part} ends before it begins")
        if last >= count:
            raise InputError(f"--layers {text}: this model has layers 0 to {count - 1}")
        chosen += range(first, last + 1)
    return chosen
