"""The JSON Schema of every document that a command prints. They follow from the dataclasses, which are
loaded only for their own schema: all together take 100 ms."""

from __future__ import annotations

from importlib import import_module
from typing import Any

# Documents with a model in them, and the functions of schema.py that make their schemas.
WITH_MODEL = {"trace": "document_schema", "trace_line": "line_schema", "inspect": "inspection_schema"}

# Of each result's document its title, and the module and the class of the result.
RESULTS = {
    "diff": ("Two runs compared", "comparison.differences", "Comparison"),
    "weights": ("Two models' parameters", "comparison.weights", "WeightsComparison"),
    "prompts": ("Many prompts compared", "comparison.prompts", "PromptsComparison"),
    "diagnosis": ("A dump diagnosed", "diagnosis.diagnose", "DiagnosisDocument"),
    "explanation": ("One element explained", "explaining.explanation", "Explanation"),
    "patch": ("Activation patching", "patching.results", "PatchResult"),
    "patch_pairs": ("Activation patching over pairs", "patching.results", "PairsResult"),
    "validation": ("Captured values validated", "tracing.validation", "Validation"),
    "survey": ("A model over a corpus", "surveying.report", "SurveyReport"),
    "imatrix": ("An importance matrix", "surveying.imatrix", "ImatrixReport"),
    "survey_diff": ("Two surveys compared", "surveying.comparison", "SurveyComparison"),
    "timeline": ("A training run over its steps", "timeline.curves", "Timeline"),
    "attribution": ("Who wrote a model's predictions", "attribution.results", "AttributionResult"),
}

DOCUMENTS = (*WITH_MODEL, *RESULTS)


def schema_of_document(name: str) -> dict[str, Any]:
    """The schema of one of DOCUMENTS."""
    from . import schema

    if name in WITH_MODEL:
        return getattr(schema, WITH_MODEL[name])()
    title, module, kind = RESULTS[name]
    return schema.result_schema(getattr(import_module(f"microgpt_trace.{module}"), kind), title)
