"""Options in general: empty paths, options with --schema, rules, usage, and groups of options."""

import inspect
import json
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import pytest
import typer
from support.commands import PARAMS, PROGRAM, microgpt, refusal

from microgpt_trace.cli.option_groups import flat, group, option, value_type
from microgpt_trace.cli.option_rules import RULES, SCHEMAS


def kind(command, param):
    """Return the type of a parameter's value, from the signature of the command."""
    options = inspect.signature(PROGRAM.commands[command].callback).parameters
    return value_type(options[param.name].annotation)[0] if param.name in options else bool  # --help


PATHS = [
    (command, param) for command, params in PARAMS.items() for param in params if kind(command, param) is Path
]
SCHEMA_BY = {
    "trace": ("validate", "as_jsonl"), "diff": ("weights", "prompts"), "patch": ("pairs",),
    "explain": ("by_writer",),
}  # fmt: skip
METHODS = {"attribute": ("method", "prompts")}  # the command chooses the schema by these options
BESIDE_SCHEMA = [
    (command, param)
    for command, params in PARAMS.items()
    if any(param.name == "schema" for param in params)
    for param in params
    if param.name not in ("schema", "out", *SCHEMA_BY.get(command, ()), *METHODS.get(command, ()))
]


def words(param, text):
    """Return the words that give a parameter."""
    if param.param_type_name == "argument":
        return [text]
    return [max(param.opts, key=len), *([] if param.is_flag else [text])]


def test_refuses_an_empty_path():
    for command, param in PATHS:
        before = (
            ["a"] if param.name in ("b", "model", "original") and param.param_type_name == "argument" else []
        )
        name = words(param, "")[0] or param.metavar.strip("[]")
        assert refusal(command, *before, *words(param, "")) == f"{name}: expected a file name, found nothing"


def test_an_empty_argument_is_a_text_not_the_model_of_the_current_folder(compared_folders, monkeypatch):
    monkeypatch.chdir(compared_folders["llama_gqa"])
    for command, *words in (["trace", "a"], ["attribute", "a"], ["patch", "a", "b"], ["explain", "loss[0]"]):
        assert refusal(command, "", *words).startswith("'': no such model")
    assert json.loads(microgpt("trace", "", "--json").out)["model"]["family"] == "microgpt"


def test_refuses_other_options_with_schema():
    for command, param in BESIDE_SCHEMA:
        of = kind(command, param)
        given = words(param, get_args(of)[0] if get_origin(of) is Literal else "1")
        written = given[0] if param.param_type_name == "option" else "an argument"
        assert refusal(command, "--schema", *given) == f"{written} cannot be combined with --schema"


@pytest.mark.parametrize("command", SCHEMA_BY)
def test_accepts_options_that_select_the_schema(command, tmp_path):
    params = [param for param in PARAMS[command] if param.name in SCHEMA_BY[command]]
    choices = [[], *(words(param, "") for param in params)]
    choices = [[word or "no-file.txt" for word in choice] for choice in choices]
    printed = [microgpt(command, "--schema", *choice).out for choice in choices]
    assert len({json.loads(text)["title"] for text in printed}) == len(choices)
    microgpt(command, "--schema", "--out", tmp_path / "schema.json")
    assert (tmp_path / "schema.json").read_text() == printed[0]
    if len(params) > 1:
        both = [word for choice in choices for word in choice]
        assert " cannot be combined with --" in refusal(command, "--schema", *both)


def test_a_method_selects_the_schema_of_an_attribution():
    plain, by_gradient, prompts = (
        json.loads(microgpt("attribute", "--schema", *words).out)["$id"]
        for words in ((), ("--method", "gradient"), ("--prompts", "no-file.txt"))
    )
    assert (plain, by_gradient) == ("microgpt.attribution/1", prompts)


def test_rules_name_options_of_their_command():
    """A rule for an option that was renamed would never apply."""
    named = {command: {"--schema", *choices} for command, (_, choices) in SCHEMAS.items()}
    for command, rules in RULES.items():
        fields = [(field,) if isinstance(field, str) else field for rule in rules for field in rule[:2]]
        words = {word for field in fields for text in field for word in text.split()}
        named[command] = named.get(command, set()) | words
    for command, words in named.items():
        params = PARAMS[command]
        known = {name for param in params for name in [*param.opts, (param.metavar or "").strip("[]")]}
        assert words - known == set(), command


def test_usage_has_single_brackets_and_help_precedes_errors():
    assert " [OPTIONS] [MODEL] [TEXT] " in microgpt("trace --help").out
    assert " [OPTIONS] [MODEL] CLEAN CORRUPT " in microgpt("patch --help").out
    assert microgpt("trace --save '' --help").code == 0


# --- Groups of options --------------------------------------------------------------------------


@group("Sizes")
class Size:
    width: int = option("How wide.", default=3)
    height: int = option("How high.", "--tall", default=4)


@group()
class Room(Size):
    height: int = option("From floor to ceiling.", "--tall", default=4)


def command_of(function):
    app = typer.Typer()
    app.command()(flat(function))
    return typer.main.get_command(app)


def test_a_group_is_replaced_by_its_options():
    def measure(context: typer.Context, *, name: Annotated[str, typer.Argument()], size: Size, deep: int = 5):
        """How big it is."""
        assert context.info_name == "measure"
        return name, size.width, size.height, deep

    command = command_of(measure)
    assert [param.name for param in command.params][:4] == ["name", "width", "height", "deep"]
    assert command.help == "How big it is."
    called = command(["a", "--tall", "9"], standalone_mode=False, prog_name="measure")
    assert called == ("a", 3, 9, 5)


def test_a_subclass_overrides_an_option_and_duplicates_are_refused():
    def measure(*, room: Room) -> None: ...

    def twice(*, one: Size, other: Room) -> None: ...

    helps = {param.name: getattr(param, "help", None) for param in command_of(measure).params}
    assert (helps["width"], helps["height"]) == ("How wide.", "From floor to ceiling.")
    with pytest.raises(ValueError, match="duplicate parameter name"):
        flat(twice)


@pytest.mark.parametrize("words", ["trace emma --json", "explain wte[0,0] emma --json", "inspect --json"])
def test_out_dash_is_standard_output(words):
    plain = microgpt(*words.split())
    assert plain.code == 0
    assert plain.out
    assert microgpt(*words.split(), "--out", "-") == plain


@pytest.mark.parametrize("memory", ["1e308", "inf", "1e400", "9" * 400])
def test_memory_larger_than_any_computer_keeps_all_weights(memory, compared_folders):
    one, other = (
        microgpt("trace", compared_folders["llama_gqa"], "ab", "--memory", own) for own in (memory, 1)
    )
    assert (one.code, one.out) == (0, other.out)
