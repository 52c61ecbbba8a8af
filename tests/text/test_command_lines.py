"""Command lines that are printed to be copied give back the words that they stand for."""

import shlex
import shutil
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.commands import microgpt, refusal

from microgpt_trace.text.printable import command, quoted

BASH = shutil.which("bash")
AWKWARD = [
    "New York", "it's", 'say "hi"', "a$b", "`id`", "$(id)", "a;b", "*", "~", "", "-x", "--", "a\\b", "zoé",
    "␣Paris", "#7", "!", "tab\there",
    "line\nend", "\x1b[1A", "\u202eevil", "\U000e0041", "\x9b2K", "café's \\ \x07",
]  # fmt: skip


@pytest.mark.skipif(BASH is None, reason="there is no bash here")
def test_a_shell_reads_the_words_back():
    line = " ".join(["printf '%s\\0'", *map(quoted, AWKWARD)])
    done = subprocess.run([BASH, "-c", line], capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True)
    assert done.stdout.decode().split("\0")[:-1] == AWKWARD


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
@example("it's a 'test'")
def test_what_is_printable_is_quoted_for_every_shell(word):
    if word.isprintable():
        assert shlex.split(quoted(word)) == [word]
    assert quoted(word).isprintable()


def test_an_argument_is_no_option():
    assert command("trace", ["emma"], ["--model", "a.b"]) == "microgpt trace emma --model a.b"
    assert command("trace", ["-x"], ["--model", "a b"]) == "microgpt trace --model 'a b' -- -x"


def typed(line):
    """The words of a command that was printed."""
    words = shlex.split(line)
    assert words.pop(0) == "microgpt"
    return words


NAMES = "New York\nO'Hara\nAgent 007\n-x-y\n$HOME\n3 6 9\n"


@pytest.fixture
def awkward(tmp_path, monkeypatch):
    """A folder with names that have blanks, quotes and digits, and a checkpoint that learned them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "the data.txt").write_text(NAMES)
    words = ["--data", "the data.txt", "--vocab", "data", "--out", "c 1.safetensors", "--steps", "3"]
    return lambda *more, **how: microgpt("train", *words, *more, **how)


@pytest.mark.parametrize("name", NAMES.split("\n"))
def test_the_command_that_train_ends_with_runs_as_it_is_printed(awkward, name):
    line = awkward(f"--watch={name}", width=40).out.splitlines()[-1].removeprefix("trace it    ")
    again = microgpt(*typed(line))
    assert again.code == 0, again.err
    assert f'Input: "{name}"' in again.out


def test_so_does_the_next_command_of_explain(awkward):
    assert awkward().out.splitlines()[-1].endswith("microgpt trace 'New York' --model 'c 1.safetensors'")
    done = microgpt("explain", "probs[-1,␣]", "New York", "--model", "c 1.safetensors")
    line = done.out.splitlines()[-1].removeprefix("Next: ")
    assert microgpt(*typed(line)).code == 0
    assert "'New York' --model 'c 1.safetensors'" in line


def test_and_those_within_a_message(awkward):
    awkward()
    line = refusal("train", "--out", "c 1.safetensors")
    assert "--resume 'c 1.safetensors' goes on" in line
    line = refusal("diagnose", "c 1.safetensors", "c 1.safetensors")
    assert "`microgpt trace 'c 1.safetensors' --save FILE`" in line
    line = refusal("explain", "d logits[-1, ]", "New York", "--model", "c 1.safetensors")
    assert "name 'logits[-1, ]' and add --backward" in line
