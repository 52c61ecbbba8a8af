"""What shows each result, by name: a table for all commands and for notebooks. Only what is asked for is
loaded: all of it takes 0.2 s."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .figures.panel import Picture
    from .page.page_view import PageView
    from .sections import Section

# What describes results of a class as sections: a module of render, and its function.
SECTIONS = {
    "AttributionResult": ("attribution", "attribution_sections"),
    "Comparison": ("comparison", "comparison_sections"),
    "Decoder": ("inspection", "decoder_sections"),
    "DumpDiagnosis": ("diagnosis", "diagnosis_sections"),
    "Explanation": ("explanation", "explanation_sections"),
    "GradientCheck": ("gradient_check", "gradient_sections"),
    "Model": ("inspection", "microgpt_sections"),
    "PairsResult": ("patching", "pairs_sections"),
    "PatchResult": ("patching", "patch_sections"),
    "Prediction": ("trace_predictions", "candidates_sections"),
    "Predictions": ("trace_predictions", "rows_of_predictions"),
    "PromptsComparison": ("prompts", "prompts_sections"),
    "Survey": ("survey", "sections_of_survey"),
    "SurveyComparison": ("survey_comparison", "survey_comparison_sections"),
    "Timeline": ("timeline", "timeline_sections"),
    "Trace": ("trace", "trace_sections"),
    "Validation": ("validation", "validation_sections"),
    "WeightsComparison": ("weights", "weights_sections"),
}

# What a page shows of a result beside its sections, where it does.
VIEWS = {
    "AttributionResult": ("page.attribution_view", "attribution_view"),
    "Comparison": ("page.diff_view", "diff_view"),
    "PairsResult": ("page.patch_view", "patch_view"),
    "PatchResult": ("page.patch_view", "patch_view"),
    "Timeline": ("page.timeline_view", "timeline_view"),
}

# What draws each figure.
PICTURES = {
    "attention": ("figures.attention", "attention_picture"),
    "attribution": ("figures.attribution", "attribution_picture"),
    "diagnosis": ("figures.diagnosis", "diagnosis_picture"),
    "diff": ("figures.comparison", "diff_picture"),
    "explanation": ("figures.explanation", "explanation_picture"),
    "lens": ("figures.predictions", "lens_picture"),
    "loss": ("figures.training", "loss_picture"),
    "patch": ("figures.patching", "patch_picture"),
    "probs": ("figures.predictions", "probabilities_picture"),
    "stream": ("figures.layers", "stream_picture"),
    "timeline": ("figures.training", "timeline_picture"),
}


def sections_of(result: Any, **options: Any) -> Sequence[Section]:
    """What a result shows."""
    own = next(kind.__name__ for kind in type(result).__mro__ if kind.__name__ in SECTIONS)
    return list(_called(SECTIONS[own], result, **options))


def view_of(result: Any, *more: Any) -> PageView | None:
    """What the page of a result shows beside its sections, if anything."""
    own = VIEWS.get(type(result).__name__)
    return None if own is None else _called(own, result, *more)


def picture_of(figure: str, result: Any, *place: Any, **options: Any) -> Picture:
    """A figure of a result."""
    return _called(PICTURES[figure], result, *place, **options)


def _called(where: tuple[str, str], *arguments: Any, **options: Any) -> Any:
    module, function = where
    return getattr(import_module(f".{module}", __package__), function)(*arguments, **options)
