"""Opens the models and dumps that the command line names."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from ..errors import FileFormatError, InputError
from ..readers.loading import DOWNLOAD, MODEL_SUFFIXES, is_model, load, names_hub_model
from ..text.printable import command
from .common_options import (
    DEFAULT_CHECKPOINT,
    FileSettings,
    HelpPanel,
    WeightSettings,
    key_and_value,
)  # fmt: skip
from .option_checks import parameters_given, path_from
from .option_groups import group, option

if TYPE_CHECKING:
    from ..dumps.recording import Recording
    from ..microgpt.model import Model
    from ..models.language_model import LanguageModel
    from ..naming.user_map import NameMap


@group(HelpPanel.INPUT)
class Tokens:
    """The input of the models as token ids."""

    tokens: str | None = option("Token ids to use instead of a text, such as 504,3575.", metavar="ID,ID...")


def model_and_text(
    first: str | None, second: str | None, model: Path | None
) -> tuple[Path | None, str | None]:
    """Return the path of the model and the text. A single argument is the text unless it names a model."""
    if second is not None:
        return model_before([first or "", second], model), second
    if first is None or not (names_a_model(first) or (model is None and names_hub_model(first))):
        return model, first
    return model_before([first], model), None


def model_before(words: Sequence[str], model: Path | None) -> Path:
    """Return the path of the model that the first word names. Raises InputError if texts follow a word that
    names no model, or if --model names a model too."""
    first, *texts = words
    if model is not None:
        also = "; quote a text of several words" * bool(texts)
        raise InputError(f"--model {model}: expected one model, found {first} too{also}")
    if texts and first != "small" and not (is_there(first) or names_a_model(first)):
        order = f"the model comes first: {texts[0]} {first!r}" if names_a_model(texts[0]) else ""
        hint = order or (DOWNLOAD if names_hub_model(first) else "quote a text of several words")
        raise InputError(f"{first or repr(first)}: no such model for the text {texts[0]!r}; {hint}")
    return path_from(first)


def is_there(text: str) -> bool:
    """Return True if a word names a file or folder that exists. "" names none, although Path("") exists."""
    try:
        return text != "" and Path(text).exists()
    except (OSError, ValueError):  # the text is too long for a file name, or has a null byte
        return False


def names_a_model(text: str) -> bool:
    """Return True if a single argument names a model rather than a text: an existing file or folder, or a
    name with the extension of a model."""
    path, exists = Path(text), is_there(text)
    if path.suffix or os.sep in text:
        return exists or path.suffix in MODEL_SUFFIXES
    return exists and is_model(path)  # by chance, a file may have the same name as a word of text


def model_from(
    path: Path | None, seed: int | None, settings: WeightSettings, samples: bool = False
) -> "LanguageModel":
    """Return the model of the path or, without a path, an untrained microGPT with this seed. `samples` allows
    a seed with a path, since the run uses the seed to sample tokens."""
    if path is not None:
        if seed is not None and not samples:
            raise InputError(f"--seed is for an untrained model or for --temperature, not for {path}")
        if path == DEFAULT_CHECKPOINT and not is_there(str(path)):
            hint = "`microgpt train` writes this file in a second, or name another model with --model"
            raise FileFormatError(f"{DEFAULT_CHECKPOINT}: no such file in this folder; {hint}")
        return load(path, **settings.load_settings())
    for name in _settings_given(settings):
        raise InputError(f"{name} describes a model file: name the file, for example with --model")
    from ..microgpt.model import init

    return init(seed=42 if seed is None else seed)


def microgpt_from(path: Path | None, seed: int | None, bare: WeightSettings) -> "Model":
    """Return the microGPT that `model_from` returns. Raises InputError for a production model."""
    model = model_from(path, seed, bare)
    if not model.trainable:
        raise InputError(f"{model.origin} is {model.kind}: this command is for a microGPT")
    return cast("Model", model)


def refuse_other_family(context: typer.Context, model: "LanguageModel") -> None:
    """Raise InputError if the user gave an option that is only for the other family of models."""
    kinds = context.command.kinds  # type: ignore[attr-defined]
    for name, spelling in parameters_given(context).items():
        family = getattr(kinds[name][1], "family", "")
        if family and family != model.kind:
            raise InputError(f"{spelling} is for {family}, and this is {model.kind} ({model.origin})")


def _settings_given(settings: WeightSettings) -> list[str]:
    """Return the options, such as --rope-theta, with which the user set something."""
    names = (name for name, value in vars(settings).items() if value)
    return ["--set" if name == "settings" else f"--{name.replace('_', '-')}" for name in names]


@group(HelpPanel.DUMP)
class DumpNaming:
    """The names and layouts of the arrays of a dump."""

    map_file: Path | None = option(
        "TOML file that maps events to names in the dump. An example of a line under \\[events]: "
        '"layer{i}.mlp.up" = "up_{i}".', "--map",
    )  # fmt: skip
    layouts: list[str] | None = option(
        "Order of the axes, for arrays whose shape does not determine the order, such as '*.attn.q=HTD'.",
        "--layout", metavar="GLOB=LETTERS",
    )  # fmt: skip

    batch: int | None = option("Text of a batch to read, counted from 0.", min=0)
    padding: str | None = option(
        "Padding in a dump without attention mask, such as left:3. The rows of padding have one token.",
        metavar="SIDE:N",
    )
    pass_positions: str | None = option(
        "Positions that each pass of a dump computed, such as 0-4,5,6 for a prefill and two decoding steps.",
        show_default="each pass goes on where the pass before ended", metavar="LIST",
    )  # fmt: skip

    def names(self) -> "NameMap | None":
        """Read the file of --map, and the options about passes. Raises FileFormatError and InputError."""
        passes = {"positions": self.pass_positions, "batch": self.batch, "padding": self.padding}
        given: dict[str, Any] = {name: value for name, value in passes.items() if value is not None}
        if self.map_file is None and not given:
            return None
        from ..naming.user_map import NameMap, pass_choice, read_map

        names = NameMap("the options about passes") if self.map_file is None else read_map(self.map_file)
        return replace(names, passes=pass_choice(**given)) if given else names

    def layouts_by_glob(self) -> dict[str, str]:
        """Read --layout. Raises InputError for unknown letters."""
        from ..naming.user_map import LAYOUTS

        result = {}
        for pair in self.layouts or []:
            name, letters = key_and_value("--layout", "GLOB=LETTERS", pair)
            if letters not in LAYOUTS:
                raise InputError(f"--layout {pair}: expected one of {', '.join(LAYOUTS)}, found {letters!r}")
            result[name] = letters
        return result


@dataclass
class Opener:
    """Opens models and recordings. An Opener opens a path only once, even if the path is named twice."""

    settings: FileSettings
    names: "NameMap | None" = None
    _opened: dict[str, Any] = field(default_factory=dict)

    def open(self, path: Path) -> "LanguageModel | Recording":
        """Open a model or a recording. Raises FileFormatError for any other file."""
        # The model of the package has no path. Path.resolve raises RuntimeError for a loop of links.
        key = "small" if str(path) == "small" else realpath(path)
        if key not in self._opened:
            from ..comparison.compared_runs import open_source

            self._opened[key] = open_source(path, self.names, **self.settings.load_settings())
        return self._opened[key]

    def model(self, path: Path) -> "LanguageModel":
        """Open a model. Raises InputError if the path names a dump."""
        result = self.open(path)
        if not hasattr(result, "family"):
            raise InputError(f"{path}: expected a model, found {result.kind}")
        return cast("LanguageModel", result)

    def dump(self, path: Path) -> "Recording":
        """Open a dump. Raises InputError if the path names a model."""
        result = self.open(path)
        if hasattr(result, "family"):
            again = command("trace", [str(path)], ["--save", "FILE"])
            raise InputError(
                f"{path}: expected a dump, found a {result.family} model; `{again}` writes a dump"
            )
        return result


def refuse_idle(sides: Sequence[Any], settings: FileSettings, naming: DumpNaming) -> None:
    """Raise InputError for a model option if no side is a model, or a dump option if no side is a dump."""
    models = [hasattr(side, "family") for side in sides]
    if not any(models):
        for name in _settings_given(settings):
            raise InputError(f"{name} is for a model, and neither side is a model")
    given: dict[str, Any] = {"--map": naming.map_file, "--layout": naming.layouts, "--batch": naming.batch}
    given |= {"--padding": naming.padding, "--pass-positions": naming.pass_positions}
    for name, value in given.items():
        if all(models) and value is not None and value != []:
            raise InputError(f"{name} is for a dump, and neither side is a dump")
