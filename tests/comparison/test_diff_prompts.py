"""Many prompts through two models."""

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
def test_prompts_are_a_line_each(tmp_path, content, prompts):
    (tmp_path / "p.txt").write_bytes(content.encode())
    assert read_prompts(tmp_path / "p.txt") == prompts


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "found none"), (b"[1.5]", "line 1"), (b"\xff", "expected UTF-8"), (None, "no such file")],
)
def test_prompts_that_cannot_be_read(tmp_path, content, words):
    path = tmp_path / "p.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileFormatError, match=words):
        read_prompts(path)


def test_every_prompt_is_compared(llama):
    a, b = llama
    with b.hooks.subscribe(lambda event, value: -value, "logits"):
        found = diff_prompts(a, b, [[1, 2, 3], "abc"]).prompts
    assert [(r.first, r.same) for r in found] == [("logits", False)] * 2
    assert [r.tokens for r in found] == [3, 3]
    assert diff_prompts(a, b, [[1, 2, 3]]).same


def test_a_prompt_that_does_not_fit_is_named(llama):
    with pytest.raises(InputError, match="prompt 2: "):
        diff_prompts(*llama, [[1, 2], [999]])
