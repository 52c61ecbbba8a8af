"""Checks of predictions. The judge of KL is torch in float64."""

from dataclasses import replace

import numpy as np
import pytest
from support.exports import side_of
from support.tiny_models import TOKENS, round_weights, tiny_model, write_folder
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace import load
from microgpt_trace.arrays import logits
from microgpt_trace.certification.certificate import CertificateCheck
from microgpt_trace.certification.prediction_checks import compared, prediction_checks, texts_read
from microgpt_trace.models.packs import UNKNOWN, ReadText
from microgpt_trace.progress import unreported

TEXTS = ["Hello, world!", "abc", "to be or not to be", "Why?"]


def model_of(folder, weights, config):
    write_folder(folder, config, weights)
    write_tokenizer(folder)
    return load(folder)


@pytest.fixture
def pair(tmp_path):
    """An export in bf16, and its original."""
    config, weights = tiny_model("qwen3")
    export = model_of(tmp_path / "export", round_weights(weights, "BF16"), config)
    return export, model_of(tmp_path / "original", weights, config)


def checks(export, original, texts=TEXTS, max_kl=None, before=()):
    sides = side_of(export), side_of(original)
    found = prediction_checks(*sides, texts_read(*sides, texts), max_kl, before)
    assert [check.id for check in found] == ["predictions.kl", "predictions.top"]
    print(found[0].detail, found[1].detail, sep="\n")
    return found


def test_kl_is_that_of_torch_in_float64(pair, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    export, original = pair
    reads = [*texts_read(*map(side_of, pair), TEXTS), ReadText(np.array([*TOKENS, UNKNOWN]))]
    found = compared(original, export, reads, lambda done, total: None)
    models = [
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).double()
        for name in ("original", "export")
    ]
    for number, read in enumerate(reads):
        with torch.no_grad():
            a, b = (own(torch.tensor(read.tokens[None])).logits[0].log_softmax(-1) for own in models)
        rows = found.text == number
        assert found.position[rows].tolist() == list(range(len(a)))
        expected = (a.exp() * (a - b)).sum(-1).numpy()
        print(found.kl[rows], expected)
        np.testing.assert_allclose(found.kl[rows], expected, rtol=5e-3, atol=1e-9)
        assert (found.top[rows] == np.stack([a.argmax(-1), b.argmax(-1)], axis=1)).all()


def test_logits_are_compared_in_parts(pair, monkeypatch):
    models = pair[::-1]
    reads = texts_read(*map(side_of, pair), TEXTS)
    whole = compared(*models, reads, unreported)
    monkeypatch.setattr(logits, "PART", 2 * models[0].config.vocab_size)
    monkeypatch.setattr(logits, "HELD", 2)
    for a, b in zip(whole, compared(*models, reads, unreported), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)  # products of other rows round differently


def test_rounding_of_weights_is_rounded(pair):
    kl, _ = checks(*pair)
    assert kl.status == "rounded"
    assert kl.detail.startswith("Mean KL ")
    assert "38 positions of 4 texts" in kl.detail


def test_equal_weights_are_the_same(pair):
    _, original = pair
    assert {own.status for own in checks(original, original)} == {"same"}


def test_a_limit_makes_predictions_different(pair):
    kl, _ = checks(*pair, max_kl=1e-12)
    assert kl.status == "different"
    assert "--max-kl allows 1e-12: find the tensors" in kl.detail
    assert checks(*pair, max_kl=1.0)[0].status == "rounded"


@pytest.mark.parametrize(
    ("cause", "status"),
    [("weights.permuted", "different"), ("settings.rope_base", "different"), ("template.chat", "rounded"),
     ("settings.context_length", "rounded")],
)  # fmt: skip
def test_predictions_follow_from_earlier_differences(cause, status, pair):
    before = [CertificateCheck(cause, "different"), CertificateCheck("weights.other", "same")]
    kl, _ = checks(*pair, before=before)
    assert kl.status == status
    assert (f"This follows from {cause}." in kl.detail) == (status == "different")


def test_rows_that_fill_up_the_vocabulary_change_little(pair, tmp_path):
    config, weights = tiny_model("qwen3")
    low = {"lm_head.weight": -9.0, "model.embed_tokens.weight": 0.0}
    padded = {
        name: np.concatenate([own, np.zeros((3, 32), np.float32)]) if name in low else own
        for name, own in weights.items()
    }
    more = model_of(tmp_path / "more", padded, config | {"vocab_size": 64})
    assert checks(pair[1], more)[0].status == "same"  # the original's spare rows are left out
    kl, _ = checks(more, pair[1])  # the export spends probability on spare rows
    assert kl.status == "rounded"


def test_nan_is_different(pair, tmp_path):
    _, original = pair
    config, weights = tiny_model("qwen3")
    weights["model.norm.weight"] = weights["model.norm.weight"] * np.nan
    kl, _ = checks(model_of(tmp_path / "nan", weights, config), original)
    assert kl.status == "different"
    assert "look for NaN" in kl.detail


def test_a_text_that_does_not_fit_is_counted_with_the_reason(pair):
    length = pair[1].config.context_length
    kl, _ = checks(*pair, ["", "a" * 100, "b" * 100, "abc"])
    assert "1 text did not fit: without tokens. 2 texts did not fit: longer than the context of " in kl.detail
    assert f"context of {length} tokens. Largest" in kl.detail
    assert "of text 4: after" in kl.detail
    small = replace(side_of(pair[0]), model=replace(pair[0], config=replace(pair[0].config, vocab_size=9)))
    [kl, _] = prediction_checks(small, side_of(pair[1]), texts_read(small, side_of(pair[1]), TEXTS), None, [])
    assert "3 texts did not fit: with a token that is not among the first 9. Largest" in kl.detail


def test_the_vocabulary_of_one_side_is_enough(pair):
    export, original = (side_of(model) for model in pair)
    both, one, other = (
        prediction_checks(*sides, texts_read(*sides, TEXTS), None, [])
        for sides in (
            (export, original), (replace(export, vocabulary=None), original),
            (export, replace(original, vocabulary=None)),
        )
    )  # fmt: skip
    assert both == one == other
    assert {check.status for check in both} <= {"same", "rounded"}


def test_what_cannot_run_is_not_checked(pair):
    export, original = (side_of(model) for model in pair)
    for sides, texts, reason in (
        ((replace(export, model=None), original), TEXTS, "The export cannot run."),
        (
            (replace(export, vocabulary=None), replace(original, vocabulary=None)),
            TEXTS,
            "No vocabulary could",
        ),
        ((export, original), [], "There are no texts."),
        ((export, original), ["a" * 100], "1 text did not fit: longer than"),
    ):
        for check in prediction_checks(*sides, texts_read(*sides, texts), None, []):
            assert check.status == "not checked"
            assert check.detail.startswith(reason)
