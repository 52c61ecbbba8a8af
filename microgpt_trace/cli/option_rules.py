"""Rules about options that need or exclude other options. Every command checks its rules before it runs.
An option for one family of models needs no rule here, because the option has the attribute `family`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from ..errors import InputError
from ..tracing.options import OF_LOGITS, TRACE_RULES, Conflict, Needs, described

_JSON = ("--json", "--jsonl")
_FORCE = Needs("--force", ("--html", "--plot"), "--force allows overwriting files")
_OF_THE_RUN = (
    "MODEL", "TEXT", "--model", "--tokens", "--seed", "--n-head", "--bos", "--rope-pairs", "--set",
    "--payload",
)  # fmt: skip
_OF_EVENTS = ("TEXT", "--tokens", "--positions", "--map", "--layout", "--plot")
_BANDS = ("--compute", "--calibrate", "--factor", "--atol")

# The rules of each command. Arguments have the names that the usage shows, such as TEXT.
RULES: dict[str, tuple[Conflict | Needs, ...]] = {
    "trace": (
        Conflict(
            (), ("--validate",),
            but_for=("--schema", "--layer", "--verbose", "--json", "--out", "--force", *_OF_THE_RUN),
        ),
        Conflict(("--verbose",), ("--validate --json",)),
        Conflict(("--jsonl",), ("--json",)),
        Needs("--values", _JSON, "--values is for JSON; --show prints arrays, and --save saves arrays"),
        Conflict(("--show",), _JSON, "to add arrays to the JSON, use --layer NAME --values"),
        Conflict(("--brief",), _JSON, "a JSON document is always complete"),
        Needs("--force", ("--save", "--out", "--html", "--plot"), "--force allows overwriting files"),
        Needs("--html-budget", ("--html",), "--html-budget limits the size of the page"),
        *(rule.on_command_line() for rule in TRACE_RULES),
        Conflict(("--special",), ("--chat",), "--chat always parses special tokens"),
    ),
    "diff": (
        Conflict(("--prompts",), ("--weights",)),
        Conflict(("--suggest-map",), ("--weights", "--prompts")),
        Conflict(
            ("--weights", "--prompts", "--suggest-map", "--calibrate", "--factor", "--rtol", "--atol"),
            ("--model",),
        ),
        Conflict((*_OF_EVENTS, *_BANDS), ("--weights",)),
        Conflict((*_OF_EVENTS, "--verbose"), ("--prompts",)),
        Conflict(
            ("--positions", "--layer", "--verbose", "--json", "--map", "--layout", "--rtol", "--plot",
             "--html", "--force", *_BANDS),
            ("--suggest-map",),
        ),
        Conflict(("--verbose",), ("--json",)),
        _FORCE,
    ),
    "diagnose": (Conflict(("--verbose",), ("--json",)), _FORCE),
    "explain": (
        Conflict(("--backward", "--plot"), ("--by-writer",)),
        Needs("--target", ("--backward",), "--target names the token of a gradient"),
        *(rule.on_command_line() for rule in OF_LOGITS),
        _FORCE,
    ),
    "attribute": (
        Conflict(("--top",), ("--json",)),
        Conflict(("TEXT", "--tokens", "--neurons", "--no-ablation"), ("--prompts",)),
        Needs("--neurons", ("--method",), "neurons are attributed by gradients"),
        Needs("--baseline", ("--method",), "--baseline is for --method integrated"),
        _FORCE,
    ),
    "patch": (
        Conflict(("--confirm", "--neurons"), ("--pairs",), "estimates of pairs are only means"),
        Conflict(("--sender", "--receiver"), ("--sites", "--method", "--pairs"), "a path is one exact patch"),
        Needs("--sender", ("--receiver",), "a path leads to a receiver"),
        Needs("--receiver", ("--sender",), "a path begins at a sender"),
        _FORCE,
    ),
    "timeline": (_FORCE,),
    "learn": (Needs("--limit", ("--class",), "--limit is the number of names of a class"),),
    "certify": (
        Needs("--confirm", ("--by-tensor",), "--confirm is the number of tensors to compute exactly"),
        Needs("--plot", ("--by-tensor",), "the figure shows the effect of each tensor"),
        _FORCE,
    ),
    "train": (Needs("--trace-every", ("--log",), "--trace-every adds traces to the log"),),
    "survey": (Needs("--imatrix-output", ("--imatrix",), "--imatrix names the file to write"),),
}  # fmt: skip

# For each command, the document whose schema --schema prints, and the options that select another document.
SCHEMAS: dict[str, tuple[str, dict[str, str]]] = {
    "trace": ("trace", {"--validate": "validation", "--jsonl": "trace_line"}),
    "certify": ("certificate", {}),
    "diff": ("diff", {"--weights": "weights", "--prompts": "prompts"}),
    "diagnose": ("diagnosis", {}),
    "explain": ("explanation", {"--by-writer": "score_writers"}),
    "attribute": ("attribution", {}),
    "patch": ("patch", {"--pairs": "patch_pairs"}),
    "timeline": ("timeline", {}),
    "inspect": ("inspect", {}),
}

# These arguments, or the files that they name, determine the schema of a command.
# If one of these arguments is given, the command itself prints the schema.
FILES = {"diff": ("A", "B"), "survey": ("MODEL CORPUS",), "attribute": ("--method", "--prompts")}

# Options and commands of apr that microgpt does not have, with advice on alternatives.
COUNTERPARTS = {
    "--save-tensor": "use --save-aprt DIR or --save FILE, with --layer STAGE or, for all stages, --verbose",
    "--save-tensor-dir": "use --save-aprt DIR",
    "--save-tensor-layers": "use --save-aprt DIR with --layer, as in --layer 3",
    "--prompt": 'the text needs no option: microgpt trace model.gguf "Paris is"',
    "--interactive": "use --html FILE, which writes a page to explore in a browser",
    "--reference": "use `microgpt diff A B` to compare two runs",
    "--diff": "use `microgpt diff A B` to compare two runs",
    "parity": "use `microgpt diff A B`, and `microgpt diagnose DUMP MODEL` to find what is wrong",
    "check": "every `microgpt trace MODEL` checks itself; add --validate to check each event",
    "tensors": "use `microgpt inspect MODEL`, with --stats for statistics",
    "canary": "use `microgpt trace MODEL --save FILE`, and later `microgpt diff FILE MODEL`",
    "lint": "use `microgpt inspect MODEL --metadata`, and `microgpt trace MODEL` for its checks",
}


def check_combination(command: str, names: Sequence[str]) -> None:
    """Raise InputError if the options with the spellings `names` break a rule of the command."""
    _, choices = SCHEMAS.get(command, ("", {}))
    schema = Conflict((), ("--schema",), but_for=("--out", *choices, *FILES.get(command, ())))
    for rule in (schema, *RULES.get(command, ())):
        if broken := rule.broken(names):
            raise InputError(f"{broken}: {rule.reason}" if rule.reason else broken)


def refuse(names: Mapping[str, str], beside: str, but_for: Collection[str]) -> None:
    """Raise InputError if the user gave a parameter that is not in `but_for`. `beside` names the conflicting
    request, such as "two surveys"."""
    for name, spelling in names.items():
        if name not in but_for:
            raise InputError(f"{described(spelling)} cannot be combined with {beside}")


def requested_schema(command: str, names: Sequence[str]) -> str:
    """Return the document whose schema is printed, or "" without --schema or if the command selects it."""
    if "--schema" not in names or command not in SCHEMAS or set(FILES.get(command, ())) & set(names):
        return ""
    own, others = SCHEMAS[command]
    return next((others[option] for option in others if option in names), own)


def counterpart(message: str) -> str:
    """Return advice if an error of Click is about an option or a command of apr, else ""."""
    match = re.match(r"No such (?:option: |command ')([a-z-]+)", message)
    return f"{match[1]}: {COUNTERPARTS[match[1]]}" if match and match[1] in COUNTERPARTS else ""
