"""How each result is shown: its sections, its figure, and what its page has beside them. The one table that
the command line, notebooks and pages read; it loads what describes a result when that is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .figures.panel import Picture
    from .page.page_view import PageView
    from .sections import Section


class HowShown(NamedTuple):
    """The functions that describe a result, as the names of a module of render and of the function. The
    picture is empty where there is none."""

    sections: str
    picture: str = ""
    view: str = "page.page_view.no_view"


SHOWN = {
    "AttributionResult": HowShown(
        "results.attribution.attribution_sections",
        "figures.attribution.attribution_picture",
        "page.page_view.attribution_view",
    ),
    "Comparison": HowShown(
        "results.comparison.comparison_sections",
        "figures.course.diff_picture",
        "page.diff_view.diff_view",
    ),
    "Decoder": HowShown("results.inspection.decoder_sections"),
    "DumpDiagnosis": HowShown("results.diagnosis.diagnosis_sections", "figures.course.diagnosis_picture"),
    "Explanation": HowShown(
        "results.explanation.explanation_sections", "figures.explanation.explanation_picture"
    ),
    "GradientCheck": HowShown("results.checking.gradient_sections"),
    "Model": HowShown("results.inspection.microgpt_sections"),
    "PairsResult": HowShown(
        "results.patching.pairs_sections", "figures.patching.patch_picture", "page.page_view.pairs_view"
    ),
    "PatchResult": HowShown(
        "results.patching.patch_sections", "figures.patching.patch_picture", "page.page_view.patch_view"
    ),
    "Prediction": HowShown("trace.predictions.candidates_sections"),
    "Predictions": HowShown("trace.predictions.rows_of_predictions"),
    "PromptsComparison": HowShown("results.models.prompts_sections"),
    "Survey": HowShown("results.survey.sections_of_survey"),
    "SurveyComparison": HowShown("results.survey_comparison.survey_comparison_sections"),
    "Timeline": HowShown(
        "results.timeline.timeline_sections",
        "figures.curves.timeline_picture",
        "page.timeline_view.timeline_view",
    ),
    "Trace": HowShown("trace.whole_trace.trace_sections"),
    "Validation": HowShown("results.checking.validation_sections"),
    "WeightsComparison": HowShown("results.models.weights_sections"),
}


def sections_of(result: Any, **options: Any) -> list[Section]:
    """What a result shows. The module of its kind alone is loaded: all of them take 0.2 s."""
    return list(_call("sections", result, options))


def picture_of(result: Any, **options: Any) -> Picture:
    """The figure of a result that has one."""
    return _call("picture", result, options)


def view_of(result: Any, **options: Any) -> PageView:
    """What the page of a result shows beside its sections; nothing where it has no such view."""
    return _call("view", result, options)


def _call(what: str, result: Any, options: dict[str, Any]) -> Any:
    shown = next(SHOWN[kind.__name__] for kind in type(result).__mro__ if kind.__name__ in SHOWN)
    module, _, function = getattr(shown, what).rpartition(".")
    return getattr(import_module(f"..{module}", __name__), function)(result, **options)
