"""Patching of several pairs of texts: means, spreads, and files of pairs."""

import numpy as np
import pytest
from support.judges import agree

from microgpt_trace import Model
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.patching.pairs import Pair, patch_pairs, read_pairs
from microgpt_trace.patching.patch import patch

PAIRS = [Pair("abba", "abbb"), Pair("cafe", "cabe", "e", "f"), Pair("hade", "habe")]


def test_mean_and_spread_over_pairs(deep):
    reports = []
    found = patch_pairs(deep.model, PAIRS, target="a", against="b", report=lambda *done: reports.append(done))
    single = [
        patch(deep.model, p.clean, p.corrupt, target=p.target or "a", against=p.against or "b") for p in PAIRS
    ]
    restored = np.array([[cell.restored for cell in result.cells] for result in single])
    agree([cell.mean for cell in found.cells], restored.mean(0))
    agree([cell.spread for cell in found.cells], restored.std(0))
    assert {cell.count for cell in found.cells} == {3}
    assert [p.contrast for p in found.pairs] == [result.contrast for result in single]
    assert found.ok
    assert reports == [(1, 3), (2, 3), (3, 3)]


def test_a_mean_leaves_out_values_that_are_not_finite(deep, monkeypatch):
    plain = Model.edited_logits

    def broken(model, inputs, edits, rows, report):
        for number, logits in plain(model, inputs, edits, rows, report):
            yield number, logits * (np.nan if number and inputs.text == "cafe" else 1)

    monkeypatch.setattr(Model, "edited_logits", broken)
    found = patch_pairs(deep.model, [PAIRS[0], Pair("cafa", "cafe")], target="a", against="b")
    assert [cell.count for cell in found.cells[:5]] == [2, 2, 2, 2, 1]
    agree(found.cells[4].mean, 1.0)  # embed.norm at the position that differs
    agree(found.cells[4].spread, 0.0)


def test_pairs_of_different_lengths_have_means_of_heads_only(deep):
    pairs = [Pair("abba", "abbb"), Pair("cafeb", "cabeb", where="p, line 7")]
    with pytest.raises(InputError, match="p, line 7: expected 5 tokens as in the first pair, found 6"):
        patch_pairs(deep.model, pairs, target="a", against="b")
    found = patch_pairs(
        deep.model, pairs, target="a", against="b", sites=["layer*.attn.head*", "layer0.mlp.act@-1"]
    )
    assert len(found.cells) == 5


def test_an_error_names_its_pair(deep):
    with pytest.raises(InputError, match=r"^pair 2: both texts have the same tokens"):
        patch_pairs(deep.model, [PAIRS[0], Pair("abc", "abc")], target="a", against="b")
    with pytest.raises(InputError, match=r"^pair 2: --target and --against are both a"):
        patch_pairs(deep.model, [PAIRS[0], Pair("abcd", "abce", "a", "a")], target="a", against="b")


def test_reads_pairs_from_lines(tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_bytes("\ufeff# two\n\na b\tc\r\n d\te\t f\tg\n".encode())
    assert [(p.clean, p.corrupt, p.target, p.against) for p in read_pairs(file)] == [
        ("a b", "c", None, None), (" d", "e", " f", "g"),
    ]  # fmt: skip
    assert read_pairs(file)[1].where == f"{file}, line 4"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\tb\nc\n", "line 2: expected CLEAN<TAB>CORRUPT.* found 1 field$"),
        (b"a\tb\tc\n", "line 1: .*found 3 fields"),
        (b"a\t\n", "line 1: .*found 2 fields, one of them empty"),
        (b"# nothing\n\n", "found none"),
        (b"\xff\xfe", "expected UTF-8"),
    ],
)
def test_rejects_invalid_files_of_pairs(tmp_path, content, words):
    (tmp_path / "p").write_bytes(content)
    with pytest.raises(FileFormatError, match=words):
        read_pairs(tmp_path / "p")
