"""The options of `trace`. A `Request` selects the events to show, to write as JSON and to save."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError
from ..hooks.names import ALIASES, glob_pattern, select_names
from ..text.frozen import frozen
from ..text.wording import counted
from .common_options import (
    MICROGPT,
    PRODUCTION,
    EventChoice,
    HelpPanel,
    Source,
    against_option,
    key_and_value,
    position_option,
    positions_of,
    token_ids,
)
from .exports import Exports
from .option_groups import flag, group, option
from .output import Output

if TYPE_CHECKING:
    from ..interventions.interventions import Intervention
    from ..models.language_model import LanguageModel
    from ..tracing.result import Trace


@group(HelpPanel.INPUT)
class TraceSource(Source):
    """The model and its input, and how to read the input."""

    seed: int | None = option(
        "Seed of the untrained microGPT, or of sampling with --temperature.", min=0, show_default="42"
    )
    chat: bool = flag("Format the text with the chat template of the model file.", family=PRODUCTION)
    special: bool = flag("Parse special tokens in the text.", family=PRODUCTION)


@group(HelpPanel.SHOWN)
class Shown(EventChoice):
    """The events and arrays to show."""

    verbose: bool = flag("Show every event with its full statistics, layer by layer.", "--verbose", "-v")
    layers: str | None = option(
        "Show only these layers, such as 3-5 or 0,7.", metavar="LIST", family=PRODUCTION
    )
    show_names: list[str] | None = option(
        "Print this event or parameter in full, or a part of it, such as NAME[1] or NAME[3,0:8].",
        "--show", metavar="NAME",
    )  # fmt: skip
    brief: bool = flag("Print tables without explanations, and print the self-check on one line.")
    time: bool = flag("Show the computing time of each event.")
    payload: bool = flag("", hidden=True)


@group(HelpPanel.PREDICTIONS)
class PredictionOptions:
    """The predictions to compute and to show."""

    top_k: int | None = option(
        "Number of predicted tokens to show per position.",
        min=1, show_default="1, or 5 for a production model",
    )  # fmt: skip
    positions: str | None = option(
        'Compute logits and predictions only at these positions: "all", "last", or a list such as 0,3,-1.',
        metavar="LIST", show_default="all", family=PRODUCTION,
    )  # fmt: skip
    lens: bool = flag("Show the top tokens after every layer (logit lens).", family=PRODUCTION)
    target: list[str] | None = option(
        "Token whose logit --backward differentiates, and which --lens follows, also after attention. Write "
        "the token with ␣ for a space, or #ID. --backward takes several.",
        metavar="TOKEN", family=PRODUCTION,
    )  # fmt: skip
    generate: int | None = option("Continue the text by this many tokens.", min=1, family=PRODUCTION)
    temperature: float | None = option(
        "Sampling temperature for --generate. 0 always picks the most likely token.",
        min=0.0, show_default="0", family=PRODUCTION,
    )  # fmt: skip


@group("Backward pass")
class Backward:
    """The backward pass and the optimizer step."""

    backward: bool = flag("Add the gradients of the loss, or of the logit of --target.")
    step: bool = flag("Add the gradients and one step of Adam.", family=MICROGPT)
    against: str | None = against_option()
    position: int | None = position_option()
    parameters: list[str] | None = option(
        "Show the norms of the gradients of these parameters, such as 'layer0.*' or '*norm'. --save also "
        "saves these gradients.", metavar="GLOB", family=PRODUCTION,
    )  # fmt: skip


@group(HelpPanel.SAVING)
class Written(Output):
    """The files and documents to write."""

    as_jsonl: bool = flag("Print one JSON record per line.", "--jsonl")
    values: bool = flag("Add to the JSON the arrays of events that --save saves.")
    save: Path | None = option(
        "Save the arrays of the overview as a safetensors file. With --verbose, save the arrays of all "
        "events. With --layer, save only the arrays of the selected events.",
    )  # fmt: skip
    save_aprt: Path | None = option(
        "Save APRT dumps of all events that are stages of apr, in a new folder.", metavar="DIR"
    )

    @property
    def is_json(self) -> bool:
        return self.as_json or self.as_jsonl


@group(HelpPanel.SAVING)
class TraceExports(Exports):
    """The page and the figures of a trace."""

    plot: list[str] | None = option(
        "Draw a figure in this .svg, .png or .pdf file, such as lens=lens.svg. NAME is attention, "
        "attention:layer3.head0, stream, lens, probs or loss.",
        metavar="[NAME=]FILE", show_default="attention, or stream for a production model",
    )  # fmt: skip
    html_budget: float | None = option(
        "Maximum size of the --html page in megabytes.",
        min=0.5, metavar="MB", show_default="2", family=PRODUCTION,
    )  # fmt: skip
    interactive: bool = flag("Open the page of the trace in the browser.")
    force: bool = flag("Overwrite existing files of --save, --out, --html and --plot.")


@group(HelpPanel.INTERVENTIONS)
class Interventions:
    """Values to replace while the model runs."""

    ablate: list[str] | None = option(
        "Replace an event or a head by zeros. NAME@3 replaces only position 3, and NAME@3:5 only "
        "channel 5 of position 3. layer0.attn.weights\\[1,4,2] is head 1, query 4, key 2.", metavar="NAME",
    )  # fmt: skip
    ablate_mean: list[str] | None = option(
        "Replace an event or a head by its mean over the positions.", metavar="NAME"
    )
    scale: list[str] | None = option(
        "Multiply an event by a number. If --add names the same event, multiply only the added array.",
        metavar="NAME=NUMBER",
    )  # fmt: skip
    patch: list[str] | None = option(
        "Replace an event by the value in a saved trace or in another dump.", metavar="NAME=FILE"
    )
    add: list[str] | None = option(
        "Add an array to an event. An array with one row is added at every position.", metavar="NAME=FILE"
    )


@group("Checks")
class Checks:
    """Checks to run, and the exit code."""

    validate: bool = flag(
        "Check that the model uses every event: replace each event and measure the change of the results."
    )
    fail_on: Literal["anomaly"] | None = option("Exit with code 1 if an anomaly is found.", family=PRODUCTION)
    recheck: bool = flag(
        "Run the model again without tracing and compare the results and gradients.", family=PRODUCTION
    )


def run_options(
    model: "LanguageModel", source: TraceSource, predictions: PredictionOptions, backward: Backward,
    checks: Checks,
) -> dict[str, Any]:  # fmt: skip
    """Return the keyword arguments of `tracing.trace`. Raises InputError for a malformed list."""
    if not model.takes_prompts:
        return {"top_k": predictions.top_k, "backward": backward.backward, "step": backward.step}
    target = predictions.target
    options = vars(predictions) | vars(backward) | {
        "target": target[0] if target and len(target) == 1 else target,
        "tokens": token_ids(source.tokens), "positions": positions_of(predictions.positions),
        "chat": source.chat, "special": source.special, "seed": source.seed, "recheck": checks.recheck,
    }  # fmt: skip
    return {name: value for name, value in options.items() if value is not None and value is not False}


def interventions_of(options: Interventions, model: "LanguageModel") -> "list[Intervention]":
    """Return the interventions in order of their application: patch, add, scale, ablate. Raises InputError
    for a malformed option or file."""
    if not any(vars(options).values()):
        return []
    from ..dumps.formats import open_recording
    from ..dumps.recording import of_model
    from ..interventions.interventions import Intervention
    from ..selection.sites import parse_site

    names = list(model.plan)

    def place_of(target: str) -> tuple[object, ...]:
        """Return the events and the part that a target names. The spelling of the target does not matter."""
        site = parse_site(target)
        return tuple(site.names(names)), site.position, site.channel, site.index

    factors = {name: _number(name, text) for name, text in _pairs("--scale", options.scale)}
    patches, additions = _pairs("--patch", options.patch), _pairs("--add", options.add)
    files = {path: of_model(open_recording(Path(path)), model) for _, path in (*patches, *additions)}
    strengths = {place_of(name): factor for name, factor in factors.items()}
    added = {place_of(name) for name, _ in additions}
    result = [Intervention("patch", name, 1.0, files[path], path) for name, path in patches]
    for name, path in additions:
        result.append(Intervention("add", name, strengths.get(place_of(name), 1.0), files[path], path))
    result += [Intervention("scale", name, by) for name, by in factors.items() if place_of(name) not in added]
    result += [Intervention("ablate-mean", name) for name in options.ablate_mean or ()]
    return result + [Intervention("ablate", name) for name in options.ablate or ()]


def _pairs(option: str, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    expected = "NAME=NUMBER" if option == "--scale" else "NAME=FILE"
    pairs = [key_and_value(option, expected, text) for text in texts or ()]
    for name, value in pairs:
        if not value:
            raise InputError(f"{option}: expected {expected}, found {name + '='!r}")
        if option == "--scale" and sum(name == other for other, _ in pairs) > 1:
            raise InputError(f"--scale: {name} is scaled twice")
    return pairs


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--scale {name}: expected a number, found {text!r}") from error


@frozen(slots=False)
class Request:
    """The model, and the user's choice of results to show and to save."""

    model: "LanguageModel"
    shown: Shown
    written: Written
    exports: TraceExports

    @cached_property
    def layers(self) -> list[int]:
        """The layers that --layers names, or [] without --layers."""
        return layers_of(self.shown.layers, self.model.config.n_layer)

    def selected(self, verbose: bool = False) -> list[str]:
        """Return the events that --layer names, or the events of the overview. `verbose` (or --verbose) adds
        all events that need no extra computation. --layers drops the events of other layers."""
        verbose = verbose or self.shown.verbose
        specs = self.model.hooks.specs
        by_name = self.shown.layer and select_names(self.shown.layer, list(specs))
        names = by_name or [n for n, s in specs.items() if (verbose and not s.extra) or s.overview]
        if not self.layers:
            return names
        layers = self.layers if by_name else [None, *self.layers]
        if result := [name for name in names if specs[name].layer in layers]:
            return result
        raise InputError("--layers: these layers have none of the events that --layer names")

    def kept(self, result: "Trace", verb: str, where: str = "") -> str:
        """Describe the number of kept arrays, such as "5 of 9 arrays; --verbose saves 9"."""
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
        """Count the arrays that this request would keep with --verbose."""
        names = self.selected(verbose=True)
        parameters = [name for name in names if self.model.hooks.specs[name].parameter == name]
        computed = len(names) - len(parameters) - ("loss" in names and result.loss is None)
        of_logits = result.scalar is not None and result.scalar.target is not None
        differentiated = len(names) - len({"probs", "loss"} & {*names}) * of_logits
        of_phase = {"forward": computed, "backward": differentiated, "update": len(parameters)}
        return sum(of_phase[phase] for phase in {event.phase for event in result})


def with_stages(names: list[str]) -> list[str]:
    """Return the names that are also stages of apr. Raises InputError if there are none."""
    stages = [glob_pattern(glob) for globs in ALIASES.values() for glob in globs]
    if result := [name for name in names if any(stage.fullmatch(name) for stage in stages)]:
        return result
    raise InputError("--save-aprt: none of the selected events is a stage of apr")


def layers_of(text: str | None, count: int) -> list[int]:
    """Return the layers of a list such as "3-5" (three layers) or "3,7" (two layers)."""
    layers: list[int] = []
    for part in [] if text is None else text.split(","):
        bounds = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if bounds is None:
            raise InputError(f"--layers: expected a list such as 3-5 or 0,7, found {text!r}")
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        if last < first:
            raise InputError(f"--layers {text}: expected the lower layer first, found {part}")
        if last >= count:
            raise InputError(f"--layers {text}: this model has layers 0 to {count - 1}")
        layers += range(first, last + 1)
    return layers
