"""Write docs/commands.md, the help of every command as Markdown: python docs/write_commands.py"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from microgpt_trace.cli import COMMANDS, build

TARGET = Path(__file__).with_name("commands.md")
HEAD = """# Commands

This page lists every command and the options that `microgpt COMMAND --help` prints. You can give a repeatable
option several times. The [other pages](README.md) show examples. The page [when something is
wrong](when-something-is-wrong.md) explains exit codes, errors and limits.

```console
$ microgpt --help
...
```"""
NAMES = """## Names of values

Every value of a run has one name, which all commands and the library use. `microgpt trace emma --verbose
--json` prints these names.

| name | value |
|---|---|
| `layer0.attn.weights` | an event |
| `layer0.attn_wq` | a parameter |
| `'layer*.attn.q'`, `'*.head?'` | all events that match the glob |
| `layer0.attn.head2` | the output of one attention head |
| `3`, `blk.3`, `model.layers.3` | all events of layer 3 |
| `ffn_up`, `attn_scores` | a stage of apr trace |
| `'NAME[3,0:8]'` | a part of an array, by indices and ranges as in Python |
| `NAME@3`, `NAME@-1`, `NAME@0-2,4` | one or several positions of an event |
| `NAME@3:5` | channel 5 of position 3 of an event |
| `'logits[-1,a]'`, `'probs[4,␣Paris]'` | the logit or probability of a token |

`--layer` selects whole events by name, glob, layer or stage. `--show` also accepts parameters, and indices
of a part of an array. `explain` accepts the name of one number.
[Interventions](interpret.md#what-does-head-2-do) accept all names except the names of parameters."""
TRACE = """## The output of trace

The trace of a microGPT has four stages: embedding, attention, MLP and language model head. Each row of a
stage describes one operation: the shape, the [L2 norm](glossary.md#measures) and the range of the result.
Below the stages, the trace prints the predictions, the insights under "What the trace reveals", and the
self-check. [Learn how a GPT works](learn.md) explains the stages.

```console
$ microgpt trace emma
...
```

<details><summary>The whole output, in colour</summary>

![The output of microgpt trace emma](trace.svg)

</details>

Every insight is the result of a test on the measured numbers, so the trace of another model can contain
other insights. For example, one test compares the probability of the text under the model and under a
uniform guess. If the model's probability is at least 20 times as high, the trace says that the predictions
are better than a uniform guess. If the model's probability is at least 20 times lower, the trace says that
the predictions are worse. By chance alone, a ratio of 20 occurs for at most one of 20 texts.

The self-check tests the numbers of the current run. For example, the self-check compares the traced logits
with the logits of a second run without hooks. Another check tests that the outputs of the attention heads
sum to the attention output. If a check fails, the command prints the check in red and ends with exit code 1.

`--verbose` shows every event, such as q, k, v and scores, with more statistics. `--backward` shows the
gradient of every value and parameter. `--show` prints a whole tensor, or a part of a tensor: `--show
'layer0.attn.weights[1]'`. With `--layer` or `--show`, the output begins with the selected events or tensors
and contains no insights. The output always reports failed checks, anomalies and changed inputs.

The statistics of attention scores and weights cover only the entries that the mask allows: the entries on
and below the diagonal. The attention maps of a trace take about 24 lines in total. If the maps of all heads
do not fit, the trace shows the heads with the largest weight after position 0, and names the option that
shows the other heads.

```console
$ microgpt trace --verbose --json
{
  "schema": "microgpt.trace/1",
...
```"""
ESCAPED = "\\["  # "[", escaped for rich


def page() -> str:
    """Return the page: a list of the commands, then each command with its arguments and options."""
    commands = typer.main.get_command(build(COMMANDS)).commands  # type: ignore[attr-defined]
    summaries = {name: _plain(command.help.partition("\n")[0]) for name, command in commands.items()}
    listed = "\n".join(f"- [{name}](#{name}): {text}" for name, text in summaries.items())
    parts = [HEAD, listed, NAMES, TRACE, *(part for item in commands.items() for part in _command(*item))]
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any) -> Iterator[str]:
    panels: dict[str, list[Any]] = {"Arguments": []}
    for param in command.params:
        if not getattr(param, "hidden", False):
            panels.setdefault(param.rich_help_panel or "Arguments", []).append(param)
    yield f"## {name}"
    yield f"`{' '.join(['microgpt', name, *(param.metavar for param in panels['Arguments']), '[OPTIONS]'])}`"
    yield _plain(command.help)
    for panel, params in panels.items():
        if params:
            yield "\n".join([f"| {panel} | |", "|---|---|", *map(_row, params)])
    yield "\n".join(f"- `{text.replace(ESCAPED, '[')}`" for text in command.epilog.split("\n\n")[1:])


def _row(param: Any) -> str:
    default = param.show_default if isinstance(param.show_default, str) else ""
    if not default and param.default not in (None, False, ""):
        default = str(param.default)
    names = [", ".join(sorted(param.opts, key=len, reverse=True))] * (param.param_type_name == "option")
    value = [param.metavar.replace("|", "\\|")] if param.metavar else []
    text = _plain(param.help) + (f" Default: {_plain(default)}." if default else "")
    return f"| `{' '.join([*names, *value])}` | {text} |"


def _plain(text: str) -> str:
    """Return text of --help as Markdown: escape what Markdown would read, and drop the escapes for rich."""
    return re.sub(r"([*_<|])", r"\\\1", text.replace(ESCAPED, "["))


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8", newline="\n")
