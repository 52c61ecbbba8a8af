"""JSON documents against the schemas that the program prints."""

import json
from functools import cache

import pytest
from support.commands import microgpt


@cache
def validator(command, *choice):
    """Of the schema that the command prints, which is one itself; `choice` is --jsonl and the like."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(microgpt(command, "--schema", *choice).out)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def document_of(text):
    """What a text holds that is JSON as RFC 8259 has it: without NaN."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def valid(text, command, *choice):
    """The document, which fits the schema that the command prints."""
    document = document_of(text)
    validator(command, *choice).validate(document)
    return document


def valid_lines(text, command):
    """The records of --jsonl."""
    return [valid(line, command, "--jsonl") for line in text.splitlines()]
