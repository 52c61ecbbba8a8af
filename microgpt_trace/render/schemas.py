"""The JSON Schema of every document that a command prints. They follow from the dataclasses, which are
loaded only for their own schema: all together take 100 ms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.contrast import Contrast
from ..tracing.findings import Check
from .schema import closed_object, document_schema, line_schema, preamble, record, schema_of


def _schema(identifier: str, title: str, kind: type, names: dict[type, str], **more: Any) -> dict[str, Any]:
    whole = record(kind, names)
    head = {"schema": {"const": identifier}, **more}
    body = closed_object({**head, **whole["properties"]})
    definitions = {name: record(part, names) for part, name in names.items()}
    return {**preamble(title, identifier), **body, "$defs": definitions}


def _diff_schema() -> dict[str, Any]:
    from ..comparison import differences
    from ..comparison.bands import Tolerance
    from ..comparison.sides import Unpaired

    names: dict[type, str] = {
        differences.EventDifference: "event",
        differences.Jump: "jump",
        differences.Agreement: "agreement",
        differences.SideSummary: "side",
        Unpaired: "unpaired",
        Tolerance: "tolerance",
    }
    verdicts = dict.fromkeys(("agree", "same"), schema_of(bool))
    return _schema(differences.DIFF_SCHEMA, "Two runs compared", differences.Comparison, names, **verdicts)


def _weights_schema() -> dict[str, Any]:
    from ..comparison.weights import WeightRow, WeightsComparison
    from .results import WEIGHTS_SCHEMA

    return _schema(WEIGHTS_SCHEMA, "Two models' parameters", WeightsComparison, {WeightRow: "parameter"})


def _prompts_schema() -> dict[str, Any]:
    from ..comparison.prompts import PROMPTS_SCHEMA, PromptComparison

    names: dict[type, str] = {PromptComparison: "prompt"}
    prompts = {"type": "array", "items": schema_of(PromptComparison, names)}
    sides = {side: {"type": "string"} for side in "ab"}
    verdicts = dict.fromkeys(("agree", "same"), schema_of(bool))
    head = {"schema": {"const": PROMPTS_SCHEMA}, **sides, **verdicts, "prompts": prompts}
    definitions = {"prompt": record(PromptComparison, names)}
    return {**preamble("Many prompts compared", PROMPTS_SCHEMA), **closed_object(head), "$defs": definitions}


def _diagnosis_schema() -> dict[str, Any]:
    from ..comparison.sides import Unpaired
    from ..diagnosis.diagnose import Diagnosis, Offer
    from ..diagnosis.hypotheses import Finding
    from ..diagnosis.judging import OperationResult
    from .diagnosis import DIAGNOSIS_SCHEMA

    names: dict[type, str] = {
        OperationResult: "operation", Finding: "finding", Unpaired: "unpaired", Offer: "offer",
    }  # fmt: skip
    text = {"type": "string"}
    dump = closed_object({"origin": text, "kind": text, "notes": {"type": "array", "items": text}})
    unpaired = {"type": "array", "items": schema_of(Unpaired, names)}
    head = {"clean": {"type": "boolean"}, "dump": dump, "model": text, "unpaired": unpaired}
    return _schema(DIAGNOSIS_SCHEMA, "A dump diagnosed", Diagnosis, names, **head)


def _timeline_schema() -> dict[str, Any]:
    from .. import courses
    from ..microgpt.parameters import Config

    names: dict[type, str] = {
        courses.PositionCourse: "position",
        courses.LayerUnits: "layer",
        courses.DeadUnit: "dead_unit",
        courses.ReturnedUnit: "returned_unit",
        courses.EventCourse: "event",
        courses.ParameterCourse: "parameter",
        courses.LossCourse: "loss",
        courses.RunStart: "run",
        courses.FailedCheck: "failed_check",
        courses.TrainingPlan: "plan",
        Config: "config",
    }
    return _schema(courses.TIMELINE_SCHEMA, "A training run over its steps", courses.Timeline, names)


def _attribution_schema() -> dict[str, Any]:
    from ..attribution import parts
    from .attribution import ATTRIBUTION_SCHEMA

    names: dict[type, str] = {
        parts.PositionAttribution: "position",
        parts.Part: "part",
        parts.LogitSum: "logit",
        parts.Removal: "removal",
        parts.HeadRole: "head",
        parts.Attention: "attention",
        Contrast: "contrast",
    }
    title, ok = "Who wrote a model's predictions", {"type": "boolean"}
    return _schema(ATTRIBUTION_SCHEMA, title, parts.AttributionResult, names, ok=ok)


def _validation_schema() -> dict[str, Any]:
    from ..tracing.validation import Validation, Verdict
    from .validation import VALIDATION_SCHEMA

    names: dict[type, str] = {Verdict: "verdict"}
    title = "Captured values validated"
    return _schema(VALIDATION_SCHEMA, title, Validation, names, ok={"type": "boolean"})


def _patch_schema() -> dict[str, Any]:
    from ..patching import results

    return _schema(results.PATCH_SCHEMA, "Activation patching", results.PatchResult, _patch_names())


def _patch_pairs_schema() -> dict[str, Any]:
    from ..patching import results

    names = {**_patch_names(), results.MeanPatched: "mean_cell", results.PatchedPair: "pair"}
    del names[results.Patched]
    return _schema(results.PAIRS_SCHEMA, "Activation patching over pairs", results.PairsResult, names)


def _patch_names() -> dict[type, str]:
    from ..patching import results

    return {Contrast: "contrast", results.Unpatched: "run", Check: "check", results.Patched: "cell"}


def _explanation_schema() -> dict[str, Any]:
    from ..architecture.steps import Factor, Step, Term, Use
    from ..explaining.explanation import EXPLANATION_SCHEMA, Explanation

    names: dict[type, str] = {Step: "step", Term: "term", Factor: "factor", Use: "use"}
    element = {"type": "string"}
    return _schema(EXPLANATION_SCHEMA, "One element explained", Explanation, names, element=element)


SCHEMAS: dict[str, Callable[[], dict[str, Any]]] = {
    "trace": document_schema,
    "trace_line": line_schema,
    "diff": _diff_schema,
    "weights": _weights_schema,
    "prompts": _prompts_schema,
    "diagnosis": _diagnosis_schema,
    "explanation": _explanation_schema,
    "patch": _patch_schema,
    "patch_pairs": _patch_pairs_schema,
    "validation": _validation_schema,
    "timeline": _timeline_schema,
    "attribution": _attribution_schema,
}
