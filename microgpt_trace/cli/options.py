"""Options that several commands share, in groups, and how their values are read."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import InputError
from ..readers.loading import RopePairs
from ..text.json_reading import OutOfBounds, from_json
from .option_groups import argument, group, option

DEFAULT_CHECKPOINT = Path("microgpt.safetensors")

MICROGPT, DECODER = "For a microGPT", "For a production model"  # panels of --help


Bos = Literal["first", "last"]
Vocab = Literal["a-z", "data"]
ModelFile = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="A checkpoint, a model file or folder.",
        metavar="PATH",
        show_default="an untrained microGPT",
    ),
]
Layer = Annotated[
    list[str] | None,
    typer.Option(
        "--layer", help="Only the events of this name, glob, layer (3, blk.3) or apr stage.", metavar="GLOB"
    ),
]
TextToRead = Annotated[
    str | None,
    typer.Argument(
        metavar="[TEXT]",
        help="What it reads.",
        show_default="emma; of a production model: The capital of France is",
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
Out = Annotated[Path | None, typer.Option("--out", help="Write to this file, not stdout.", metavar="FILE")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document.")]
Schema = Annotated[
    bool, typer.Option("--schema", help="Print the JSON Schema of the output, and do nothing else.")
]


@group()
class Source:
    """Which model reads what."""

    first: str | None = argument(
        metavar="[MODEL]",
        help="A GGUF, .apr or checkpoint file, or a folder; or at once the text, for a microGPT.",
        show_default="an untrained microGPT",
    )
    second: TextToRead = None
    model: ModelFile = None


@group()
class BareWeights:
    """What a file of weights without metadata cannot tell."""

    n_head: int | None = option(
        "--n-head", help="Heads of weights that cannot tell.", min=1, show_default="4"
    )
    bos: Bos | None = option(
        "--bos", help="Place of BOS, for weights that cannot tell.", show_default="first"
    )

    def settings_given(self) -> dict[str, Any]:
        """What is said of the file, as `load` takes it."""
        return {**vars(self)}


@group()
class OfFile(BareWeights):
    """What one says of a model's file that it does not say itself; it may be an .apr file."""

    rope_pairs: RopePairs | None = option(
        "--rope-pairs",
        help="How an .apr file pairs q and k, where it does not say.",
        rich_help_panel=DECODER,
    )
    settings: list[str] | None = option(
        "--set",
        help="What an .apr file does not say: num_heads=14.",
        metavar="KEY=VALUE",
        rich_help_panel=DECODER,
    )

    def settings_given(self) -> dict[str, Any]:
        return {**vars(self), "settings": settings_of(self.settings or [])}


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """KEY=VALUE, the values as JSON has them: numbers, true, null; else text."""
    settings = {}
    for pair in pairs:
        key, value = key_and_value("--set", "KEY=VALUE", pair)
        try:
            settings[key] = from_json(value)
        except OutOfBounds as error:
            raise InputError(f"--set {key[:80]}: found {error}") from error
        except ValueError:
            settings[key] = value
    return settings


def key_and_value(option: str, wanted: str, text: str) -> tuple[str, str]:
    """What stands before and behind an =. Raises InputError where nothing does; a value may be empty."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InputError(f"{option}: expected {wanted}, found {text!r}")
    return key, value


def token_ids(text: str | None) -> list[int] | None:
    """The ids of --tokens, None where it is not there."""
    return None if text is None else numbers(text, "--tokens")


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
