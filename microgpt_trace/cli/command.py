"""What is asked of every command's options before it runs: that each has a value of its kind, that a path has
a name, and that nothing stands beside --schema that it would ignore.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from math import isnan
from pathlib import Path
from typing import Any, TypeVar, get_args

import typer
from typer.core import TyperCommand

from ..errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command whose options are held against each other before it is called."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words = list(args)
        try:
            rest = super().parse_args(ctx, args)
        except typer.BadParameter as error:
            param: Any = error.param
            wanted = "" if param is None else _wanted(*self._kind(param.name))
            if not wanted:
                raise
            found = self._as_written(ctx, words)[param.name]
            raise InputError(f"{_spelled(param)}: expected {wanted}, found {found!r:.80}") from error
        if not ctx.resilient_parsing:
            asked = given(ctx)
            self._refuse_values(ctx, asked, words)
            if "schema" in asked:
                self._refuse_beside_schema(asked)
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """One that may be missing has its brackets already, around which Typer 0.29 puts some more."""
        pieces = super().collect_usage_pieces(ctx)
        return [each.removesuffix("...")[1:-1] if each.startswith("[[") else each for each in pieces]

    def _refuse_values(self, ctx: Any, asked: dict[str, str], words: list[str]) -> None:
        """Raises InputError for those that some Typer takes: a path without a name, which pathlib has for the
        current folder, and a number with bounds that is none."""
        for name, option in asked.items():
            kind, info = self._kind(name)
            if kind is Path and self._as_written(ctx, words)[name] == "":
                raise InputError(f"{option}: expected a file name, found nothing")
            if kind is float and info.min is not None and isnan(ctx.params[name]):
                raise InputError(f"{option}: expected {_wanted(kind, info)}, found 'nan'")

    def _as_written(self, ctx: Any, words: list[str]) -> dict[str, Any]:
        """The values of the parameters as they stand on the command line."""
        values, _, _ = self.make_parser(ctx).parse_args(args=list(words))
        return dict(values)

    def _kind(self, name: str) -> tuple[Any, Any]:
        """The type of a parameter's values and what Typer was told of it, by the command's signature: how
        Typer itself holds them changes from version to version."""
        parameters = inspect.signature(self.callback).parameters if self.callback else {}
        if name not in parameters:
            return None, None  # --help
        kind, info = get_args(parameters[name].annotation)
        return next(iter(get_args(kind)), kind), info

    def _refuse_beside_schema(self, asked: dict[str, str]) -> None:
        chosen = getattr(self.callback, "schema_by", ())
        refuse(asked, [name for name in asked if name not in ("schema", "out", *chosen)], "--schema")
        named = [asked[name] for name in chosen if name in asked]
        if len(named) > 1:
            raise InputError(f"{named[0]} and {named[1]} exclude each other")


def schema_by(*names: str) -> Callable[[Function], Function]:
    """Says which parameters of a command choose among the schemas that it may print."""

    def mark(function: Function) -> Function:
        function.schema_by = names  # type: ignore[attr-defined]
        return function

    return mark


def refuse(asked: Mapping[str, str], idle: Iterable[str], beside: str) -> None:
    """Raises InputError for an idle one of the parameters given, which would be ignored."""
    for name in idle:
        if name in asked:
            written = asked[name]
            what = written if written.startswith("-") else "a text" if "TEXT" in written else "an argument"
            raise InputError(f"{what} means nothing with {beside}")


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


def _wanted(kind: Any, info: Any) -> str:
    """What values a parameter takes, nothing where any text will do."""
    if kind in (int, float):
        number = "a whole number" if kind is int else "a number"
        return number if info.min is None else f"{number} of at least {info.min:g}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(str(choice.value) for choice in kind)
    return ""


def _spelled(param: Any) -> str:
    """How one writes a parameter: --out, or the word for an argument in the usage."""
    if param.param_type_name == "option":
        return max(param.opts, key=len)
    return (param.metavar or param.name.upper()).strip("[]")
