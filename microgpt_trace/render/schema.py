"""The JSON Schema (draft 2020-12) of a trace document and of one line of its JSON Lines form."""

from __future__ import annotations

from typing import Any

from ..events import Phase
from ..tracing import SCHEMA_ID

_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_COUNT = {"type": "integer", "minimum": 0}
_BOOLEAN = {"type": "boolean"}
_NUMBER = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
_MAYBE_NUMBER = {"anyOf": [*_NUMBER["anyOf"], {"type": "null"}]}
_SHAPE = {"type": "array", "items": _COUNT}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """A closed object: every property required but the optional ones, no other allowed."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


def _definitions() -> dict[str, Any]:
    nullable_boolean = {"type": ["boolean", "null"]}
    config = ("vocab_size", "n_embd", "n_head", "n_layer", "block_size", "n_inner")
    return {
        "values": {"anyOf": [_NUMBER, _list(_ref("values"))]},
        "stats": _object(
            {"count": _COUNT}
            | dict.fromkeys(("mean", "std", "l2_norm", "min", "max", "max_abs"), _MAYBE_NUMBER)
            | dict.fromkeys(("zero_count", "nan_count", "inf_count"), _COUNT)
        ),
        "model": _object(
            {
                "family": {"const": "microgpt"},
                "origin": _STRING,
                "parameters": _COUNT,
                "dtype": {"enum": ["float32", "float64"]},
                "config": _object({name: {"type": "integer", "minimum": 1} for name in config}),
                "vocabulary": _object({"chars": _STRING, "bos": _COUNT, "convention": _STRING}),
                "trained_steps": _COUNT,
                "assumed": _list(_STRING),
            }
        ),
        "input": _object(
            {
                "text": _STRING,
                "tokens": _list(_COUNT),
                "targets": _list(_COUNT),
                "labels": _list(_STRING),
                "target_labels": _list(_STRING),
                "notes": _list(_STRING),
            }
        ),
        "event": _object(
            {
                "seq": _COUNT,
                "phase": {"enum": list(Phase.__args__)},  # type: ignore[attr-defined]
                "stage": {"enum": ["embedding", "attention", "mlp", "head"]},
                "layer": {"type": ["integer", "null"], "minimum": 0},
                "name": _STRING,
                "expr": _STRING,
                "shape": _SHAPE,
                "dtype": _STRING,
                "stats": _ref("stats"),
                "seconds": {"type": "number", "minimum": 0},
                "values": _ref("values"),
            },
            optional=("seconds", "values"),
        ),
        "candidate": _object({"token": _COUNT, "label": _STRING, "p": _NUMBER}),
        "prediction": _object(
            {
                "position": _COUNT,
                "seen": _STRING,
                "target": _ref("candidate"),
                "predicted": {"anyOf": [_ref("candidate"), {"type": "null"}]},
                "rank": {"type": ["integer", "null"], "minimum": 1},
                "loss": _NUMBER,
                "top": _list(_ref("candidate")),
            }
        ),
        "insight": _object(
            {
                "id": _STRING,
                "title": _STRING,
                "holds": nullable_boolean,
                "text": _STRING,
                "numbers": {"type": "object", "additionalProperties": _MAYBE_NUMBER},
            }
        ),
        "check": _object(
            {
                "id": _STRING,
                "claim": _STRING,
                "holds": nullable_boolean,
                "deviation": _MAYBE_NUMBER,
                "tolerance": {"type": "number"},
                "detail": _STRING,
            }
        ),
        "parameter": _object(
            {"name": _STRING, "shape": _SHAPE}
            | dict.fromkeys(("l2_norm", "gradient_l2", "update_l2"), _MAYBE_NUMBER)
            | dict.fromkeys(("gradient_ratio", "update_ratio"), _MAYBE_NUMBER)
        ),
        "step": _object(
            {
                "number": {"type": "integer", "minimum": 1},
                "lr": {"type": "number"},
                "loss_before": _NUMBER,
                "loss_after": _NUMBER,
                "note": _STRING,
            }
        ),
    }


_HEAD = {
    "schema": {"const": SCHEMA_ID},
    "model": _ref("model"),
    "input": _ref("input"),
    "loss": _NUMBER,
    "chance_loss": {"type": "number"},
}
_LISTS = {
    "events": _list(_ref("event")),
    "predictions": _list(_ref("prediction")),
    "insights": _list(_ref("insight")),
    "checks": _list(_ref("check")),
    "parameters": _list(_ref("parameter")),
}
_OPTIONAL = {"step": _ref("step")}


def document_schema() -> dict[str, Any]:
    """The schema of `microgpt trace --json`."""
    body = _object({**_HEAD, **_LISTS, **_OPTIONAL}, optional=("parameters", "step"))
    return {**_preamble("A trace", SCHEMA_ID), **body, "$defs": _definitions()}


def line_schema() -> dict[str, Any]:
    """The schema of one line of `microgpt trace --jsonl`: which record it is decides its shape."""
    definitions = _definitions()
    head = _object({"record": {"const": "trace"}, **_HEAD, **_OPTIONAL}, optional=("step",))
    records = [head]
    for name in ("event", "prediction", "insight", "check", "parameter"):
        plain = definitions[name]
        properties = {"record": {"const": name}, **plain["properties"]}
        records.append({**plain, "properties": properties, "required": ["record", *plain["required"]]})
    return {**_preamble("One record of a trace", f"{SCHEMA_ID}/line"), "oneOf": records, "$defs": definitions}


def _preamble(title: str, identifier: str) -> dict[str, str]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": identifier, "title": title}
