"""Tokens read from a dump's embedding, also if rows of the embedding are equal or nearly equal."""

import numpy as np
import pytest
from support.commands import microgpt, refused
from support.comparing import values_of
from support.dump_writing import write_npz
from support.tiny_models import tiny_model, write_folder

from microgpt_trace import load
from microgpt_trace.arrays.rounding import to_bf16
from microgpt_trace.comparison.diff import diff
from microgpt_trace.comparison.read_tokens import ambiguous, recognise
from microgpt_trace.diagnosis.diagnose import diagnose
from microgpt_trace.dumps.layouts import Recorded
from microgpt_trace.errors import InputError
from microgpt_trace.naming.user_map import read_map

TOKENS = (17, 11, 44, 9, 60)  # the model's 5, 9 and 11 have equal rows, 20 and 21 nearly
FIRST = (17, 5, 44, 5, 60)
IDS = ",".join(map(str, TOKENS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config, weights = tiny_model("llama_gqa")
    table = weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"].copy()
    table[[9, 11]] = table[5]
    table[21] = table[20] * np.float32(1 + 2e-4)
    return write_folder(tmp_path_factory.mktemp("equal"), config, weights)


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


@pytest.fixture(scope="module")
def values(model):
    return values_of(model, TOKENS)


@pytest.fixture
def dump(values, tmp_path):
    return write_npz(tmp_path / "d.npz", values)


def rows_of(model, *tokens):
    rows = model.tensors["wte"].take(np.array(tokens))
    return Recorded("embed.tok", rows.shape, lambda: rows)


def test_equal_rows_are_taken_for_the_requested_tokens(model, dump):
    found = diff(model, dump, tokens=TOKENS)
    assert (found.tokens, found.agree, found.b.notes) == (TOKENS, True, ())
    judged = diagnose(dump, model, tokens=TOKENS)
    assert (judged.diagnosis.tokens, judged.diagnosis.clean, judged.dump.notes) == (TOKENS, True, [])


def test_a_note_lists_other_tokens_with_equal_rows(model, dump):
    found = diff(model, dump)
    note = "token 5 may also be 9, 11: the embedding rows are equal"
    assert (found.tokens, found.b.notes) == (FIRST, (note,))
    assert (found.agree, found.left_out) == (True, ("loss",))  # the loss depends on the next tokens
    assert diagnose(dump, model).dump.notes == [note]


def test_a_drafted_map_notes_ambiguous_tokens(folder, values, tmp_path):
    path = write_npz(tmp_path / "d.npz", {f"t{i}": value for i, value in enumerate(values.values())})
    draft = microgpt("diff", folder, path, "--suggest-map").out
    assert "# token 5 may also be 9, 11: the embedding rows are equal\ntokens = [17, 5, 44, 5, 60]" in draft
    draft = microgpt("diff", folder, path, "--suggest-map", "--tokens", IDS).out
    assert ("may also be" in draft, f"tokens = {list(TOKENS)}" in draft) == (False, True)


def test_only_the_wrong_token_among_ambiguous_ones_is_named(model, values, tmp_path):
    wrong = values["embed.tok"].copy()
    wrong[2] = model.tensors["wte"].take(np.array([33]))[0]
    path = write_npz(tmp_path / "d.npz", {"embed.tok": wrong, "tokens": np.array(TOKENS)})
    found = diagnose(path, model).diagnosis
    print(found.findings)
    assert found.findings[0].claim.endswith("your row at position 2 belongs to token 33, not 44")


@pytest.mark.parametrize("token", [20, 21])
def test_nearly_equal_rows_are_distinguished_unless_rounded(model, token):
    for expected in (None, (token, 41 - token, 3), (token, token, 3)):
        assert recognise(model, rows_of(model, token, token, 3), expected) == (token, token, 3)
    rounded = to_bf16(rows_of(model, 20, 3).read())
    assert recognise(model, Recorded("embed.tok", rounded.shape, lambda: rounded), (token, 3)) == (token, 3)


def test_only_tokens_with_equal_rows_are_ambiguous(model):
    assert ambiguous(model, (1, 2, 20, 21)) == ()
    assert len(ambiguous(model, (5, 9, 11))) == 3


def test_different_tokens_and_a_text_with_tokens_are_refused(folder, dump):
    line = refused(microgpt("diff", folder, dump, "--tokens", "17,11,44,9,59"), "different tokens")
    assert "[17, 11, 44, 9, 60]" in line
    refused(microgpt("diff", folder, folder, "abc", "--tokens", IDS), "cannot be combined with a text")
    refused(microgpt("diff", folder, dump, "abc", "--tokens", IDS, "--suggest-map"), "cannot be combined")


def test_a_text_must_match_the_tokens_of_a_map(decoder_folder, dump, tmp_path):
    speaking = decoder_folder("llama_gqa")
    (tmp_path / "map.toml").write_text("tokens = [4, 5]\n[events]\n'final.norm' = 'final.norm'")
    lines = read_map(tmp_path / "map.toml")
    with pytest.raises(InputError, match="was recorded on"):
        diff(load(speaking), dump, "ba", map=lines)
