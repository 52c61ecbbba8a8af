"""What is asked of every command's options before it runs: that a path has a name, and that nothing
stands beside --schema that it would ignore."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

from ..errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command whose options are held against each other before it is called."""

    def invoke(self, ctx: Any) -> Any:
        asked = given(ctx)
        for param in self.params:
            # pathlib takes an empty path for the current folder
            if param.name in asked and param.type.name == "path" and ctx.params[param.name] == "":
                raise InputError(f"{asked[param.name]}: expected a file name, found nothing")
        if "schema" in asked:
            self._refuse_beside_schema(asked)
        return super().invoke(ctx)

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
    one writes each: --out, or the word for an argument in the usage."""
    asked = {}
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        empty = context.params.get(param.name or "") in (None, (), [])  # older Clicks say so of no arguments
        if param.name and source is not None and source.name == "COMMANDLINE" and not empty:
            is_option = param.param_type_name == "option"
            asked[param.name] = (
                max(param.opts, key=len) if is_option else param.human_readable_name.strip("[]")
            )
    return asked
