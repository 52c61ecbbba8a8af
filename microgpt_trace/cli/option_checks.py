"""What is asked of every command's options before it runs: that each has a value of its kind, and that
nothing stands beside --schema that it would ignore. And what to say of the options of apr."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import InputError
from ..text.command_lines import command, quoted

Function = TypeVar("Function", bound=Callable[..., Any])
_WORDS = "microgpt_trace.words"
_WRITES = ("out", "as_json", "plot", "html", "force", "schema")
# Options and commands of apr that are not there, and what does the same here.
COUNTERPARTS = {
    "--save-tensor": "use --save-aprt DIR or --save FILE; --layer STAGE chooses a stage, --verbose all",
    "--save-tensor-dir": "use --save-aprt DIR",
    "--save-tensor-layers": "use --save-aprt DIR with --layer, as in --layer 3",
    "--prompt": 'the text needs no option: microgpt trace model.gguf "Paris is"',
    "--interactive": "use --html FILE, which writes a page to explore in a browser",
    "--reference": "comparing two runs is `microgpt diff A B`",
    "--diff": "comparing two runs is `microgpt diff A B`",
    "parity": "use `microgpt diff A B`, and `microgpt diagnose DUMP MODEL` to find what is wrong",
    "check": "every `microgpt trace MODEL` checks itself, and --validate checks each event",
    "tensors": "use `microgpt inspect MODEL`, with --stats for statistics",
    "canary": "use `microgpt trace MODEL --save FILE`, and later `microgpt diff FILE MODEL`",
    "lint": "use `microgpt inspect MODEL --metadata`, and `microgpt trace MODEL` for its checks",
}


class Program(TyperGroup):
    """The commands together; its own options are flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_read_by(param, param.process_value) for param in super().get_params(ctx)]


class Command(TyperCommand):
    """A command whose options are held against each other before it is called."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_read_by(param, partial(self._read, param)) for param in super().get_params(ctx)]

    def _read(self, param: Any, ctx: Any, value: str) -> Any:
        """The value of a parameter, of the kind that its command says. Raises InputError for another."""
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
        asked = given(ctx)
        if "schema" in asked:
            self._refuse_beside_schema(asked)
        return super().invoke(ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """One that may be missing has its brackets already, around which Typer 0.29 puts some more."""
        pieces = super().collect_usage_pieces(ctx)
        return [each.removesuffix("...")[1:-1] if each.startswith("[[") else each for each in pieces]

    def _refuse_beside_schema(self, asked: dict[str, str]) -> None:
        chosen, arguments = getattr(self.callback, "schema_by", ((), ()))
        meant = ("schema", "out", *chosen, *arguments)
        refuse(asked, [name for name in asked if name not in meant], "--schema")
        named = [asked[name] for name in chosen if name in asked]
        if len(named) > 1:
            raise InputError(f"{named[0]} and {named[1]} exclude each other")


def schema_by(*names: str, arguments: Sequence[str] = ()) -> Callable[[Function], Function]:
    """Says which parameters of a command choose among the schemas that it may print, options of which one
    excludes another, and arguments by what they name."""

    def mark(function: Function) -> Function:
        function.schema_by = names, arguments  # type: ignore[attr-defined]
        return function

    return mark


def refuse(asked: Mapping[str, str], idle: Iterable[str], beside: str) -> None:
    """Raises InputError for an idle one of the parameters given, which would be ignored."""
    for name in idle:
        if name in asked:
            written = asked[name]
            what = written if written.startswith("-") else "a text" if "TEXT" in written else "an argument"
            raise InputError(f"{what} means nothing with {beside}")


def counterpart(message: str) -> str:
    """What to say in place of a message about an option or a command that is not there; "" of another one."""
    found = re.match(r"No such (?:option: |command ')([a-z-]+)", message)
    return f"{found[1]}: {COUNTERPARTS[found[1]]}" if found and found[1] in COUNTERPARTS else ""


def command_line(context: typer.Context) -> str:
    """The command as it was typed, quoted for a shell."""
    return " ".join(["microgpt", str(context.info_name), *map(quoted, context.meta[_WORDS])])


def same_command(
    context: typer.Context, more: Sequence[str], *, without: Collection[str] = (), of: str = "",
    only: Collection[str] | None = None,
) -> str:  # fmt: skip
    """The command with what was given but for some parameters, or only some of them, and more options; or
    another one `of` the same. Where it writes is left to who copies it."""
    params = {param.name: param for param in context.command.params}
    words: list[str] = []
    options: list[str] = []
    for name, spelled in given(context).items():
        if name in (*without, *_WRITES) or (only is not None and name not in only):
            continue
        value = context.params[name]
        values = list(map(str, value)) if isinstance(value, list | tuple) else [_as_said(value)]
        if params[name].param_type_name == "argument":
            words += values
        else:
            options += [spelled] if value is True else [part for each in values for part in (spelled, each)]
    return command(of or str(context.info_name), words, [*options, *more])


def _as_said(value: Any) -> str:
    return str(getattr(value, "value", value))


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
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(choice.value for choice in kind), lambda text: kind(text).value
    return "a text", str


def _spelled(param: Any) -> str:
    """How one writes a parameter: --out, or the word for an argument in the usage."""
    if param.param_type_name == "option":
        return max(param.opts, key=len)
    return (param.metavar or param.name.upper()).strip("[]")
