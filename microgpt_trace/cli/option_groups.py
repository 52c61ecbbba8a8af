"""Groups of options, which are dataclasses. The parameters of a command are groups. For Typer, `flat`
replaces each group by its fields. This module declares no option.

Every start of the program builds the groups, so building must be fast. Modules that declare options do not
use `from __future__ import annotations`, because evaluating annotations from strings takes 6 ms of `microgpt
--help`. The dataclasses have neither == nor repr, which saves 4 ms.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import field, fields, is_dataclass
from functools import update_wrapper
from inspect import Parameter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo

from ..text.frozen import frozen

Class = TypeVar("Class")
METAVARS: dict[Any, str] = {bool: "", int: "N", float: "NUMBER", str: "TEXT", Path: "FILE", list: ""}


def group(panel: str = "") -> Callable[[type[Class]], type[Class]]:
    """Make a class a group of options. --help shows the options of a group in `panel`, unless an option names
    another panel."""

    def decorate(cls: type[Class]) -> type[Class]:
        frozen(slots=False, eq=False)(cls)
        for each in fields(cls):  # type: ignore[arg-type]
            if each.name in cls.__annotations__:  # fields of the base class are already described
                _describe(each, panel)
        return cls

    return decorate


def _describe(option: Any, panel: str) -> None:
    """Complete the Typer info of a field with the facts that follow from the field's name and type."""
    info, kind = option.metadata["info"], value_type(option.type)[0]
    if isinstance(info, ArgumentInfo):
        return
    info.rich_help_panel = info.rich_help_panel or panel
    info.param_decls = info.param_decls or (f"--{option.name.replace('_', '-')}",)
    info.metavar = info.metavar or "|".join(get_args(kind)) or METAVARS[kind]
    info.help += f" Needs {info.family}." * bool(info.family) + " Repeatable." * (kind is list)


def option(
    help: str, *names: str, default: Any = None, panel: str = "", family: str = "", **settings: Any
) -> Any:
    """Declare a field of a group as an option. `names` are the spellings of the option. By default, the name
    of the field is the spelling. `panel` replaces the panel of the group. `family` limits the option to
    models of one family."""
    info: Any = typer.Option(help=help, rich_help_panel=panel, **settings)
    info.param_decls, info.family = names, family
    return field(default=default, metadata={"info": info})


def flag(help: str, *names: str, **settings: Any) -> Any:
    """Declare an option without a value."""
    return option(help, *names, default=False, **settings)


def argument(metavar: str, help: str, **settings: Any) -> Any:
    """Declare a field of a group as an argument."""
    return field(default=None, metadata={"info": typer.Argument(metavar=metavar, help=help, **settings)})


def flat(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the command with a signature that Typer can read: each group is replaced by its fields.

    --help shows the parameters in the order of the signature. The attribute `kinds` maps the name of each
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
    with_groups.__annotations__ = {}  # otherwise Typer reads each annotation two more times
    return with_groups


def _options(parameter: Parameter) -> Iterator[Parameter]:
    """Yield the fields of a group as parameters. Yield a parameter that is not a group unchanged."""
    if not is_dataclass(parameter.annotation):
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    for each in fields(parameter.annotation):
        kind, info = each.type, each.metadata["info"]
        annotation = Annotated[kind, info]  # type: ignore[valid-type]
        yield Parameter(each.name, Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation)


def value_type(annotation: Any) -> tuple[Any, Any]:
    """Return the type of an option's value and its Typer info. For Annotated[Path | None, info], return
    (Path, info). For list[str], return (list, None)."""
    kind, info = annotation, None
    if get_origin(kind) is Annotated:
        kind, info = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]
    return kind if get_origin(kind) in (None, Literal) else get_origin(kind), info
