"""Check JSON documents against RFC 8259, for repeated names, and against their schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from microgpt_trace.render.documents.schemas import DOCUMENTS, schema_of_document

LARGEST = 60_000  # characters of a document that is validated: arrays take 5 s per megabyte
LINE = "microgpt.trace/1/line"


def problems_in(text: str, is_line: bool = False) -> Iterator[str]:
    """Yield the problems of a document, or of a line of --jsonl."""
    try:
        document = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique_names)
    except ValueError as error:
        yield f"not JSON: {error} in {text[:200]!r}"
        return
    name = document.get("schema", "") if isinstance(document, dict) else ""
    validator = validators().get(LINE if is_line else name)
    error = best_match(validator.iter_errors(document)) if validator and len(text) < LARGEST else None
    if error is not None:
        yield f"against its schema: {error.json_path}: {error.message[:300]}"


@cache
def validators() -> dict[str, Any]:
    """Return the validator of each schema by its id."""
    return {schema["$id"]: Draft202012Validator(schema) for schema in map(schema_of_document, DOCUMENTS)}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return dict(pairs)
