"""A printed command line gives the original words when a shell reads it."""

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
def test_bash_reads_the_original_words():
    line = " ".join(["printf '%s\\0'", *map(quoted, AWKWARD)])
    done = subprocess.run([BASH, "-c", line], capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True)
    assert done.stdout.decode().split("\0")[:-1] == AWKWARD


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
@example("it's a 'test'")
def test_printable_words_are_quoted_for_every_shell(word):
    if word.isprintable():
        assert shlex.split(quoted(word)) == [word]
    assert quoted(word).isprintable()


def test_an_argument_with_a_dash_is_not_taken_for_an_option():
    assert command("trace", ["emma"], ["--model", "a.b"]) == "microgpt trace emma --model a.b"
    assert command("trace", ["-x"], ["--model", "a b"]) == "microgpt trace --model 'a b' -- -x"


def run_printed(line):
    """Run a command as it was printed."""
    program, *words = shlex.split(line)
    assert program == "microgpt"
    return microgpt(*words)


NAMES = "New York\nO'Hara\nAgent 007\n-x-y\n$HOME\n3 6 9\n"


@pytest.fixture
def awkward(tmp_path, monkeypatch):
    """Return a function that trains on names with spaces, quotes and digits."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "the data.txt").write_text(NAMES)
    words = ["--data", "the data.txt", "--vocab", "data", "--out", "c 1.safetensors", "--steps", "3"]
    return lambda *more, **options: microgpt("train", *words, *more, **options)


@pytest.mark.parametrize("name", NAMES.split("\n"))
def test_the_next_command_of_train_runs_as_printed(awkward, name):
    line = awkward(f"--watch={name}", width=40).out.splitlines()[-1].removeprefix("trace it    ")
    again = run_printed(line)
    assert again.code == 0, again.err
    assert f'Input: "{name}"' in again.out


def test_the_next_command_of_explain_runs_as_printed(awkward):
    assert awkward().out.splitlines()[-1].endswith("microgpt trace 'New York' --model 'c 1.safetensors'")
    done = microgpt("explain", "probs[-1,␣]", "New York", "--model", "c 1.safetensors")
    line = done.out.splitlines()[-1].removeprefix("Next: ")
    assert run_printed(line).code == 0
    assert "'New York' --model 'c 1.safetensors'" in line


def test_commands_in_messages_are_quoted(awkward):
    awkward()
    line = refusal("train", "--out", "c 1.safetensors")
    assert "--resume 'c 1.safetensors' continues the training" in line
    line = refusal("diagnose", "c 1.safetensors", "c 1.safetensors")
    assert "`microgpt trace 'c 1.safetensors' --save FILE`" in line
    line = refusal("explain", "d logits[-1, ]", "New York", "--model", "c 1.safetensors")
    assert "write 'logits[-1, ]' and add --backward" in line
