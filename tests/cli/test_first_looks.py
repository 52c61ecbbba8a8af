"""What somebody sees who runs a command for the first time, or with the wrong file."""

import re
from io import StringIO

from support.commands import microgpt, refusal

from microgpt_trace.render.terminal.screen import Screen
from microgpt_trace.render.terminal.training_progress import progress


def test_the_first_frame_of_progress_says_only_what_is_known():
    screen = Screen(file=StringIO(), width=80, force_terminal=True, color_system=None, legacy_windows=False)
    with progress(100, 0, screen) as report:
        first = screen.file.getvalue()
        report(100, 0.01, [3.0, 2.0])
    assert "0/100" in first
    assert not re.search("nan|loss|lr|steps/s", first)
    assert "loss 2.500  lr 0.01" in screen.file.getvalue()


HINT = "--vocab data takes the characters of the data"


def test_names_with_other_characters_are_told_of_the_option(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "names.txt"
    words = "train --data names.txt --steps 1"
    data.write_text("emma\nNew York\n")
    (left_out,) = [line for line in microgpt(f"{words} --out a.safetensors").lines if "left out" in line]
    assert left_out.endswith(f"(first: line 2: 'New York'); {HINT}")
    data.write_text("日本\nNew York\nZoë\n")
    assert refusal(f"{words} --out b.safetensors").endswith(HINT)
    done = microgpt(f"{words} --out b.safetensors --vocab data")
    assert (done.code, HINT in done.err) == (0, False)
    data.write_text(f"emma\n{'a' * 40}\n")
    done = microgpt(f"{words} --out c.safetensors")  # too long, whatever the vocabulary
    assert (done.code, HINT in done.err) == (0, False)
