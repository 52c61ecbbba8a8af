"""Chat templates: what a model file wants around a person's message. Knows no vocabulary.

Templates are programs from foreign files, so they run in jinja2's sandbox. They are given what
transformers gives them: messages, add_generation_prompt, tools and documents (none), the special
tokens, `raise_exception`, `strftime_now`, `tojson`, loop controls and `{% generation %}` blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError


def pick_template(templates: Mapping[str, str], path: Path) -> str:
    """The template for plain chat: the one named "default", or the only one. Raises InputError."""
    if not templates:
        raise InputError(f"{path}: the file has no chat template; leave --chat out")
    if "default" in templates:
        return templates["default"]
    if len(templates) > 1:
        raise InputError(f"{path}: none of its chat templates is the default: {', '.join(sorted(templates))}")
    return next(iter(templates.values()))


def render_chat(template: str, text: str, bos_token: str, eos_token: str, path: Path) -> str:
    """The template with one message of the user, up to where the model's answer begins.

    Raises InputError where jinja2 is missing or the template refuses the message, FileFormatError
    where the template is no template or fails.
    """
    environment = _environment()
    from jinja2 import TemplateError, TemplateSyntaxError

    try:
        return environment.from_string(template).render(
            messages=[{"role": "user", "content": text}],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    except TemplateSyntaxError as error:
        raise FileFormatError(f"{path}: line {error.lineno} of its chat template: {_line(error)}") from error
    except TemplateError as error:
        raise InputError(f"{path}: its chat template refuses the message: {_line(error)}") from error
    except Exception as error:  # whatever the foreign program runs into
        raise FileFormatError(f"{path}: its chat template fails: {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _environment() -> Any:
    try:
        from jinja2 import nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise InputError(
            "chat templates need the package jinja2: "
            "python -m pip install 'microgpt-trace[models]', or jinja2 alone"
        ) from error

    class Generation(Extension):
        """{% generation %}...{% endgeneration %} marks the model's words; here they are just text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _raise(message: str) -> None:
    from jinja2 import TemplateError

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
