"""What JSON owes its reader: RFC 8259, no name twice in an object, and what its schema says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from microgpt_trace.render.documents.schemas import DOCUMENTS, schema_of_document

LARGEST = 60_000  # characters of a document that is held against its schema: arrays take 5 s a megabyte
LINE = "microgpt.trace/1/line"


def wrong_in(text: str, is_line: bool = False) -> Iterator[str]:
    """What is wrong with a document, or with a line of --jsonl."""
    try:
        document = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except ValueError as error:
        yield f"no JSON: {error} in {text[:200]!r}"
        return
    name = document.get("schema", "") if isinstance(document, dict) else ""
    known = validators().get(LINE if is_line else name)
    error = best_match(known.iter_errors(document)) if known and len(text) < LARGEST else None
    if error is not None:
        yield f"not as its schema says: {error.json_path}: {error.message[:300]}"


@cache
def validators() -> dict[str, Any]:
    """Of each schema's id the validator."""
    schemas = map(schema_of_document, DOCUMENTS)
    return {known["$id"]: Draft202012Validator(known) for known in schemas}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice in an object")
    return found
