"""Groups of options as dataclasses. A command takes groups, and Typer gets the flat signature that it knows.
Knows no option.

Every start of the program builds these groups. So modules that declare options do without
`from __future__ import annotations`, whose strings would have to be evaluated first (6 ms of
`microgpt --help`), and the dataclasses do without == and repr, which nobody uses (4 ms).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import update_wrapper
from inspect import Parameter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from typer.models import OptionInfo

Class = TypeVar("Class")
METAVARS: dict[Any, str] = {bool: "", int: "N", float: "NUMBER", str: "TEXT", Path: "FILE"}


def group(panel: str | None = None) -> Callable[[type[Class]], type[Class]]:
    """Make a class a group of options. They stand in this panel of --help, unless an option names another."""

    def decorate(cls: type[Class]) -> type[Class]:
        dataclass(frozen=True, eq=False, repr=False)(cls)
        for each in fields(cls):  # type: ignore[arg-type]
            info = each.metadata["info"]
            if each.name in cls.__annotations__ and isinstance(info, OptionInfo):  # a base class did its own
                _describe(info, value_type(each.type)[0], panel)
        return cls

    return decorate


def _describe(info: OptionInfo, kind: Any, panel: str | None) -> None:
    """Fill in what --help says of every option of this type."""
    info.rich_help_panel = info.rich_help_panel or panel
    if info.metavar is None:
        info.metavar = "|".join(get_args(kind)) or METAVARS[kind]
    if kind is list:
        info.help = f"{info.help} Repeatable."


def option(*names: str, default: Any = None, family: str = "", **settings: Any) -> Any:
    """Declare an option as a field of a group. Without `names`, Typer names it after the field. With `family`
    only models of that family take it."""
    info: Any = typer.Option(*names, **settings)
    info.family = family
    if family:
        info.help += f" Needs {family}."
    return field(default=default, metadata={"info": info})


def flag(*names: str, **settings: Any) -> Any:
    """Declare an option without a value."""
    return option(*names, default=False, **settings)


def argument(**settings: Any) -> Any:
    """Declare an argument."""
    return field(default=None, metadata={"info": typer.Argument(**settings)})


def flat(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command as Typer reads it, with the fields of each group in the place of the group.

    The order of the parameters and of their fields is the order of --help. `kinds` maps the name of each
    option to the type of its value and to the option's OptionInfo or ArgumentInfo.
    """
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {
        each.name: each.annotation for each in parameters if is_dataclass(each.annotation)
    }
    options = [option for each in parameters for option in _options(each)]

    def with_groups(**values: Any) -> Any:
        made = {
            name: group(**{field.name: values.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return command(**values, **made)

    update_wrapper(with_groups, command)
    with_groups.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    with_groups.kinds = {each.name: value_type(each.annotation) for each in options}  # type: ignore[attr-defined]
    with_groups.__annotations__ = {}  # Typer would look at each annotation twice more
    return with_groups


def _options(parameter: Parameter) -> Iterator[Parameter]:
    """Yield the fields of a group as parameters, or the parameter itself if it is no group."""
    if not is_dataclass(parameter.annotation):
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    for each in fields(parameter.annotation):
        kind, info = each.type, each.metadata["info"]
        annotation = Annotated[kind, info]  # type: ignore[valid-type]
        yield Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation)


def value_type(annotation: Any) -> tuple[Any, Any]:
    """Return the type of an option's value and its Typer info: Annotated[Path | None, info] gives Path and
    info, and list[str] gives list and None."""
    kind, info = annotation, None
    if get_origin(kind) is Annotated:
        kind, info = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]
    return kind if get_origin(kind) in (None, Literal) else get_origin(kind), info
