"""Validate JSON documents with the schemas that the program prints."""

import json
from functools import cache

import pytest
from support.commands import microgpt


@cache
def validator(command, *choice):
    """Return a validator for the schema that a command prints with these options."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(microgpt(command, "--schema", *choice).out)
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def parse_json(text):
    """Parse JSON. NaN and Infinity, which RFC 8259 lacks, fail the test."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def valid(text, command, *choice):
    """Return the document after validating it with the command's schema."""
    document = parse_json(text)
    validator(command, *choice).validate(document)
    return document


def valid_lines(text, command):
    """Return the validated records of --jsonl."""
    return [valid(line, command, "--jsonl") for line in text.splitlines()]


def document(*words):
    """Return the JSON document of a command."""
    return json.loads(microgpt(*words, "--json").out)
