"""Options as data: a command takes frozen dataclasses of options, and Typer gets the flat signature that
it knows. Knows no option.

Every start pays for them. So modules with options do without `from __future__ import annotations`, whose
strings would have to be evaluated first (6 ms of `microgpt --help`), and the dataclasses without == and repr,
which nobody asks for (4 ms).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import update_wrapper
from inspect import Parameter
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


def flat(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command as Typer reads it: where a parameter is a dataclass stand its fields. The order of the
    parameters, and in each that of its fields, is the order of --help; `kinds` has of each the type of its
    value and what Typer is told of it. A subclass of a dataclass that is
    none itself annotates fields anew."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    groups: dict[str, Any] = {
        each.name: each.annotation for each in parameters if is_dataclass(each.annotation)
    }

    flattened = [option for each in parameters for option in _options(each)]
    kinds = {option.name: value_type(option) for option in flattened}
    objects = {name: kind for name, (kind, _) in kinds.items() if issubclass(kind, (Path, Enum))}

    def called(**options: Any) -> Any:
        for name, kind in objects.items():
            if options[name] is not None:  # text, or with some versions of Typer the object already
                options[name] = kind(options[name])
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
    """The fields of a dataclass, or what is an option already."""
    group = parameter.annotation
    if not is_dataclass(group):
        yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
        return
    types = get_type_hints(group, include_extras=True)
    for field in fields(group):
        yield Parameter(
            field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name]
        )


def value_type(option: Parameter) -> tuple[Any, Any]:
    """The type of an option's value, and what Typer is told of it: of Annotated[Path | None, info] Path
    and info."""
    kind, info = option.annotation, None
    if get_origin(kind) is Annotated:
        kind, info = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        kind = get_args(kind)[0]
    return get_origin(kind) or kind, info
