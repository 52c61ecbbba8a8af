"""The JSON Schema of every document that a command prints. They follow from the dataclasses, which are
loaded only for their own schema: all together take 100 ms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.logit_difference import LogitDifference
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
    from ..comparison.compared_runs import Unpaired

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
    from ..comparison.compared_runs import Unpaired
    from ..diagnosis.diagnose import Diagnosis, Offer
    from ..diagnosis.hypothesis import Finding
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
    from ..microgpt.parameters import Config
    from ..timeline import curves

    names: dict[type, str] = {
        curves.PositionCurve: "position",
        curves.LayerUnits: "layer",
        curves.DeadUnit: "dead_unit",
        curves.ReturnedUnit: "returned_unit",
        curves.EventCurve: "event",
        curves.ParameterCurve: "parameter",
        curves.LossCurve: "loss",
        curves.RunStart: "run",
        curves.FailedCheck: "failed_check",
        curves.TrainingPlan: "plan",
        Config: "config",
    }
    return _schema(curves.TIMELINE_SCHEMA, "A training run over its steps", curves.Timeline, names)


def _attribution_schema() -> dict[str, Any]:
    from ..attribution import results
    from .attribution import ATTRIBUTION_SCHEMA

    names: dict[type, str] = {
        results.PositionAttribution: "position",
        results.Contribution: "part",
        results.LogitSum: "logit",
        results.Removal: "removal",
        results.HeadRole: "head",
        results.Attention: "attention",
        LogitDifference: "contrast",
    }
    title, ok = "Who wrote a model's predictions", {"type": "boolean"}
    return _schema(ATTRIBUTION_SCHEMA, title, results.AttributionResult, names, ok=ok)


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

    return {LogitDifference: "contrast", results.Unpatched: "run", Check: "check", results.Patched: "cell"}


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
