"""The functions that describe each class of result as sections, as a figure and as the view of a page. The
command line, notebooks and pages use the table SHOWN. The modules of a class are loaded when a result of this
class is first shown."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .figures.panel import Picture
    from .page.page_view import PageView
    from .sections import Section


class HowShown(NamedTuple):
    """The names of the functions that describe a result. `picture` is empty for a result without a figure."""

    sections: str
    picture: str = ""
    view: str = "page.page_view.no_view"


SHOWN = {
    "AttributionResult": HowShown("results.attribution_sections.attribution_sections",
        "figures.contributions.attribution_picture", "page.page_view.attribution_view"),
    "Certificate": HowShown("results.certificate_sections.certificate_sections",
        "figures.certified_tensors.certificate_picture"),
    "Comparison": HowShown("results.diff_sections.comparison_sections",
        "figures.event_errors.diff_picture", "page.diff_view.diff_view"),
    "Decoder": HowShown("results.inspection_sections.decoder_sections"),
    "DumpDiagnosis": HowShown("results.diagnosis_sections.diagnosis_sections",
        "figures.event_errors.diagnosis_picture"),
    "Explanation": HowShown("results.explanation_sections.explanation_sections",
        "figures.contributions.explanation_picture"),
    "GradientCheck": HowShown("results.check_sections.gradient_sections"),
    "Model": HowShown("results.inspection_sections.microgpt_sections"),
    "PairsResult": HowShown("results.patching_sections.pairs_sections",
        "figures.patching_figures.patch_picture", "page.page_view.pairs_view"),
    "PatchResult": HowShown("results.patching_sections.patch_sections",
        "figures.patching_figures.patch_picture", "page.page_view.patch_view"),
    "Prediction": HowShown("trace.prediction_sections.candidates_sections"),
    "Predictions": HowShown("trace.prediction_sections.rows_of_predictions"),
    "PromptsAttribution": HowShown("results.patching_sections.attributed_sections",
        "figures.patching_figures.patch_picture", "page.page_view.pairs_view"),
    "PromptsComparison": HowShown("results.model_difference_sections.prompts_sections"),
    "ScoreByWriter": HowShown("results.attribution_sections.score_sections"),
    "Survey": HowShown("results.survey_sections.sections_of_survey"),
    "SurveyComparison": HowShown("results.survey_comparison_sections.survey_comparison_sections"),
    "Timeline": HowShown("results.timeline_sections.timeline_sections",
        "figures.curve_figures.timeline_picture", "page.timeline_view.timeline_view"),
    "Trace": HowShown("trace.whole_trace.trace_sections"),
    "Validation": HowShown("results.check_sections.validation_sections"),
    "WeightsComparison": HowShown("results.model_difference_sections.weights_sections"),
}  # fmt: skip


def sections_of(result: Any, **options: Any) -> list[Section]:
    """Return the sections of a result. Load only the needed module, because loading all takes 0.2 s."""
    return list(_call("sections", result, options))


def picture_of(result: Any, **options: Any) -> Picture:
    """Return the figure of a result. The class of the result must have a figure in SHOWN."""
    return _call("picture", result, options)


def view_of(result: Any, **options: Any) -> PageView:
    """Return what the page of a result shows beside its sections, which is nothing for most results."""
    return _call("view", result, options)


def _call(field: str, result: Any, options: dict[str, Any]) -> Any:
    functions = next(SHOWN[kind.__name__] for kind in type(result).__mro__ if kind.__name__ in SHOWN)
    module, _, function = getattr(functions, field).rpartition(".")
    return getattr(import_module(f"..{module}", __name__), function)(result, **options)
