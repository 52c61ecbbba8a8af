"""Two models compared on many prompts."""

import pytest

from microgpt_trace.comparison.prompts import diff_prompts, read_prompts
from microgpt_trace.errors import FileFormatError, InputError


@pytest.mark.parametrize(
    ("content", "prompts"),
    [
        ('emma\n\n[1, 2]\n"a\\nb"\n[INST] hi\n', ["emma", [1, 2], "a\nb", "[INST] hi"]),
        ("\ufeffemma\r\na\u2028b\x0cc\r\n", ["emma", "a\u2028b\x0cc"]),
    ],
)
def test_one_prompt_is_read_per_line(tmp_path, content, prompts):
    (tmp_path / "p.txt").write_bytes(content.encode())
    assert read_prompts(tmp_path / "p.txt") == prompts


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "found none"), (b"[1.5]", "line 1"), (b"\xff", "expected UTF-8"), (None, "no such file")],
)
def test_a_file_without_valid_prompts_is_refused(tmp_path, content, words):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileFormatError, match=words):
        read_prompts(path)


def test_every_prompt_is_compared(llama):
    a, b = llama
    with b.hooks.subscribe(lambda event, value: -value, "logits"):
        found = diff_prompts(a, b, [[1, 2, 3], "abc"]).prompts
    assert [(r.first, r.same, r.tokens) for r in found] == [("logits", False, 3)] * 2
    assert diff_prompts(a, b, [[1, 2, 3]]).same


def test_an_error_names_its_prompt(llama):
    with pytest.raises(InputError, match="prompt 2: "):
        diff_prompts(*llama, [[1, 2], [999]])
