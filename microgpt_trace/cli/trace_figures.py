"""The figures of `trace`: which arrays they need of the run, and drawing them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .drawn import Drawn, Plot

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..render.figures.panel import Picture
    from ..tracing.result import Trace

OF_PRODUCTION = ("stream", "lens")  # what a microGPT's trace does not measure


def arrays_of_figures(
    drawn: Drawn, model: LanguageModel, options: dict[str, Any], layers: Sequence[int]
) -> list[str]:
    """The events whose arrays the figures need. Raises InputError for what this model or this run cannot
    show."""
    return [name for plot in drawn.plots("trace") for name in _arrays_of(plot, model, options, layers)]


def _arrays_of(plot: Plot, model: LanguageModel, options: dict[str, Any], layers: Sequence[int]) -> list[str]:
    name = plot.name or _own(model)
    if name in OF_PRODUCTION and "prompts" not in model.abilities:
        raise InputError(f"--plot {name} is for a production model, and this is a microGPT ({model.origin})")
    if name == "lens" and not options.get("lens"):
        raise InputError("--plot lens draws what --lens measures: give both")
    if name != "attention":
        return []
    from ..render.figures.attention import place_of, weights_of

    try:
        return weights_of(model.hooks.specs, *place_of(plot.place), layers)
    except InputError as error:
        raise InputError(f"--plot {error}") from error


def draw_figures(drawn: Drawn, model: LanguageModel, result: Trace, layers: Sequence[int]) -> None:
    """Draw the figures asked for and write them; --layers chooses of attention as well."""
    if drawn.plot:
        drawn.write(list(_pictures(drawn, model, result, layers)))


def _pictures(
    drawn: Drawn, model: LanguageModel, result: Trace, layers: Sequence[int]
) -> Iterator[tuple[Path, Picture]]:
    from ..render.figures.attention import attention_picture, place_of
    from ..render.figures.layers import stream_picture
    from ..render.figures.predictions import lens_picture, probabilities_picture
    from ..render.figures.training import loss_picture

    whole = {
        "stream": stream_picture, "lens": lens_picture, "probs": probabilities_picture, "loss": loss_picture,
    }  # fmt: skip
    for plot in drawn.plots("trace"):
        name = plot.name or _own(model)
        if name == "attention":
            yield plot.path, attention_picture(result, *place_of(plot.place), layers)
        else:
            yield plot.path, whole[name](result)


def _own(model: LanguageModel) -> str:
    """The figure that a trace of the model is about."""
    return "stream" if "prompts" in model.abilities else "attention"
