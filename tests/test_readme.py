"""Run the commands and the Python code of README.md and docs/, and compare their output with the pages."""

import io
import re
import shlex
import xml.etree.ElementTree as ET
from contextlib import redirect_stdout
from importlib.util import find_spec

import pytest
from support.commands import Done, microgpt
from support.page_files import FILES, OF_SMOLLM2, write_files
from support.page_needs import needs_and_makes, that_run
from support.pages import PAGES, README, ROOT, assert_shown, close, examples, links, prose, read
from support.real_model import SMOLLM2
from support.sweeps import in_sweep

import microgpt_trace
from microgpt_trace.cli import COMMANDS

# Pages that train for thousands of steps or analyse SmolLM2: 4 to 11 s each.
SLOW = ("certify", "figures", "interpret", "learn", "library", "which-layer-broke-my-port")
WITH_EXAMPLES = [in_sweep(page) if page.stem in SLOW else page for page in PAGES if examples(read(page))]
# Commands that find a fault or a difference, with exit code 1.
DIFFERS = re.compile(
    r"(diff|diagnose|certify) .*(export|port|converted|(seven|second).survey.safetensors)\b"
    r"(?!.*--suggest-map)"
)
SVG_TEXT = "{http://www.w3.org/2000/svg}text"


# What an example has that needs a package
PACKAGES = {
    "transformers": "transformers", "llama_cpp": "record_llama_cpp(", "onnxscript": "onnx.export(",
    "onnxruntime": "record_onnx(",
}  # fmt: skip


def exit_code(command):
    return 2 if "José" in command else 1 if DIFFERS.search(command) else 0


def can_run(example):
    """Return True if the packages and the model that an example needs are installed."""
    lacks_model = SMOLLM2 is None and needs_and_makes(example)[0] & set(OF_SMOLLM2)
    return not lacks_model and all(find_spec(name) for name, has in PACKAGES.items() if has in example.text)


def run(example, names):
    if example.language == "python":
        with redirect_stdout(io.StringIO()) as out:
            exec(example.text, names)
        return Done(0, out.getvalue(), "")
    words = shlex.split(example.text.replace("make trace", "microgpt trace emma"))
    assert words[0] == "microgpt", example.text
    return microgpt(shlex.join(words[1:]))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch.onnx.export
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    of_page, names = examples(read(page)), {"__name__": "__main__"}
    write_files(of_page, tmp_path)
    runnable = that_run(of_page, can_run, FILES)
    for example in runnable:
        result = run(example, names)
        print(example.text, result.code, result.err)
        assert result.code == (exit_code(example.text) if example.language == "console" else 0)
        assert_shown(example.shown, (result.out or result.err).splitlines())
    if page.stem == "figures":
        assert_figures(page, tmp_path)
    if runnable != of_page:
        pytest.skip("examples of a page need a package or model that is not installed")


INVENTED = """
```python
import rare
theirs = rare.record("model", "steps")
```

```console
$ microgpt diff steps/step0.npz model
$ microgpt trace model --out trace.json
$ microgpt diagnose steps model --json --out cause.json
$ microgpt explain cause.json
```

```python
print(theirs)
```

```python
import json
theirs = json.loads(open("trace.json").read())
```

```python
print(theirs)
```

```console
$ microgpt trace model --out cause.json
$ microgpt explain cause.json
```
"""


def test_an_example_is_left_out_with_those_that_need_its_files_or_names():
    of_page = examples(INVENTED)
    runnable = that_run(of_page, lambda example: "rare" not in example.text, ["model"])
    assert runnable == [of_page[index] for index in (2, 6, 7, 8, 9)]
    assert that_run(of_page, lambda _: True) == of_page


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
