"""The JSON Schema (draft 2020-12) of a trace document and of one line of its JSON Lines form.

Most of it follows from the dataclasses that the document is made of: see `schema_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..architecture.edits import Applied
from ..architecture.model import TraceInput
from ..architecture.rope import Rope
from ..arrays.stats import TensorStats
from ..decoder.config import OF_SOME, DecoderConfig
from ..hooks.event import TraceEvent
from ..microgpt.parameters import Config
from ..tracing.findings import Anomaly, Check, Insight
from ..tracing.result import (
    SCHEMA_ID,
    Candidate,
    Compared,
    EventChange,
    GeneratedToken,
    Intervened,
    LayerRow,
    LensRow,
    ParameterRow,
    Prediction,
    StepSummary,
)

_COUNT = {"type": "integer", "minimum": 0}
_NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_PLAIN: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: _COUNT,
    bool: {"type": "boolean"},
    float: _NUMBER,
    NoneType: {"type": "null"},
}
_NAMES: dict[type, str] = {
    TensorStats: "stats",
    TraceEvent: "event",
    TraceInput: "input",
    Candidate: "candidate",
    Prediction: "prediction",
    Insight: "insight",
    Check: "check",
    ParameterRow: "parameter",
    StepSummary: "step",
    LayerRow: "layer",
    Compared: "compared",
    Anomaly: "anomaly",
    LensRow: "lens",
    Applied: "intervention",
    EventChange: "change",
    Intervened: "intervened",
    GeneratedToken: "token",
    Config: "microgpt_config",
    DecoderConfig: "decoder_config",
    Rope: "rope",
}


def schema_of(kind: Any, names: Mapping[Any, str] = _NAMES) -> dict[str, Any]:
    """The schema of a value of this type; dataclasses that have a name are referred to by it."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in names:
        return {"$ref": f"#/$defs/{names[kind]}"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return {"type": "array", "items": schema_of(arguments[0], names)}
    if origin is dict:
        return {"type": "object", "additionalProperties": schema_of(arguments[1], names)}
    assert origin is UnionType, kind  # a type that the table above does not know
    return {"anyOf": [schema_of(argument, names) for argument in arguments]}


def closed_object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """A closed object: every property required but the optional ones, no other allowed."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def record(kind: type, names: Mapping[Any, str] = _NAMES) -> dict[str, Any]:
    """The schema of a dataclass, with all its fields."""
    assert is_dataclass(kind)
    hints = get_type_hints(kind)
    return closed_object({field.name: schema_of(hints[field.name], names) for field in fields(kind)})


def _definitions() -> dict[str, Any]:
    definitions = {name: record(kind) for kind, name in _NAMES.items()}
    config = definitions["decoder_config"]["properties"]
    definitions["decoder_config"] = closed_object(config, optional=tuple(OF_SOME))
    values = {"$ref": "#/$defs/values"}
    definitions["values"] = {"anyOf": [_NUMBER, {"type": "array", "items": values}]}
    event = definitions["event"]["properties"] | {
        "stats": schema_of(TensorStats),
        "seconds": {"type": "number", "minimum": 0},
        "values": values,
    }
    definitions["event"] = closed_object(event, optional=("seconds", "values"))
    ratios = dict.fromkeys(("gradient_ratio", "update_ratio"), schema_of(float | None))
    definitions["parameter"] = closed_object(definitions["parameter"]["properties"] | ratios)
    known = {
        "origin": schema_of(str),
        "parameters": _COUNT,
        "dtype": schema_of(str),
        "assumed": schema_of(tuple[str, ...]),
    }
    microgpt = known | {
        "family": {"const": "microgpt"},
        "config": schema_of(Config),
        "vocabulary": closed_object({"chars": schema_of(str), "bos": _COUNT, "convention": schema_of(str)}),
        "trained_steps": _COUNT,
    }
    stored = closed_object({"type": schema_of(str), "tensors": _COUNT, "bytes": _COUNT})
    decoder = known | {
        "family": {"const": "decoder"},
        "format": schema_of(str),
        "config": schema_of(DecoderConfig),
        "encodings": {"type": "array", "items": stored},
        "layer": schema_of(tuple[str, ...]),
        "vocabulary": schema_of(str | None),
    }
    definitions["model"] = {"oneOf": [closed_object(microgpt), closed_object(decoder)]}
    return definitions


_HEAD = {
    "schema": {"const": SCHEMA_ID},
    "model": {"$ref": "#/$defs/model"},
    "input": schema_of(TraceInput),
    "loss": schema_of(float | None),
    "chance_loss": {"type": "number"},
}
_LISTS = {
    "events": TraceEvent,
    "predictions": Prediction,
    "insights": Insight,
    "checks": Check,
    "parameters": ParameterRow,
    "layers": LayerRow,
    "anomalies": Anomaly,
    "lens": LensRow,
    "generation": GeneratedToken,
}
_ONES = {
    "step": schema_of(StepSummary),
    "generation_end": schema_of(str),
    "intervened": schema_of(Intervened),
}
_OPTIONAL = ("parameters", "layers", "anomalies", "lens", "generation", *_ONES)


def document_schema() -> dict[str, Any]:
    """The schema of `microgpt trace --json`."""
    lists = {name: {"type": "array", "items": schema_of(kind)} for name, kind in _LISTS.items()}
    body = closed_object(
        {**_HEAD, **lists, **_ONES},
        optional=_OPTIONAL,
    )
    return {**preamble("A trace", SCHEMA_ID), **body, "$defs": _definitions()}


def line_schema() -> dict[str, Any]:
    """The schema of one line of `microgpt trace --jsonl`: which record it is decides its shape."""
    definitions = _definitions()
    head = closed_object({"record": {"const": "trace"}, **_HEAD, **_ONES}, optional=tuple(_ONES))
    records = [head]
    for kind in _LISTS.values():
        plain = definitions[_NAMES[kind]]
        properties = {"record": {"const": _NAMES[kind]}, **plain["properties"]}
        records.append({**plain, "properties": properties, "required": ["record", *plain["required"]]})
    return {**preamble("One record of a trace", f"{SCHEMA_ID}/line"), "oneOf": records, "$defs": definitions}


def preamble(title: str, identifier: str) -> dict[str, str]:
    """What a schema begins with."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": identifier, "title": title}
