"""Render chat templates in jinja2's sandbox, because a template is a program from an untrusted file.

This module runs in a separate process (`sandbox.py`), because jinja2's sandbox limits neither time nor
memory. Templates can use the names that transformers defines: messages, add_generation_prompt, tools and
documents (None), the special tokens, `raise_exception`, `strftime_now`, `tojson`, loop controls and `{%
generation %}` blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import FileFormatError, InputError
from .sandbox_process import one_line


def render(template: str, text: str, tokens: Mapping[str, str], **chat: Any) -> str:
    """Render a template with one user message, up to where the model's answer begins. `tokens` has the
    special tokens by their names in templates, such as bos_token. `chat` has other values for the names of
    transformers, such as messages and tools. Raises InputError if the template refuses the message, and
    FileFormatError if its syntax is wrong."""
    try:
        program = _program(template)
        messages = [{"role": "user", "content": text}]
        names = {"messages": messages, "add_generation_prompt": True, "tools": None, "documents": None}
        return program.render(**{**tokens, **names, **chat})
    except TemplateSyntaxError as error:
        raise FileFormatError(f"line {error.lineno} of its chat template: {one_line(error)}") from error
    except TemplateError as error:
        raise InputError(f"its chat template refuses the message: {one_line(error)}") from error


def render_each(
    template: str, chats: Sequence[Mapping[str, Any]], tokens: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Render chats, such as {"messages": [...], "tools": [...]}. Return for each chat the text and "", or ""
    and the reason why the template refuses the chat or fails."""
    results = []
    for chat in chats:
        try:
            results.append((render(template, "", tokens, **chat), ""))
        except Exception as error:  # a template can fail like any program
            results.append(("", one_line(error)))
    return results


@lru_cache(maxsize=2)  # certify renders one or two templates for ten chats
def _program(template: str) -> Template:
    return _environment().from_string(template)


class _Generation(Extension):
    """Parse {% generation %}...{% endgeneration %}, which marks the model's answer, as plain text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    """Return the sandbox with the filters and functions that transformers adds."""
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
    value: Any, ensure_ascii: bool = False, indent: int | None = None,
    separators: tuple[str, str] | None = None, sort_keys: bool = False,
) -> str:  # fmt: skip
    """Write plain JSON. The filter of jinja2 would escape <, > and & for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
