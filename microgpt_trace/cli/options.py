"""One annotated alias per option that several commands share, and how they become a model."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..errors import FileFormatError, InputError
from ..readers.loading import is_model, load
from ..text.json_text import OutOfBounds, from_json

if TYPE_CHECKING:
    from ..architecture.model import Ability, LanguageModel
    from ..microgpt.model import Model

DEFAULT_CHECKPOINT = Path("microgpt.safetensors")
STDOUT = Path("-")
MODEL_SUFFIXES = (".gguf", ".apr", ".safetensors")


MICROGPT, DECODER = "For a microGPT", "For a production model"  # panels of --help


class Bos(str, Enum):
    first = "first"
    last = "last"


class Vocab(str, Enum):
    az = "a-z"
    data = "data"


class RopePairs(str, Enum):
    adjacent = "adjacent"
    halves = "halves"


Text = Annotated[str, typer.Argument(help="The name to look at.", show_default=True)]
ModelFile = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="A checkpoint, a model file or folder.",
        metavar="PATH",
        show_default="an untrained microGPT",
    ),
]
CheckpointFile = Annotated[
    Path | None,
    typer.Option("--model", help="A checkpoint.", metavar="FILE", show_default=str(DEFAULT_CHECKPOINT)),
]
ModelOrText = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="A GGUF, .apr or checkpoint file, or a folder; or at once the text, for a microGPT.",
        show_default="an untrained microGPT",
    ),
]
TextAfterModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[TEXT]",
        help="What it reads.",
        show_default="emma; of a production model: The capital of France is",
    ),
]
Layer = Annotated[
    list[str] | None,
    typer.Option("--layer", help="Only the events this name, glob or apr stage matches.", metavar="GLOB"),
]
RopePairing = Annotated[
    RopePairs | None,
    typer.Option(
        "--rope-pairs", help="How an .apr file pairs q and k, where it does not say.", rich_help_panel=DECODER
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="What an .apr file does not say: num_heads=14.",
        metavar="KEY=VALUE",
        rich_help_panel=DECODER,
    ),
]
TokenIds = Annotated[
    str | None,
    typer.Option(
        "--tokens", help="Token ids in place of a text.", metavar="ID,ID...", rich_help_panel=DECODER
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(help="Seed of an untrained model, or of --temperature.", min=0, show_default="42"),
]
Heads = Annotated[
    int | None, typer.Option("--n-head", help="Heads of weights that cannot tell.", min=1, show_default="4")
]
BosPlace = Annotated[
    Bos | None,
    typer.Option("--bos", help="Place of BOS, for weights that cannot tell.", show_default="first"),
]
Out = Annotated[Path | None, typer.Option("--out", help="Write to this file, not stdout.", metavar="FILE")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def model_and_text(
    first: str | None, second: str | None, model: Path | None
) -> tuple[Path | None, str | None]:
    """Which model was named and what text: a first argument that is a model is not the text."""
    if model is not None and first is not None and _names_a_model(first):
        raise InputError(f"two models, {first} and --model {model}")
    if second is not None and model is not None:
        raise InputError(f"two models, {first} and --model {model}, or two texts")
    if second is not None:
        assert first is not None  # arguments fill up from the left
        if not is_there(first):
            swapped = f"; the model comes first, {second} then {first!r}" if _names_a_model(second) else ""
            raise InputError(f"{first or repr(first)}: no such model, to read the text {second!r}{swapped}")
        return Path(first), second
    if first is not None and model is None and _names_a_model(first):
        return Path(first), None
    return model, first


def is_there(text: str) -> bool:
    """Whether a word of the command line names a file or folder that is there. (pathlib takes an empty one
    for the current folder.)"""
    try:
        return text != "" and Path(text).exists()
    except (OSError, ValueError):  # too long for a file's name
        return False


def _names_a_model(text: str) -> bool:
    """Whether a lone argument is a model: one that is there, or a name that only files have."""
    path, there = Path(text), is_there(text)
    if path.suffix or os.sep in text:
        return there or path.suffix in MODEL_SUFFIXES
    return there and is_model(path)  # a bare word, which a file or folder may have for its name by chance


def model_from(
    path: Path | None, seed: int | None, n_head: int | None, bos: Bos | None,
    rope_pairs: RopePairs | None = None, settings: list[str] | None = None, draws: bool = False,
) -> LanguageModel:  # fmt: skip
    """The model of the path, or an untrained microGPT of the seed. The seed of a run that draws tokens
    is not the model's."""
    if path is not None:
        if seed is not None and not draws:
            raise InputError(f"--seed is for an untrained model or for --temperature, but {path} was named")
        _refuse_untrained(path)
        return load(
            path, n_head=n_head, bos=bos.value if bos else None,
            rope_pairs=rope_pairs.value if rope_pairs else None, settings=settings_of(settings or []),
        )  # fmt: skip
    for option, value in (("--rope-pairs", rope_pairs), ("--set", settings)):
        if value:
            raise InputError(f"{option} is for an .apr file: name one")
    if n_head is not None or bos is not None:
        option = "--n-head" if n_head is not None else "--bos"
        raise InputError(f"{option} is for a file of weights without metadata: it needs --model")
    from ..microgpt.model import init

    return init(seed=42 if seed is None else seed)


def microgpt_from(path: Path | None, seed: int | None, n_head: int | None, bos: Bos | None) -> Model:
    """As `model_from`, for what a production model cannot do."""
    model = model_from(path, seed, n_head, bos)
    if "gradients" not in model.abilities:
        raise InputError(f"{model.origin} is {model.kind}: this command is for a microGPT")
    return cast("Model", model)


def refuse_without(ability: Ability, model: LanguageModel, option: str) -> None:
    """Raises InputError for an option of an ability that the model has not."""
    if ability not in model.abilities:
        other = "a production model" if ability == "prompts" else "a microGPT"
        raise InputError(f"{option} is for {other}, and this is {model.kind} ({model.origin})")


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE, the values as JSON has them: numbers, true, null; else text."""
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise InputError(f"--set: expected KEY=VALUE, found {pair!r}")
        try:
            settings[key] = from_json(value)
        except OutOfBounds as error:
            raise InputError(f"--set {key[:80]}: found {error}") from error
        except ValueError:
            settings[key] = value
    return settings


def numbers(text: str, option: str, wanted: str = "numbers like 504,3575") -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option}: expected {wanted}, found {text!r}") from error


def positions_of(
    text: str | None, option: str = "--positions", wanted: str = "all, last or a list like 0,3,-1"
) -> str | list[int] | None:
    if text is None or text in ("all", "last"):
        return text
    return numbers(text, option, wanted)


def trained_model(path: Path | None, n_head: int | None, bos: Bos | None) -> Model:
    """The checkpoint, by default the one that `microgpt train` leaves here."""
    return microgpt_from(path or DEFAULT_CHECKPOINT, None, n_head, bos)


def _refuse_untrained(path: Path) -> None:
    """Raises FileFormatError for the checkpoint that `microgpt train` makes, where it has not yet."""
    if path == DEFAULT_CHECKPOINT and not is_there(str(path)):
        raise FileFormatError(
            f"no {DEFAULT_CHECKPOINT} here: `microgpt train` makes one in a second, or name one with --model"
        )
