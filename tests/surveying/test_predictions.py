"""Losses, ranks, accuracies and the verdict on overfitting, worked out from the logits of every position."""

import math
import re
import zlib
from itertools import pairwise

import numpy as np
import pytest
from support.surveys import MANY, surveyed, values_of
from support.sweeps import in_sweep

from microgpt_trace import init, load, survey, train
from microgpt_trace.measuring import prediction_meter
from microgpt_trace.measuring.prediction_meter import AT_ONCE, EXAMPLES, RANKS
from microgpt_trace.microgpt.documents import held_out
from microgpt_trace.surveying.report import report_of


def predicted(logits, targets):
    """Return the next token, its loss and its rank for each position with a known next token."""
    predictions = []
    for row, target in zip(logits.astype(np.float64), targets.tolist(), strict=True):
        if target >= 0:
            with np.errstate(all="ignore"):
                loss = float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[target])
            order = sorted(range(len(row)), key=lambda token: (-row[token], token))
            predictions.append((target, loss, 1 + order.index(target)))
    return predictions


def about(value):
    return value if value is None else pytest.approx(value, rel=1e-6, abs=1e-6)


def mean(values):
    return math.fsum(values) / len(values) if values else None


@pytest.mark.parametrize(
    ("model", "at_once"),
    [("trained", AT_ONCE), ("broken", AT_ONCE), ("deep", 25), ("mistral_window", 200)],
    indirect=["model"],
)
def test_parts_tokens_and_documents(model, at_once, monkeypatch, tmp_path):
    monkeypatch.setattr(prediction_meter, "AT_ONCE", at_once)
    texts = [*MANY, *("ccba", "bbca", "aacab", "aabbc", "cbcb"), "d", "abcabcabcabca"]
    report = report_of(surveyed(model, texts, tmp_path))
    documents = [(n, predicted(v["logits"], read.targets)) for n, read, v in values_of(model, texts)]
    for own in report.parts:
        is_held_out = own.part == "held out"
        part = [(n, p) for n, p in documents if not own.part or held_out(texts[n]) == is_held_out]
        finite = [one for _, p in part for one in p if math.isfinite(one[1])]
        whole = [(n, p) for n, p in part if p and all(math.isfinite(loss) for _, loss, _ in p)]
        losses = [(mean([loss for _, loss, _ in p]), n) for n, p in whole]
        shares = [mean([rank == 1 for *_, rank in p]) for _, p in whole]
        assert (own.documents, own.tokens) == (len(whole), len(finite))
        assert own.nonfinite == sum(len(p) for _, p in part) - len(finite)
        assert own.loss == about(mean([loss for _, loss, _ in finite]))
        assert own.document_loss == about(mean([loss for loss, _ in losses]))
        assert own.spread == about(np.std([loss for loss, _ in losses], ddof=1) if losses else None)
        assert own.accuracy == about(mean([rank == 1 for *_, rank in finite]))
        assert own.document_accuracy == about(mean(shares))
        assert own.all_right == shares.count(1)
        assert own.reciprocal_rank == about(mean([1 / rank for *_, rank in finite]))
        limits = [0, *RANKS, math.inf]
        counts = [sum(a < rank <= b for *_, rank in finite) for a, b in pairwise(limits)]
        assert list(own.ranks.values()) == counts
        assert_tokens(own.by_token, finite)
        assert_examples(own.worst, sorted(losses, key=lambda one: (-one[0], one[1])))
        assert_examples(own.best, sorted(losses))


def assert_tokens(by_token, predictions):
    tokens = {target for target, *_ in predictions}
    order = sorted(tokens, key=lambda token: (-sum(t == token for t, *_ in predictions), token))
    assert [own.token for own in by_token] == order
    for own in by_token:
        same = [(loss, rank) for target, loss, rank in predictions if target == own.token]
        assert own.count == len(same)
        assert own.loss == about(mean([loss for loss, _ in same]))
        assert own.accuracy == about(mean([rank == 1 for _, rank in same]))
        assert own.reciprocal_rank == about(mean([1 / rank for _, rank in same]))


def assert_examples(examples, expected):
    """Compare examples. Documents whose losses are equal in float32 may change places."""
    assert len(examples) == min(EXAMPLES, len(expected))
    losses = {number: loss for loss, number in expected}
    for own, (loss, _) in zip(examples, expected, strict=False):
        assert own.value == about(loss), f"document {own.document}: {own.value}, by hand {loss}"
        assert own.value == about(losses[own.document])
        assert own.place.endswith(f"corpus.txt:{own.document + 1}")


def test_ties_are_ranked_by_token_id(tmp_path):
    """All logits are equal, so that the rank of a token is its id + 1."""
    model = init()
    model.params["lm_head"][:] = 0
    (train_part, _) = report_of(surveyed(model, ["abc", "zz"], tmp_path)).parts
    ranks = {own.label: round(1 / own.reciprocal_rank) for own in train_part.by_token}
    assert ranks == {"EOS": 1, "a": 2, "b": 3, "c": 4, "z": 27}
    assert train_part.loss == about(math.log(27))


def test_two_equal_logits_are_ranked_by_token_id(tmp_path):
    """The logits of b and c are equal and those of all other tokens are 0, so that b has a smaller rank."""
    model = init()
    model.params["lm_head"][:] = 0
    model.params["lm_head"][[2, 3]] = np.arange(16)
    texts = ["bc", "cb", "cab"]
    found = [predicted(v["logits"], read.targets) for _, read, v in values_of(model, texts)]
    counts = report_of(surveyed(model, texts, tmp_path)).parts[0].ranks
    ranks = [rank for one in found for target, _, rank in one if target in (2, 3)]
    print(ranks, counts)
    assert 2 in ranks
    assert counts["1"] == sum(rank == 1 for one in found for *_, rank in one)
    assert counts["2"] == sum(rank == 2 for one in found for *_, rank in one)


@pytest.mark.parametrize("case", ["mistral_window", in_sweep("llama_gqa"), in_sweep("qwen3")])
def test_losses_are_those_of_transformers(case, decoder_folder, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = decoder_folder(case)
    model = load(folder)
    texts = ["abcabc Hello, you", "Zebra", "a"]
    (own,) = report_of(surveyed(model, texts, tmp_path)).parts
    judge = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    losses = []
    for text in texts[:2]:
        ids = torch.tensor([model.read(text).tokens])
        losses.append(judge(ids, labels=ids).loss.item())
    print(own.document_loss, np.mean(losses))
    assert own.document_loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert [round(one.value, 3) for one in own.worst] == [round(x, 3) for x in sorted(losses, reverse=True)]


# --- Overfitting -----------------------------------------------------------------------------

LETTERS = np.random.RandomState(5).choice([*"abcdefgh"], (90, 6))
NAMES = ["".join(letters) for letters in LETTERS]  # random, so that a model can only memorise them


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that has memorised its names, and one after 3 training steps."""
    path = tmp_path_factory.mktemp("names") / "corpus.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return {steps: train(steps=steps, data=path) for steps in (1000, 3)}


@pytest.mark.parametrize(("steps", "holds"), [(1000, True), (3, False)])
def test_overfitting_is_judged_by_the_spread_over_names(trained, steps, holds, tmp_path):
    found = report_of(surveyed(trained[steps], NAMES, tmp_path)).overfitting
    losses = {True: [], False: []}
    for number, read, value in values_of(trained[steps], NAMES):
        of_name = [loss for _, loss, _ in predicted(value["logits"], read.targets)]
        losses[held_out(NAMES[number])].append(np.mean(of_name))
    held, learned = (np.mean(losses[part]) for part in (True, False))
    gap, error = held - learned, math.sqrt(sum(np.var(own, ddof=1) / len(own) for own in losses.values()))
    assert (found.gap, found.error) == (about(gap), about(error))
    assert found.holds is holds is bool(gap > 2 * error)
    said = [float(number.replace(",", "")) for number in re.findall(r"-?[\d,]*\d(?:\.\d+)?", found.text)]
    expected = [held, learned, gap, error, len(losses[True]), len(losses[False])]
    assert said[:6] == pytest.approx(expected, abs=6e-5), found.text
    assert found.text.startswith("The model overfits. " if holds else "No overfitting is visible. ")


@pytest.mark.parametrize(("texts", "model", "words"), [
    (NAMES, init(), "the model is untrained"), (NAMES[:-1], None, "not the complete data that"),
    (["abba"], init(), "Overfitting is not judged, because one of the two sets has too few names"),
])  # fmt: skip
def test_says_why_overfitting_is_not_judged(texts, model, words, trained, tmp_path):
    verdict = report_of(surveyed(model or trained[1000], texts, tmp_path)).overfitting
    assert verdict.holds is None
    assert words in verdict.text
    assert "verfit" not in verdict.text.replace("Overfitting is not judged", "")


def test_overfitting_is_not_judged_if_training_data_and_corpus_are_unknown(checkpoints, tmp_path):
    """Both are "" for an old checkpoint and an unfinished survey, but they are not the same data."""
    unfinished = surveyed(load(checkpoints["deep"]), MANY * 4, tmp_path, events=["logits"])
    unfinished.corpus = unfinished.corpus.__class__(unfinished.corpus.sources, "text", None, None, 0)
    verdict = report_of(unfinished).overfitting
    assert verdict.holds is None, verdict.text
    assert "unknown" in verdict.text


@pytest.mark.parametrize(
    ("some", "more"), [({"limit": 40}, []), ({"sample": 40, "seed": 3}, []), ({"limit": 40}, ["bob"])]
)
def test_a_selection_of_the_training_data_has_two_parts(trained, tmp_path, some, more):
    """A file that only begins like the training data has one part."""
    report = report_of(surveyed(trained[3], NAMES + more, tmp_path, **some))
    assert [part.part for part in report.parts] == ([""] if more else ["train", "held out"])
    assert sum(part.documents for part in report.parts) == 40
    assert (report.overfitting.gap is None) is bool(more)


def test_a_corpus_with_unreadable_rows_is_not_the_training_data(trained, tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes("\n".join([*NAMES, ""]).encode() + b"\xff\n")
    report = report_of(survey(trained[3], path, limit=40))
    assert [part.documents for part in report.parts] == [40]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_training_data_are_recognised_by_the_names_that_training_takes(tmp_path):
    """Training changes names to lower case and leaves some lines out."""
    texts = ["zoë", *map(str.capitalize, NAMES), "waytoolongforthismodel"]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(texts) + "\n")
    model = train(steps=2, data=path)
    result = surveyed(model, texts, tmp_path)
    assert model.trained_on == f"90 names, crc32 {zlib.crc32(chr(10).join(NAMES).encode()):08x}"
    assert result.corpus.data == model.trained_on
    count = sum(map(held_out, NAMES))
    parts = {part.part: part.documents for part in report_of(result).parts}
    assert parts == {"train": len(NAMES) - count, "held out": count}
