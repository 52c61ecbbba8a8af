"""Which options of a command need others, and beside which they mean nothing: one table, held against what
was given before a command runs. What only one family of models can do is told by the panel of an option."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ..errors import InputError


class Idle(NamedTuple):
    """Options that mean nothing beside any of some others; without `options` all mean nothing but a few.
    "--a --b" are two that stand together."""

    options: tuple[str, ...]
    beside: tuple[str, ...]
    reason: str = ""
    but_for: tuple[str, ...] = ()

    def broken(self, asked: Sequence[str]) -> str:
        """What is wrong with the options that are `asked`, "" if nothing is."""
        for others in map(str.split, self.beside):
            for option in self.options or asked:
                if option in asked and option not in (*others, *self.but_for) and {*others} <= {*asked}:
                    return f"{_written(option)} means nothing with {' and '.join(others)}"
        return ""


class Needs(NamedTuple):
    """An option that changes nothing without one of some others."""

    option: str
    one_of: tuple[str, ...]
    reason: str = ""

    def broken(self, asked: Sequence[str]) -> str:
        """What is wrong with the options that are `asked`, "" if nothing is."""
        if self.option not in asked or set(self.one_of) & set(asked):
            return ""
        return f"{self.option} needs {' or '.join(self.one_of)}"


_JSON = ("--json", "--jsonl")
_FORCE = Needs("--force", ("--html", "--plot"), "it lets them overwrite")
_OF_THE_RUN = (
    "MODEL", "TEXT", "--model", "--tokens", "--seed", "--n-head", "--bos", "--rope-pairs", "--set",
    "--payload",
)  # fmt: skip
_OF_EVENTS = ("TEXT", "--tokens", "--positions", "--map", "--layout", "--plot")
_BANDS = ("--compute", "--calibrate", "--factor", "--atol")

# By the names of commands; arguments by their names in the usage.
RULES: dict[str, tuple[Idle | Needs, ...]] = {
    "trace": (
        Idle(
            (), ("--validate",),
            but_for=("--schema", "--layer", "--verbose", "--json", "--out", "--force", *_OF_THE_RUN),
        ),
        Idle(("--verbose",), ("--validate --json",)),
        Idle(("--jsonl",), ("--json",)),
        Needs("--values", _JSON, "it adds the arrays to them; --show prints one, --save saves them"),
        Idle(("--show",), _JSON, "use --layer NAME --values"),
        Idle(("--brief",), _JSON, "a JSON document is always whole"),
        Needs("--force", ("--save", "--out", "--html", "--plot"), "it lets them overwrite"),
        Needs("--html-budget", ("--html",), "it is the size of that page"),
        Needs("--target", ("--lens",), "it is the token that --lens follows"),
        Needs("--temperature", ("--generate",), "it draws the tokens"),
        Idle(("--special",), ("--chat",), "the template's special tokens are parsed in any case"),
    ),
    "diff": (
        Idle(("--prompts",), ("--weights",)),
        Idle(("--suggest-map",), ("--weights", "--prompts")),
        Idle((*_OF_EVENTS, *_BANDS), ("--weights",)),
        Idle((*_OF_EVENTS, "--verbose"), ("--prompts",)),
        Idle(
            ("--positions", "--layer", "--verbose", "--json", "--map", "--layout", "--rtol", "--plot",
             "--html", "--force", *_BANDS),
            ("--suggest-map",),
        ),
        Idle(("--verbose",), ("--json",)),
        _FORCE,
    ),
    "diagnose": (Idle(("--verbose",), ("--json",)), _FORCE),
    "explain": (_FORCE,),
    "attribute": (Idle(("--top",), ("--json",)), _FORCE),
    "patch": (_FORCE,),
    "timeline": (_FORCE,),
    "train": (Needs("--trace-every", ("--log",), "it adds traces to that log"),),
    "survey": (
        Needs("--resume", ("--out",), "it goes on with that file"),
        Idle(("--force",), ("--resume",), "a survey that goes on replaces its file in any case"),
        Needs("--imatrix-output", ("--imatrix",), "it adds to that file"),
    ),
}  # fmt: skip

# The document whose schema a command prints, and options that choose another one.
SCHEMAS: dict[str, tuple[str, dict[str, str]]] = {
    "trace": ("trace", {"--validate": "validation", "--jsonl": "trace_line"}),
    "diff": ("diff", {"--weights": "weights", "--prompts": "prompts"}),
    "diagnose": ("diagnosis", {}),
    "explain": ("explanation", {}),
    "attribute": ("attribution", {}),
    "patch": ("patch", {"--pairs": "patch_pairs"}),
    "timeline": ("timeline", {}),
    "inspect": ("inspect", {}),
}

# Arguments whose files choose the schema of a command, which then chooses it itself.
FILES = {"diff": ("A", "B"), "survey": ("MODEL CORPUS",)}

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


def check_combination(command: str, asked: Sequence[str]) -> None:
    """Raises InputError where the options that are given, as one writes them, break a rule of the command."""
    _, choices = SCHEMAS.get(command, ("", {}))
    schema = Idle((), ("--schema",), but_for=("--out", *choices, *FILES.get(command, ())))
    for rule in (schema, *RULES.get(command, ())):
        if broken := rule.broken(asked):
            raise InputError(f"{broken}: {rule.reason}" if rule.reason else broken)


def refuse(asked: Mapping[str, str], beside: str, but_for: Collection[str]) -> None:
    """Raises InputError for a parameter given that means nothing beside what is not an option: all but a
    few."""
    for name, written in asked.items():
        if name not in but_for:
            raise InputError(f"{_written(written)} means nothing with {beside}")


def schema_asked(command: str, asked: Sequence[str]) -> str:
    """The document whose schema is to be printed; "" if none is, or if files choose it."""
    if "--schema" not in asked or command not in SCHEMAS or set(FILES.get(command, ())) & set(asked):
        return ""
    own, others = SCHEMAS[command]
    return next((others[option] for option in others if option in asked), own)


def counterpart(message: str) -> str:
    """What to say in place of a message about an option or a command that is not there; "" of another one."""
    found = re.match(r"No such (?:option: |command ')([a-z-]+)", message)
    return f"{found[1]}: {COUNTERPARTS[found[1]]}" if found and found[1] in COUNTERPARTS else ""


def _written(option: str) -> str:
    """An option as one writes it, or what an argument is."""
    return option if option.startswith("-") else "a text" if option == "TEXT" else "an argument"
