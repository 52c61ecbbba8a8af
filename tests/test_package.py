"""The whole package: the modules that a command loads, and the public names."""

import builtins
import inspect
import pickle
import re
import typing
from pathlib import Path

import numpy as np
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
    assert "interpreter.run" in modules
    assert "microgpt.forward_backward" not in modules
    assert not {"decoder.config", "decoder.catalogue", "tracing.anomalies"} & modules
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
    assert 10 <= len(microgpt_trace.__all__) <= 39
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
        assert typing.Any not in hints.values() or name in ("record", "record_onnx"), name  # models


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'microgpt_trace' has no attribute 'nothing'"):
        microgpt_trace.nothing  # noqa: B018


def test_the_mathematics_uses_no_files_and_no_screen():
    microgpt = ("operations", "forward_backward", "parameters")
    for module in ("arrays/stats.py", "hooks/bus.py", *(f"microgpt/{name}.py" for name in microgpt)):
        text = (PACKAGE / module).read_text(encoding="utf-8")
        assert not re.search(r"\bprint\(|\bopen\(|pathlib|\btokenizer\b import", text), module


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("trace(None)", "model: expected LanguageModel, found None"),
        ("trace(model, 'emma', names=3)", "names: expected Sequence[str] | None, found 3"),
        (
            "trace(decoder, tokens=np.array([[1, 2]]))",
            "tokens: expected Sequence[int] | None, found [[1, 2]]",
        ),
        ("trace(decoder, tokens=[1.5])", "tokens: expected Sequence[int] | None, found [1.5]"),
        ("trace(decoder, 'ab', values=3)", "values: expected bool | Sequence[str] | None, found 3"),
        ("trace(decoder, 'ab', generate=1, temperature=None)", "temperature: expected float, found None"),
        ("certify(None, folder)", "export: expected str | Path, found None"),
        ("certify(folder, folder, texts=3)", "texts: expected Sequence[str], found 3"),
        ("load(3)", "path: expected str | Path, found 3"),
        ("diff(decoder, decoder, 'ab', rtol='x')", "rtol: expected float | None, found 'x'"),
        ("diff(None, decoder)", "a: expected str | "),
        ("survey(model, None)", "corpus: expected str | Path | Sequence[str] | CorpusSelection, found None"),
        ("gradcheck(None)", "model: expected LanguageModel, found None"),
        ("sample(model, temperature=None)", "temperature: expected float, found None"),
        ("plot_attention(None)", "trace: expected Trace, found None"),
        ("load('llama3.2:1b')", "no such model; expected a file or folder; a model of a hub must be"),
        ("load('folder/x.gguf')", "folder/x.gguf: no such file"),
    ],
)
def test_a_wrong_type_is_an_error_that_names_the_argument(call, message, compared_folders):
    folder = compared_folders["llama_gqa"]
    names = {
        "model": microgpt_trace.init(),
        "decoder": microgpt_trace.load(folder),
        "folder": folder,
        "np": np,
    }
    names |= {name: getattr(microgpt_trace, name) for name in microgpt_trace.__all__}
    with pytest.raises(microgpt_trace.MicrogptError) as caught:
        eval(call, names)
    print(caught.value)
    assert message in str(caught.value)


def test_other_errors_of_python_stay_and_functions_can_be_pickled(decoders):
    trace, model = microgpt_trace.trace, decoders("llama_gqa")[0]
    for wrong in ({"missing": 1}, {"interventions": [object()]}):
        with pytest.raises((TypeError, AttributeError)):
            trace(model, tokens=np.array([1, 2], np.uint8), **wrong)
    with pytest.raises(ZeroDivisionError):
        trace(model, tokens=[1, 2], backward=True, parameters=["*"], on_gradient=lambda *given: 1 / 0)
    assert pickle.loads(pickle.dumps(trace)) is trace
    assert inspect.signature(trace).parameters["temperature"].default == 0.0
