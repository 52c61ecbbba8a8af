"""The JSON Schema of every document that a command prints, derived from dataclasses. Loading all dataclasses
takes 100 ms, so only the dataclass of the requested schema is loaded."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Documents that describe a model, and the functions of schema.py that return their schemas.
WITH_MODEL = {"trace": "document_schema", "trace_line": "line_schema", "inspect": "inspection_schema"}

# For each result: the title of its document, its module and its class.
RESULTS = {
    "certificate": ("Certificate of an export", "certification.certificate", "Certificate"),
    "diff": ("Comparison of two runs", "comparison.differences", "Comparison"),
    "weights": (
        "Comparison of the parameters of two models",
        "weights.weights_comparison",
        "WeightsComparison",
    ),
    "prompts": ("Comparison of two models over many prompts", "comparison.prompts", "PromptsComparison"),
    "diagnosis": ("Diagnosis of a dump", "diagnosis.diagnose", "DiagnosisDocument"),
    "explanation": ("Explanation of one element", "explaining.explanation", "Explanation"),
    "score_writers": ("An attention score by writers", "attribution.score_writers", "ScoreByWriter"),
    "patch": ("Activation patching", "patching.patch_results", "PatchResult"),
    "patch_pairs": ("Activation patching over several pairs", "patching.patch_results", "PairsResult"),
    "validation": ("Validation of captured values", "tracing.validation", "Validation"),
    "survey": ("Survey of a model over a corpus", "surveying.report", "SurveyReport"),
    "imatrix": ("Importance matrix", "surveying.imatrix", "ImatrixReport"),
    "survey_diff": ("Comparison of two surveys", "surveying.survey_comparison", "SurveyComparison"),
    "timeline": ("Curves of a training run", "timeline.curves", "Timeline"),
    "prompts_attribution": ("Attribution over prompts", "attribution.results", "PromptsAttribution"),
    "attribution": ("Attribution of a model's predictions", "attribution.results", "AttributionResult"),
}

DOCUMENTS = (*WITH_MODEL, *RESULTS)


def schema_of_document(name: str) -> dict[str, Any]:
    """Return the schema of one of DOCUMENTS."""
    from . import schema

    if name in WITH_MODEL:
        return getattr(schema, WITH_MODEL[name])()
    title, module, kind = RESULTS[name]
    return schema.result_schema(getattr(import_module(f"microgpt_trace.{module}"), kind), title)
