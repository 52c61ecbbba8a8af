"""What a command line names: models, and what other runs left."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..errors import FileFormatError, InputError
from ..readers.loading import is_model, load
from ..text.printable import command
from .option_checks import given
from .option_groups import group, option
from .options import DECODER, DEFAULT_CHECKPOINT, MICROGPT, BareWeights, OfFile, key_and_value

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..dumps.mapping import NameMap
    from ..dumps.recording import Recording
    from ..microgpt.model import Model

Tokens = Annotated[str | None, typer.Option(help="The token ids, in place of a text.", metavar="ID,ID...")]
# The ability that a panel of options asks of a model, and what has it.
ABILITIES = {DECODER: ("prompts", "a production model"), MICROGPT: ("gradients", "a microGPT")}
MODEL_SUFFIXES = (".gguf", ".apr", ".safetensors")


def model_and_text(
    first: str | None, second: str | None, model: Path | None
) -> tuple[Path | None, str | None]:
    """Which model was named and what text: a first argument that is a model is not the text."""
    if second is not None:
        return model_before([first or "", second], model), second
    if first is None or not names_a_model(first):
        return model, first
    return model_before([first], model), None


def model_before(words: Sequence[str], model: Path | None) -> Path:
    """The model that the first word names. Raises InputError where none is there, or --model
    names one too."""
    first, *texts = words
    if model is not None:
        raise InputError(f"two models, {first} and --model {model}{', or two texts' * bool(texts)}")
    if texts and not is_there(first):
        swapped = f"; the model comes first, {texts[0]} then {first!r}" if names_a_model(texts[0]) else ""
        raise InputError(f"{first or repr(first)}: no such model, to read {texts[0]!r}{swapped}")
    return Path(first)


def is_there(text: str) -> bool:
    """Whether a word of the command line names a file or folder that is there. (pathlib takes an empty one
    for the current folder.)"""
    try:
        return text != "" and Path(text).exists()
    except (OSError, ValueError):  # too long for a file's name
        return False


def names_a_model(text: str) -> bool:
    """Whether a lone argument is a model: one that is there, or a name that only files have."""
    path, there = Path(text), is_there(text)
    if path.suffix or os.sep in text:
        return there or path.suffix in MODEL_SUFFIXES
    return there and is_model(path)  # a bare word, which a file or folder may have for its name by chance


def model_from(
    path: Path | None, seed: int | None, of_file: BareWeights, draws: bool = False
) -> "LanguageModel":
    """The model of the path, or an untrained microGPT of the seed. The seed of a run that draws tokens
    is not the model's."""
    if path is not None:
        if seed is not None and not draws:
            raise InputError(f"--seed is for an untrained model or for --temperature, but {path} was named")
        if path == DEFAULT_CHECKPOINT and not is_there(str(path)):
            hint = "`microgpt train` makes one in a second, or name one with --model"
            raise FileFormatError(f"no {DEFAULT_CHECKPOINT} here: {hint}")
        return load(path, **of_file.settings_given())
    for said in _given(of_file):
        raise InputError(f"{said} says what a model's file does not: name the file, by --model for example")
    from ..microgpt.model import init

    return init(seed=42 if seed is None else seed)


def microgpt_from(path: Path | None, seed: int | None, bare: BareWeights) -> "Model":
    """As `model_from`, for what a production model cannot do."""
    model = model_from(path, seed, bare)
    if "gradients" not in model.abilities:
        raise InputError(f"{model.origin} is {model.kind}: this command is for a microGPT")
    return cast("Model", model)


def refuse_other_family(context: typer.Context, model: "LanguageModel") -> None:
    """Raises InputError for an option in a panel of what this model cannot do."""
    kinds = context.command.kinds  # type: ignore[attr-defined]
    for name, written in given(context).items():
        ability, family = ABILITIES.get(kinds[name][1].rich_help_panel or "", ("", ""))
        if ability and ability not in model.abilities:
            raise InputError(f"{written} is for {family}, and this is {model.kind} ({model.origin})")


def _given(of_file: BareWeights) -> list[str]:
    """The options given that say what a model's file does not."""
    given = (name for name, value in vars(of_file).items() if value)
    return ["--set" if name == "settings" else f"--{name.replace('_', '-')}" for name in given]


@group()
class Naming:
    """What the arrays of a dump are called, and how they lie."""

    map_file: Path | None = option(
        "--map",
        help='TOML of a dump\'s names: lines below \\[events] like "layer{i}.mlp.up" = "up_{i}".',
        metavar="FILE",
    )
    layouts: list[str] | None = option(
        "--layout",
        help="How arrays lie, where their shape leaves that open: '*.attn.q=HTD'.",
        metavar="GLOB=LETTERS",
    )

    def names(self) -> "NameMap | None":
        """What --map says. Raises FileFormatError."""
        if self.map_file is None:
            return None
        from ..dumps.mapping import read_map

        return read_map(self.map_file)

    def layouts_known(self) -> dict[str, str]:
        """GLOB=LETTERS, the letters known. Raises InputError."""
        from ..dumps.layouts import LAYOUTS

        found = {}
        for pair in self.layouts or []:
            name, letters = key_and_value("--layout", "GLOB=LETTERS", pair)
            if letters not in LAYOUTS:
                raise InputError(f"--layout {pair}: expected one of {', '.join(LAYOUTS)}, found {letters!r}")
            found[name] = letters
        return found


@dataclass
class Opener:
    """Opens models and recordings by their paths, each once."""

    of_file: OfFile
    names: "NameMap | None" = None
    _known: dict[str, Any] = field(default_factory=dict)

    def open(self, path: Path) -> "LanguageModel | Recording":
        """What lies under the path. Raises FileFormatError where that is nothing to compare."""
        key = realpath(path)  # Path.resolve raises RuntimeError of a loop of links
        if key not in self._known:
            from ..comparison.compared_runs import opened

            self._known[key] = opened(path, self.names, **self.of_file.settings_given())
        return self._known[key]

    def model(self, path: Path) -> "LanguageModel":
        """The model under the path. Raises InputError where a dump is."""
        found = self.open(path)
        if not hasattr(found, "family"):
            raise InputError(f"{path}: expected a model, found {found.kind}")
        return cast("LanguageModel", found)

    def dump(self, path: Path) -> "Recording":
        """The dump under the path. Raises InputError where a model is."""
        found = self.open(path)
        if hasattr(found, "family"):
            again = command("trace", [str(path)], ["--save", "FILE"])
            raise InputError(
                f"{path}: expected a dump, found a {found.family} model; `{again}` makes a dump of its run"
            )
        return found


def refuse_idle(sides: Sequence[Any], of_file: OfFile, naming: Naming) -> None:
    """Raises InputError for an option that concerns none of the sides."""
    models = [hasattr(side, "family") for side in sides]
    if not any(models):
        for option in _given(of_file):
            raise InputError(f"{option} is for a model, and neither side is one")
    if all(models) and (naming.map_file is not None or naming.layouts):
        option = "--layout" if naming.map_file is None else "--map"
        raise InputError(f"{option} is for a dump, and neither side is one")
