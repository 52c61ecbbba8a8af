"""The whole package: the modules that a command loads, and the public names."""

import builtins
import inspect
import re
import typing
from pathlib import Path

import pytest
from support.commands import microgpt, process

import microgpt_trace
from microgpt_trace.cli import COMMANDS, build

PACKAGE = Path(microgpt_trace.__file__).parent


def test_importing_the_package_loads_no_numpy():
    assert (PACKAGE / "py.typed").exists()
    heavy = ("numpy", "rich", "typer", "safetensors", "torch", "matplotlib")
    done = process(code=f"import sys, microgpt_trace; print(*[m for m in {heavy} if m in sys.modules])")
    assert done == (0, "\n", "")


def loaded(*args):
    """Return the modules that are loaded when a command ends."""
    program = (
        "import atexit, sys\n"
        "from microgpt_trace.cli import main\n"
        "atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
        "main()"
    )
    return {m.removeprefix("microgpt_trace.") for m in process(*args, code=program).err.split()}


def test_a_trace_of_microgpt_loads_nothing_for_other_models():
    """Loading it would add 5 ms to 140 ms."""
    modules = loaded("trace", "emma")
    assert "microgpt.forward_backward" in modules
    assert not {"decoder.config", "architecture.catalogue", "tracing.anomalies"} & modules
    assert not {"matplotlib", "render.figures"} & modules
    assert "rich.columns" not in modules - loaded("--version")  # old versions of Typer load it themselves


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["trace", "emma", "--json"], {"trace"}),
        (["diff", "--help"], {"diff"}),
        (["--version"], {*COMMANDS}),
    ],
)
def test_loads_only_the_requested_command(args, expected):
    modules = {m.removeprefix("cli.") for m in loaded(*args) if m.startswith("cli.")}
    assert modules & {*COMMANDS} == expected


@pytest.mark.parametrize("args", ["--help", "-h", ""])
def test_help_lists_every_command(args):
    output = microgpt(args).out
    assert [name for name in COMMANDS if not re.search(rf"^\W*{name} +[A-Z]", output, re.MULTILINE)] == []


def test_builds_each_command_alone():
    for name in COMMANDS:
        assert name in build([name]).registered_commands[0].callback.__name__


def test_the_public_names_are_few_and_resolve():
    assert 10 <= len(microgpt_trace.__all__) <= 37
    assert microgpt_trace.__all__ == sorted(microgpt_trace.__all__)
    for name in microgpt_trace.__all__:
        assert getattr(microgpt_trace, name).__name__ == name
    names = dir(microgpt_trace)
    assert [name for name in names if not name.startswith("__")] == microgpt_trace.__all__
    assert names.count("__version__") == 1


def test_editors_complete_every_argument():
    for name in (name for name in microgpt_trace.__all__ if name[0].islower()):
        function = getattr(microgpt_trace, name)
        parameters = inspect.signature(function).parameters
        assert not {p for p in parameters.values() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}, name
        named = {*re.findall(r"\b[A-Z]\w+", str(function.__annotations__))} - {*function.__globals__}
        hints = typing.get_type_hints(function, localns=dict.fromkeys(named - {*vars(builtins)}, list))
        assert {*parameters, "return"} == {*hints}, name
        assert typing.Any not in hints.values(), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'microgpt_trace' has no attribute 'nothing'"):
        microgpt_trace.nothing  # noqa: B018


def test_the_mathematics_uses_no_files_and_no_screen():
    microgpt = ("operations", "forward_backward", "parameters", "batch")
    for module in ("arrays/stats.py", "hooks/bus.py", *(f"microgpt/{name}.py" for name in microgpt)):
        text = (PACKAGE / module).read_text(encoding="utf-8")
        assert not re.search(r"\bprint\(|\bopen\(|pathlib|\btokenizer\b import", text), module
