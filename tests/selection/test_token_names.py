"""Check the note that another token may be meant."""

from types import SimpleNamespace

import pytest
from support.real_model import needs_smollm2
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace import attribute, load, patch, trace
from microgpt_trace.errors import InputError
from microgpt_trace.selection.token_names import blank_notes

VOCABULARY = ["Paris", "␣Paris", "x"]


def token(text):
    if text not in VOCABULARY:
        raise InputError("no such token")
    return VOCABULARY.index(text)


MODEL = SimpleNamespace(
    config=SimpleNamespace(vocab_size=3), token=token, label=lambda token, target=False: VOCABULARY[token]
)


@pytest.mark.parametrize(
    ("named", "chances", "has_note"),
    [
        ("Paris", [[0.0005, 0.77, 0.1]], True),
        ("Paris", [[0.1, 0.2, 0.1], [0.01, 0.11, 0.1]], True),  # at the second position
        ("Paris", [[0.1, 0.77, 0.1]], False),  # not ten times as likely
        ("Paris", [[1e-9, 1e-3, 0.1]], False),  # not likely
        ("Paris", [[float("nan")] * 3], False),
        ("␣Paris", [[0.77, 0.0005, 0.1]], False),
        ("#0", [[0.0005, 0.77, 0.1]], False),
        (0, [[0.0005, 0.77, 0.1]], False),
        ("x", [[0.0005, 0.77, 0.1]], False),
        (None, [[0.0005, 0.77, 0.1]], False),
    ],
)
def test_proposes_the_token_with_a_blank_if_it_is_likely(named, chances, has_note):
    notes = blank_notes(MODEL, named, [row.__getitem__ for row in chances])
    assert bool(notes) is has_note, notes


def test_proposes_no_token_if_logits_are_not_finite(decoder_folder, monkeypatch):
    def spoil(weights):
        weights["model.norm.weight"][1:] = 0
        weights["lm_head.weight"][:, 0] = 3e38
        weights["model.norm.weight"][0] = 1e6

    folder = decoder_folder("llama_gqa", spoil)
    write_tokenizer(folder)
    monkeypatch.setattr("microgpt_trace.selection.token_names.token_of", lambda model, named: len(named))
    assert attribute(load(folder), "abc", target="a", against="b", ablation=False).notes == ()


@needs_smollm2
def test_notes_come_with_every_command_that_takes_a_target(smollm2):
    note = "did you mean ␣Paris? It has P 0.77, and Paris has P 0.00052"
    text, other = "The capital of France is", "The capital of Italy is"
    assert note in attribute(smollm2, text, target="Paris", ablation=False).notes
    assert note in trace(smollm2, text, lens=True, positions="last", target="Paris").input.notes
    patched = patch(smollm2, text, other, target="Paris", against="Rome", sites=["layer29.mlp.residual"])
    assert patched.clean.notes == (note,)
    assert "did you mean ␣Rome?" in patched.corrupt.notes[0]
