"""Which model a command line names, and the model itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ..errors import FileFormatError, InputError
from ..readers.loading import is_model, load
from .options import DEFAULT_CHECKPOINT, AprSettings, BareWeights, of_the_file

if TYPE_CHECKING:
    from ..architecture.model import Ability, LanguageModel
    from ..microgpt.model import Model

MODEL_SUFFIXES = (".gguf", ".apr", ".safetensors")


def model_and_text(
    first: str | None, second: str | None, model: Path | None
) -> tuple[Path | None, str | None]:
    """Which model was named and what text: a first argument that is a model is not the text."""
    if model is not None and first is not None and names_a_model(first):
        raise InputError(f"two models, {first} and --model {model}")
    if second is not None and model is not None:
        raise InputError(f"two models, {first} and --model {model}, or two texts")
    if second is not None:
        assert first is not None  # arguments fill up from the left
        if not is_there(first):
            swapped = f"; the model comes first, {second} then {first!r}" if names_a_model(second) else ""
            raise InputError(f"{first or repr(first)}: no such model, to read the text {second!r}{swapped}")
        return Path(first), second
    if first is not None and model is None and names_a_model(first):
        return Path(first), None
    return model, first


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
    path: Path | None,
    seed: int | None,
    bare: BareWeights,
    apr: AprSettings | None = None,
    draws: bool = False,
) -> LanguageModel:
    """The model of the path, or an untrained microGPT of the seed. The seed of a run that draws tokens
    is not the model's."""
    apr = apr or AprSettings()
    if path is not None:
        if seed is not None and not draws:
            raise InputError(f"--seed is for an untrained model or for --temperature, but {path} was named")
        _refuse_untrained(path)
        return load(path, **of_the_file(bare, apr))
    for option, value in (("--rope-pairs", apr.rope_pairs), ("--set", apr.settings)):
        if value:
            raise InputError(f"{option} is for an .apr file: name one")
    if bare.n_head is not None or bare.bos is not None:
        option = "--n-head" if bare.n_head is not None else "--bos"
        raise InputError(f"{option} is for a file of weights without metadata: it needs --model")
    from ..microgpt.model import init

    return init(seed=42 if seed is None else seed)


def microgpt_from(path: Path | None, seed: int | None, bare: BareWeights) -> Model:
    """As `model_from`, for what a production model cannot do."""
    model = model_from(path, seed, bare)
    if "gradients" not in model.abilities:
        raise InputError(f"{model.origin} is {model.kind}: this command is for a microGPT")
    return cast("Model", model)


def refuse_without(ability: Ability, model: LanguageModel, option: str) -> None:
    """Raises InputError for an option of an ability that the model has not."""
    if ability not in model.abilities:
        other = "a production model" if ability == "prompts" else "a microGPT"
        raise InputError(f"{option} is for {other}, and this is {model.kind} ({model.origin})")


def _refuse_untrained(path: Path) -> None:
    """Raises FileFormatError for the checkpoint that `microgpt train` makes, where it has not yet."""
    if path == DEFAULT_CHECKPOINT and not is_there(str(path)):
        raise FileFormatError(
            f"no {DEFAULT_CHECKPOINT} here: `microgpt train` makes one in a second, or name one with --model"
        )
