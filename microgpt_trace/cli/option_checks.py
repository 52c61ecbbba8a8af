"""A command as Click parses it: how its values are read, what is asked of them before it runs, and how it was
typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import InputError
from ..text.printable import command, quoted
from .option_rules import check_combination, schema_asked
from .output import put_schema

_WORDS = "microgpt_trace.words"
_WRITES = ("out", "as_json", "plot", "html", "force", "schema")
OF_THE_RUN = ("model", "seed", "n_head", "bos", "tokens", "rope_pairs", "settings")  # which model reads what


class Program(TyperGroup):
    """The commands together; its own options are flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_read_by(param, param.process_value) for param in super().get_params(ctx)]


class Command(TyperCommand):
    """A command whose options are held against each other before it is called."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_read_by(param, partial(self._read, param)) for param in super().get_params(ctx)]

    def _read(self, param: Any, ctx: Any, value: str) -> Any:
        """The value of a parameter, of the kind that its command says. Raises InputError for another.
        (Typer's own conversion loads pydantic, which takes longer than a trace.)"""
        kind, info = self.kinds[param.name]
        if kind is Path and value == "":  # pathlib takes it for the current folder
            raise InputError(f"{_spelled(param)}: expected a file name, found nothing")
        wanted, read = _reader(kind, getattr(info, "min", None))
        try:
            return read(value)
        except ValueError as error:
            raise InputError(f"{_spelled(param)}: expected {wanted}, found {value!r:.80}") from error

    @property
    def kinds(self) -> dict[str, tuple[Any, Any]]:
        """The type of each parameter's value, and what Typer is told of it."""
        found: dict[str, tuple[Any, Any]] = self.callback.kinds  # type: ignore[union-attr]
        return found

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        asked = list(given(ctx).values())
        check_combination(str(self.name), asked)
        if document := schema_asked(str(self.name), asked):
            return put_schema(document, ctx.params["out"])
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """One that may be missing has its brackets already, around which Typer 0.29 puts some more."""
        pieces = super().collect_usage_pieces(ctx)
        return [each.removesuffix("...")[1:-1] if each.startswith("[[") else each for each in pieces]


def command_line(context: typer.Context) -> str:
    """The command as it was typed, quoted for a shell."""
    return " ".join(["microgpt", str(context.info_name), *map(quoted, context.meta[_WORDS])])


def same_command(
    context: typer.Context, more: Sequence[str], *, without: Collection[str] = (), of: str = "",
    only: Collection[str] | None = None,
) -> str:  # fmt: skip
    """The command with what was given but for some parameters, or only some of them, and more options; or
    another one `of` the same. Where it writes is left to who copies it."""
    words, options = said(context, without=without, only=only)
    return command(of or str(context.info_name), words, [*options, *more])


def said(
    context: typer.Context, *, without: Collection[str] = (), only: Collection[str] | None = None
) -> tuple[list[str], list[str]]:
    """The arguments that were given, and the options, but for some parameters or only some of them."""
    params = {param.name: param for param in context.command.params}
    words: list[str] = []
    options: list[str] = []
    for name, spelled in given(context).items():
        if name in (*without, *_WRITES) or (only is not None and name not in only):
            continue
        value = context.params[name]
        values = list(map(str, value if isinstance(value, list | tuple) else [value]))
        if params[name].param_type_name == "argument":
            words += values
        else:
            options += [spelled] if value is True else [part for each in values for part in (spelled, each)]
    return words, options


def given(context: typer.Context) -> dict[str, str]:
    """The parameters that stand on the command line, be their values empty, 0 or the defaults, and how
    one writes each."""
    asked = {}
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        empty = context.params.get(param.name or "") in (None, (), [])  # older Clicks say so of no arguments
        if param.name and source is not None and source.name == "COMMANDLINE" and not empty:
            asked[param.name] = _spelled(param)
    return asked


def _read_by(param: Any, read: Callable[[Any, str], Any]) -> Any:
    """The parameter, whose text goes to `read`; there is nothing to be read of a flag, a list or what is not
    there."""

    def process_value(ctx: Any, value: Any) -> Any:
        if isinstance(value, str):
            return read(ctx, value)
        if value is None and (param.multiple or param.nargs == -1):
            value = ()
        return value if param.callback is None else param.callback(ctx, param, value)

    if "process_value" not in vars(param):  # once: Click asks for its parameters several times
        param.process_value = process_value
    return param


def _reader(kind: Any, least: float | None) -> tuple[str, Callable[[str], Any]]:
    """What values of a kind are called, and what reads one or raises ValueError."""

    def number(text: str) -> Any:
        value = kind(text)
        if least is not None and not value >= least:  # nor is NaN
            raise ValueError
        return value

    if kind in (int, float):
        name = "a whole number" if kind is int else "a number"
        return name if least is None else f"{name} of at least {least:g}", number
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return " or ".join(choices), lambda text: choices[choices.index(text)]
    return "a text", Path if kind is Path else str


def _spelled(param: Any) -> str:
    """How one writes a parameter: --out, or the word for an argument in the usage."""
    if param.param_type_name == "option":
        return max(param.opts, key=len)
    return re.sub(r"[][]|[.]{3}", "", param.metavar or param.name.upper())
