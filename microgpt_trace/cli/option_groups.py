"""Options as data: a command takes frozen dataclasses of options, and Typer gets the flat signature that
it knows. Knows no option.

Every start pays for them. So modules with options do without `from __future__ import annotations`, whose
strings would have to be evaluated first (6 ms of `microgpt --help`), and the dataclasses without == and repr,
which nobody asks for (4 ms).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from functools import update_wrapper
from inspect import Parameter
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer

Class = TypeVar("Class")


def group(panel: str | None = None) -> Callable[[type[Class]], type[Class]]:
    """Make a class a group of options, for which --help has a panel of this name, but for those that name
    another one."""

    def made(cls: type[Class]) -> type[Class]:
        dataclass(frozen=True, eq=False, repr=False)(cls)
        for each in fields(cls):  # type: ignore[arg-type]
            told = each.metadata.get("told")
            if told is not None:
                told.rich_help_panel = told.rich_help_panel or panel
        return cls

    return made


def option(*names: str, default: Any = None, **told: Any) -> Any:
    """A field of a group that is an option. Typer makes its name of the field's, if there are no `names`."""
    return field(default=default, metadata={"told": typer.Option(*names, **told)})


def flag(*names: str, **told: Any) -> Any:
    """A field of a group that is an option without a value."""
    return option(*names, default=False, **told)


def argument(**told: Any) -> Any:
    """A field of a group that is an argument."""
    return field(default=None, metadata={"told": typer.Argument(**told)})


def flat(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as Typer reads it: where a parameter is a group stand its fields. The order of the
    parameters, and in each that of its fields, is the order of --help; `kinds` has of each the type of its
    value and what Typer is told of it."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {
        each.name: each.annotation for each in parameters if is_dataclass(each.annotation)
    }

    flattened = [option for each in parameters for option in _options(each)]
    kinds = {option.name: value_type(option) for option in flattened}

    def called(**options: Any) -> Any:
        given = {
            name: group(**{field.name: options.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return command(**options, **given)

    update_wrapper(called, command)
    called.__signature__ = inspect.Signature(flattened)  # type: ignore[attr-defined]
    called.kinds = kinds  # type: ignore[attr-defined]
    called.__annotations__ = {}  # the signature says them; what Typer finds here too it looks at twice more
    return called


def _options(parameter: Parameter) -> Iterator[Parameter]:
    """The fields of a group, or what is an option already."""
    if not is_dataclass(parameter.annotation):
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    for each in fields(parameter.annotation):
        kind, told = each.type, each.metadata.get("told")
        annotation = kind if told is None else Annotated[kind, told]
        yield Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation)


def value_type(option: Parameter) -> tuple[Any, Any]:
    """The type of an option's value, and what Typer is told of it: of Annotated[Path | None, info] Path
    and info, of list[str] list."""
    kind, info = option.annotation, None
    if get_origin(kind) is Annotated:
        kind, info = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]
    return kind if get_origin(kind) in (None, Literal) else get_origin(kind), info
