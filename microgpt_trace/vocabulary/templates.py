"""Rendering a chat template: a program from a foreign file, in jinja2's sandbox. Runs in a process of its
own (`vocabulary/sandbox.py`): the sandbox bounds neither time nor memory. Knows no file and no vocabulary.

Templates are given what transformers gives them: messages, add_generation_prompt, tools and documents
(none), the special tokens, `raise_exception`, `strftime_now`, `tojson`, loop controls and
`{% generation %}` blocks. What transformers does not do: a value that is no data, a function or a
generator, say, is refused wherever it would become text, as its text is a name and an address in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from string import Formatter
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, Undefined, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEscapeFormatter, SandboxedFormatter
from markupsafe import Markup

from ..errors import FileFormatError, InputError
from .sandbox_process import one_line

_SCALARS = (str, int, float, complex, bytes, type(None), Undefined)
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_LISTS: tuple[Any, ...] = (list, tuple, set, frozenset, range, *_VIEWS)
# Those that make text of any value; `join` does so of the members of any iterable.
_WRITING_FILTERS = (
    "capitalize", "center", "e", "escape", "forceescape", "format", "lower", "pprint", "replace", "safe",
    "string", "title", "trim", "upper", "urlencode", "urlize", "xmlattr",
)  # fmt: skip


def render(template: str, text: str, tokens: Mapping[str, str]) -> str:
    """The template with one message of the user, up to where the model's answer begins. `tokens` are the
    special tokens by the names that templates have for them.

    Raises InputError where the template refuses the message, FileFormatError where it is no template or
    fails.
    """
    try:
        program = _Environment().from_string(template)
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


def data(value: Any) -> Any:
    """The value, if its text says nothing but what it is. Raises TypeError for any other object."""
    if isinstance(value, dict):
        for key, member in value.items():
            data(key)
            data(member)
    elif isinstance(value, _LISTS):
        for member in value:
            data(member)
    elif not isinstance(value, _SCALARS):
        raise TypeError(f"it writes a {type(value).__name__}, which is no text")
    return value


def _of_data(function: Callable[..., Any]) -> Callable[..., Any]:
    """The filter, given nothing but data; what jinja2 itself passes first is not looked at."""
    own = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        data([*args[own:], kwargs])
        return function(*args, **kwargs)

    return checked


def _joining(join: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(join)
    def checked(context: Any, value: Any, d: str = "", attribute: str | int | None = None) -> Any:
        if attribute is not None:
            value = context.environment.filters["map"](context, value, attribute=attribute)
        return join(context, map(data, value), data(d))

    return checked


class _DataFields(Formatter):
    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        value, used = super().get_field(field_name, args, kwargs)
        return data(value), used


class _TextFormatter(_DataFields, SandboxedFormatter):
    """str.format with the sandbox's rules of attributes, and data alone."""


class _MarkupFormatter(_DataFields, SandboxedEscapeFormatter):
    """The same for text that is marked as safe."""


class _Generation(Extension):
    """{% generation %}...{% endgeneration %} marks the model's words; here they are just text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with what transformers adds to it, in which data alone becomes text."""

    intercepted_binops = frozenset({"%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=data
        )
        self.filters.update({name: _of_data(self.filters[name]) for name in _WRITING_FILTERS})
        self.filters["join"] = _joining(self.filters["join"])
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The parts of a ~ b pass the filter `string`, as the operator itself cannot be intercepted."""
        tree = super()._parse(source, name, filename)
        for concat in tree.find_all(nodes.Concat):
            concat.nodes = [
                nodes.Filter(part, "string", [], [], None, None, lineno=part.lineno) for part in concat.nodes
            ]
        return tree

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        return super().call_binop(context, operator, left, data(right) if isinstance(left, str) else right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        text, kind = value.__self__, type(value.__self__)
        marked = isinstance(text, Markup)
        formatter = _MarkupFormatter(self, escape=text.escape) if marked else _TextFormatter(self)
        if value.__name__ == "format_map":
            return lambda mapping: kind(formatter.vformat(text, (), mapping))
        return lambda *args, **kwargs: kind(formatter.vformat(text, args, kwargs))


def _raise(message: Any) -> None:
    raise TemplateError(data(message))


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
