"""Writes docs/commands.md, what --help says of every command, as Markdown: python docs/write_commands.py"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from microgpt_trace.cli import COMMANDS, build

TARGET = Path(__file__).with_name("commands.md")
HEAD = """# Commands

Every command with its options, as `microgpt COMMAND --help` shows them. An option marked + may be given several
times. The [other pages](README.md) have examples. Exit codes, errors and limits are in
[when something is wrong](when-something-is-wrong.md).

```console
$ microgpt --help
...
```

## Names of values

Every value of a run has one name, in all commands and in the library. `microgpt trace emma --verbose --json` lists the names.

| name | value |
|---|---|
| `layer0.attn.weights` | an event |
| `layer0.attn_wq` | a parameter |
| `'layer*.attn.q'`, `'*.head?'` | all events that match the glob |
| `layer0.attn.head2` | what one attention head writes |
| `3`, `blk.3`, `model.layers.3` | all events of layer 3 |
| `ffn_up`, `attn_scores` | a stage of apr trace |
| `'NAME[3,0:8]'` | a part by its indices; a range is written as in Python |
| `NAME@3`, `NAME@-1`, `NAME@0-2,4` | some positions of it |
| `NAME@3:5` | channel 5 of position 3 |
| `'logits[-1,a]'`, `'probs[4,␣Paris]'` | a token as a channel |

`--layer` selects whole events, by name, glob, layer or stage. `--show` also prints parameters, and parts by their indices.
`explain` takes one number. [Interventions](interpret.md#what-does-head-2-do) take all of these names except parameters."""
NUMBERS = {int: "N", float: "X"}
ESCAPED = "\\["  # a bracket where rich reads markup


def page() -> str:
    """The page: a list of the commands, then each with its arguments and options."""
    commands = typer.main.get_command(build(COMMANDS)).commands  # type: ignore[attr-defined]
    first = {name: _plain(command.help.partition("\n")[0]) for name, command in commands.items()}
    listed = "\n".join(f"- [{name}](#{name}): {text}" for name, text in first.items())
    parts = [HEAD, listed, *(part for item in commands.items() for part in _command(*item))]
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    arguments = [param for param in shown if param.param_type_name == "argument"]
    yield f"## {name}"
    yield f"`{' '.join(['microgpt', name, *map(_argument, arguments), '[OPTIONS]'])}`"
    yield _plain(command.help)
    shown.sort(key=lambda param: getattr(param, "rich_help_panel", None) or "")
    for panel, params in groupby(shown, lambda param: getattr(param, "rich_help_panel", None)):
        yield "\n".join(
            [
                f"| {panel or ''} | |",
                "|---|---|",
                *(_row(param, command.kinds[param.name][0]) for param in params),
            ]
        )
    if command.epilog:
        yield "\n".join(map(_try, command.epilog.removeprefix("Examples: ").split(" · ")))


def _try(text: str) -> str:
    """A command line, which is there to be copied, or words."""
    return f"- `{text.replace(ESCAPED, '[')}`" if text.startswith("micro") else f"- {_plain(text)}"


def _argument(param: Any) -> str:
    name: str = param.metavar or param.name.upper()
    return name if param.metavar or param.required else f"[{name}]"


def _row(param: Any, kind: Any) -> str:
    default = param.show_default if isinstance(param.show_default, str) else ""
    if not default and param.default not in (None, False, "") and not param.required:
        default = str(param.default)
    text = _plain(param.help) + (f" Default: {_plain(default)}." if default else "")
    return f"| `{_written(param, kind)}`{' +' if getattr(param, 'multiple', False) else ''} | {text} |"


def _written(param: Any, kind: Any) -> str:
    """An argument, or an option with its short name and what stands behind it."""
    if param.param_type_name == "argument":
        return _argument(param)
    names = ", ".join(sorted(param.opts, key=len, reverse=True))
    return names if param.is_flag else f"{names} {_value(param, kind)}"


def _value(param: Any, kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "\\|".join(get_args(kind))
    return param.metavar or NUMBERS.get(kind, "TEXT")


def _plain(text: str) -> str:
    """Text of --help as Markdown: what rich reads as markup, or Markdown would, is escaped."""
    return re.sub(r"([*_<|])", r"\\\1", text.replace(ESCAPED, "["))


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8", newline="\n")
