"""JSON documents have the fields and the marked properties of results, and a schema that matches."""

import json
from dataclasses import dataclass, fields
from typing import get_origin

import pytest

from microgpt_trace.render.documents.schema import member_types, result_schema
from microgpt_trace.render.documents.trace_as_json import RECORDS
from microgpt_trace.text.json_writing import in_document, result_json
from microgpt_trace.tracing.result import Trace


def test_every_list_of_a_trace_has_its_own_records():
    """Otherwise --jsonl would print the whole list on its first line."""
    types = member_types(Trace)
    lists = {field.name for field in fields(Trace) if field.repr and get_origin(types[field.name]) is tuple}
    assert lists == {*RECORDS}


@dataclass(frozen=True)
class Part:
    name: str
    size: float

    @property
    @in_document
    def twice(self) -> float:
        return 2 * self.size


@dataclass(frozen=True)
class Whole:
    SCHEMA = "test/1"

    parts: tuple[Part, ...]
    note: str | None = None

    @property
    def unmarked(self) -> str:
        return "not in the document"

    @property
    @in_document
    def ok(self) -> bool:
        return all(part.size > 0 for part in self.parts)


def test_a_document_has_the_fields_and_the_marked_properties():
    document = json.loads(result_json(Whole((Part("a", 1.5), Part("b", float("nan"))))))
    assert list(document) == ["schema", "ok", "parts", "note"]
    assert document["parts"][0] == {"name": "a", "size": 1.5, "twice": 3.0}
    assert document["parts"][1]["twice"] == "NaN"
    schema = result_schema(Whole, "A whole")
    assert set(schema["$defs"]) == {"part"}
    assert set(schema["required"]) == set(document)
    validator = pytest.importorskip("jsonschema").Draft202012Validator(schema)
    validator.validate(document)
    for wrong in (document | {"ok": 1}, document | {"more": 1}, document | {"parts": [{"name": "a"}]}):
        assert not validator.is_valid(wrong)
