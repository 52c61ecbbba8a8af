"""Groups of options that several commands share, and functions that convert the values of options."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..arrays.threads import GB
from ..decoder.setting_names import RopePairs
from ..errors import InputError
from ..text.json_reading import OutOfBounds, from_json
from .option_groups import argument, flag, group, option

DEFAULT_CHECKPOINT = Path("microgpt.safetensors")


class HelpPanel:
    """The panels of --help, which have the same names in all commands."""

    INPUT, SHOWN, PREDICTIONS = "Model and input", "What to show", "Predictions"
    TOLERANCE, DUMP = "Tolerance", "Names and layouts of the dump"
    SAVING, INTERVENTIONS, METADATA = "Save and export", "Interventions", "Files without metadata"


PRODUCTION, MICROGPT = "a production model", "a microGPT"  # the families of models

Bos = Literal["first", "last"]
Vocab = Literal["a-z", "data"]

text_argument = partial(
    argument, "[TEXT]", "Input text.",
    show_default='"emma", or "The capital of France is" for a production model',
)  # fmt: skip
model_option = partial(
    option, "Model file, checkpoint or model folder, or small: the trained microGPT of this package.",
    metavar="PATH", show_default="an untrained microGPT",
)  # fmt: skip
against_option = partial(
    option, "Token whose logit is subtracted from the logit of --target.", metavar="TOKEN", family=PRODUCTION
)
position_option = partial(
    option, "Position of the logits of --target and --against.", show_default="the last position",
    family=PRODUCTION,
)  # fmt: skip


@group(HelpPanel.INPUT)
class ModelChoice:
    """The model that a command runs."""

    model: Path | None = model_option()
    seed: int | None = option("Seed of the untrained microGPT.", min=0, show_default="42")


@group(HelpPanel.INPUT)
class Source(ModelChoice):
    """A model and its input."""

    first: str | None = argument(
        "[MODEL]",
        "Model: a GGUF, .apr or checkpoint file, or a model folder. If there is one argument and it names "
        "no model, the argument is the text.", show_default="an untrained microGPT",
    )  # fmt: skip
    second: str | None = text_argument()
    tokens: str | None = option(
        "Token ids to use instead of a text, such as 504,3575.", metavar="ID,ID...", family=PRODUCTION
    )


@group(HelpPanel.SHOWN)
class EventChoice:
    """The events that a command shows."""

    verbose: bool = flag("Show every event of every layer.", "--verbose", "-v")
    layer: list[str] | None = option(
        "Show only these events: a name, a glob such as 'layer*.mlp.*', a layer such as 3 or blk.3, or an "
        "apr stage.", metavar="GLOB",
    )  # fmt: skip


@group(HelpPanel.METADATA)
class WeightSettings:
    """Settings that a model file without metadata does not store."""

    n_head: int | None = option(
        "Number of attention heads of a microGPT without metadata.", min=1, show_default="4"
    )
    bos: Bos | None = option(
        "Place of BOS in the vocabulary of a microGPT without metadata.", show_default="first"
    )

    def load_settings(self) -> dict[str, Any]:
        """Return the settings as keyword arguments of `load`."""
        return {**vars(self)}


@group(HelpPanel.METADATA)
class FileSettings(WeightSettings):
    """Settings that a model file does not store, and other values for the settings that it stores."""

    rope_pairs: RopePairs | None = option(
        "Channels that RoPE pairs in q and k, if an .apr file lacks this setting.", family=PRODUCTION
    )
    settings: list[str] | None = option(
        "Setting that an .apr file does not store, such as num_heads=14, or another value for a setting of "
        "config.json, such as hidden_act=gelu_new.",
        "--set", metavar="KEY=VALUE", family=PRODUCTION,
    )  # fmt: skip

    memory: float | None = option(
        "GB of weights to keep ready for later passes.", min=0.0, metavar="GB",
        panel=HelpPanel.INPUT, family=PRODUCTION,
        show_default="1, or 0 for a single pass and for gradients",
    )  # fmt: skip

    def load_settings(self) -> dict[str, Any]:
        memory = None if self.memory is None else int(min(self.memory * GB, 2.0**62))  # inf keeps all
        return {**vars(self), "settings": settings_of(self.settings or []), "memory": memory}


def settings_of(pairs: list[str]) -> dict[str, Any]:
    """Read KEY=VALUE pairs. A value that is valid JSON is read as JSON, any other value as text."""
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


def key_and_value(option: str, expected: str, text: str) -> tuple[str, str]:
    """Split KEY=VALUE. The value may be empty. Raises InputError if the key or the = is missing."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InputError(f"{option}: expected {expected}, found {text!r}")
    return key, value


def token_ids(text: str | None) -> list[int] | None:
    """Return the ids in the value of --tokens, or None if there is no value."""
    return None if text is None else numbers(text, "--tokens", "token ids such as 504,3575")


def numbers(text: str, option: str, expected: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option}: expected {expected}, found {text!r}") from error


def positions_of(text: str | None, option: str = "--positions") -> str | list[int] | None:
    expected = "all, last or a list such as 0,3,-1"
    return text if text is None or text in ("all", "last") else numbers(text, option, expected)
