"""Rendering a chat template: a program from a foreign file, in jinja2's sandbox. Runs in a process of its
own (`vocabulary/sandbox.py`): the sandbox bounds neither time nor memory. Knows no file and no vocabulary.

Templates are given what transformers gives them: messages, add_generation_prompt, tools and documents
(none), the special tokens, `raise_exception`, `strftime_now`, `tojson`, loop controls and
`{% generation %}` blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import FileFormatError, InputError
from .sandbox_process import one_line


def render(template: str, text: str, tokens: Mapping[str, str]) -> str:
    """The template with one message of the user, up to where the model's answer begins. `tokens` are the
    special tokens by the names that templates have for them.

    Raises InputError where the template refuses the message, FileFormatError where it is no template or
    fails.
    """
    try:
        program = _environment().from_string(template)
        return program.render(
            **tokens,
            messages=[{"role": "user", "content": text}],
            add_generation_prompt=True,
            tools=None,
            documents=None,
        )
    except TemplateSyntaxError as error:
        raise FileFormatError(f"line {error.lineno} of its chat template: {one_line(error)}") from error
    except TemplateError as error:
        raise InputError(f"its chat template refuses the message: {one_line(error)}") from error


class _Generation(Extension):
    """{% generation %}...{% endgeneration %} marks the model's words; here they are just text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    """The sandbox with what transformers adds to it."""
    sandbox = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    sandbox.filters["tojson"] = _to_json
    sandbox.globals["raise_exception"] = _raise
    sandbox.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return sandbox


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: jinja2's own filter would escape <, > and & for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
