"""Click classes for the commands, which check options and store the command line as it was typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import InputError, OptionError
from ..text.printable import command, quoted
from .option_rules import check_combination, requested_schema
from .output import put_schema

_WORDS = "microgpt_trace.words"
_WRITES = ("out", "as_json", "plot", "html", "force", "schema")
OF_GRADIENTS = ("backward", "target", "against", "position")  # choose the gradients
# The parameters that choose a model and its input.
RUN_PARAMETERS = ("model", "seed", "n_head", "bos", "tokens", "rope_pairs", "settings")


class Program(TyperGroup):
    """The group of all commands. The options of the program, such as --version, are flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_read_with(param, param.process_value) for param in super().get_params(ctx)]


class Command(TyperCommand):
    """A command that checks its options before it calls its function."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_read_with(param, partial(self._read, param)) for param in super().get_params(ctx)]

    def get_help_option(self, ctx: Any) -> Any:
        """Show --help in the last panel. Otherwise Typer would show --help alone in the first panel."""
        option: Any = super().get_help_option(ctx)
        option.rich_help_panel, option.metavar = "Help", ""
        return option

    def _read(self, param: Any, ctx: Any, value: str) -> Any:
        """Convert the value of a parameter to the type of its field. Raises InputError if the value cannot be
        converted. (Typer would load pydantic for the conversion, and loading pydantic takes longer than a
        trace.)"""
        kind, info = self.kinds[param.name]
        if kind is Path and value == "":  # Path("") would be the current folder
            raise InputError(f"{_spelling(param)}: expected a file name, found nothing")
        expected, read = _reader(kind, getattr(info, "min", None))
        try:
            return read(value)
        except ValueError as error:
            raise InputError(f"{_spelling(param)}: expected {expected}, found {value!r:.80}") from error

    @property
    def kinds(self) -> dict[str, tuple[Any, Any]]:
        """The value type and the Typer info of each parameter."""
        return self.callback.kinds  # type: ignore[union-attr]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_WORDS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        options = list(parameters_given(ctx).values())
        check_combination(str(self.name), options)
        if document := requested_schema(str(self.name), options):
            return put_schema(document, ctx.params["out"])
        try:
            return super().invoke(ctx)
        except OptionError as error:
            spellings = {str(param.name): _spelling(param) for param in self.params}
            raise InputError(error.spelled(spellings)) from error

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the usage. Typer 0.29 would put brackets around metavars, which have brackets already."""
        return [
            "[OPTIONS]",
            *(str(param.metavar) for param in self.params if param.param_type_name == "argument"),
        ]


def command_line(context: typer.Context) -> str:
    """Return the command as it was typed, quoted for a shell."""
    return " ".join(["microgpt", str(context.info_name), *map(quoted, context.meta[_WORDS])])


def same_command(
    context: typer.Context, more: Sequence[str], *, without: Collection[str] = (), of: str = "",
    only: Collection[str] | None = None,
) -> str:  # fmt: skip
    """Return a shell command with the parameters that the user gave and the options `more`.

    `of` is the name of the command, by default this command. `without` lists parameters to leave out. `only`,
    if set, lists the parameters to keep. Output files are always left out.
    """
    words, options = given_words(context, without=without, only=only)
    return command(of or str(context.info_name), words, [*options, *more])


def given_words(
    context: typer.Context, *, without: Collection[str] = (), only: Collection[str] | None = None
) -> tuple[list[str], list[str]]:
    """Return the arguments and options that the user gave. For `without` and `only`, see `same_command`."""
    params = {param.name: param for param in context.command.params}
    words: list[str] = []
    options: list[str] = []
    for name, spelling in parameters_given(context).items():
        if name in (*without, *_WRITES) or (only is not None and name not in only):
            continue
        value = context.params[name]
        values = list(map(str, value if isinstance(value, list | tuple) else [value]))
        if params[name].param_type_name == "argument":
            words += values
        else:
            options += [spelling] if value is True else [part for each in values for part in (spelling, each)]
    return words, options


def parameters_given(context: typer.Context) -> dict[str, str]:
    """Return the parameters on the command line with their spellings, even if a value equals the default."""
    result = {}
    for param in context.command.params:
        source = context.get_parameter_source(param.name or "")
        # Older versions of Click report an empty argument as if the user gave the argument.
        empty = context.params.get(param.name or "") in (None, (), [])
        if param.name and source is not None and source.name == "COMMANDLINE" and not empty:
            result[param.name] = _spelling(param)
    return result


def _read_with(param: Any, read: Callable[[Any, str], Any]) -> Any:
    """Make a parameter convert its text with `read`. Flags, lists and missing values are not converted."""

    def process_value(ctx: Any, value: Any) -> Any:
        if isinstance(value, str):
            return read(ctx, value)
        if value is None and (param.multiple or param.nargs == -1):
            value = ()
        return value if param.callback is None else param.callback(ctx, param, value)

    if "process_value" not in vars(param):  # Click calls get_params several times
        param.process_value = process_value
        if param.param_type_name == "argument":
            param.display_type_rich = lambda ctx: None  # Typer 0.29 would show <str> or <list[str]>
    return param


def _reader(kind: Any, least: float | None) -> tuple[str, Callable[[str], Any]]:
    """Return words for the valid values, and a function that converts a text or raises ValueError."""

    def number(text: str) -> Any:
        value = kind(text)
        if least is not None and not value >= least:  # also rejects NaN
            raise ValueError
        return value

    if kind in (int, float):
        name = "a whole number" if kind is int else "a number"
        return name if least is None else f"{name} of at least {least:g}", number
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        return " or ".join(choices), lambda text: choices[choices.index(text)]
    return "a text", path_from if kind is Path else str


def path_from(text: str) -> Path:
    """Return a path. As a model, "small" is the trained microGPT of the package, and "./small" is a file. The
    path of the file becomes absolute, because Path would drop the "./"."""
    path = Path(text)
    return path.absolute() if str(path) == "small" != text else path


def _spelling(param: Any) -> str:
    """Return the name of a parameter in the usage, such as --out for an option or TEXT for an argument."""
    if param.param_type_name == "option":
        return max(param.opts, key=len)
    return re.sub(r"[][]|[.]{3}", "", param.metavar or param.name.upper())
