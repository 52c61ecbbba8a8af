"""Losses, ranks, accuracies and what they say of overfitting: by hand over the logits of every position."""

import math
import re
import zlib
from itertools import pairwise

import numpy as np
import pytest
from support.surveys import MANY, surveyed, values_of
from support.sweeps import in_sweep

from microgpt_trace import init, load, survey, train
from microgpt_trace.measuring import predictions
from microgpt_trace.measuring.predictions import AT_ONCE, EXAMPLES, RANKS
from microgpt_trace.microgpt.documents import held_out
from microgpt_trace.surveying.report import report_of


def predicted(logits, targets):
    """Of each position whose next token is known: the token, the loss, the rank of the token."""
    found = []
    for row, target in zip(logits.astype(np.float64), targets.tolist(), strict=True):
        if target >= 0:
            with np.errstate(all="ignore"):
                loss = float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[target])
            order = sorted(range(len(row)), key=lambda token: (-row[token], token))
            found.append((target, loss, 1 + order.index(target)))
    return found


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
    monkeypatch.setattr(predictions, "AT_ONCE", at_once)
    texts = [*MANY, *("ccba", "bbca", "aacab", "aabbc", "cbcb"), "d", "abcabcabcabca"]
    found = report_of(surveyed(model, texts, tmp_path))
    documents = [(n, predicted(v["logits"], read.targets)) for n, read, v in values_of(model, texts)]
    for own in found.parts:
        held = own.part == "held out"
        part = [(n, p) for n, p in documents if not own.part or held_out(texts[n]) == held]
        fine = [one for _, p in part for one in p if math.isfinite(one[1])]
        whole = [(n, p) for n, p in part if p and all(math.isfinite(loss) for _, loss, _ in p)]
        losses = [(mean([loss for _, loss, _ in p]), n) for n, p in whole]
        shares = [mean([rank == 1 for *_, rank in p]) for _, p in whole]
        assert (own.documents, own.tokens) == (len(whole), len(fine))
        assert own.nonfinite == sum(len(p) for _, p in part) - len(fine)
        assert own.loss == about(mean([loss for _, loss, _ in fine]))
        assert own.document_loss == about(mean([loss for loss, _ in losses]))
        spread = np.std([loss for loss, _ in losses], ddof=1) if losses else None
        assert own.spread == about(spread)
        assert own.accuracy == about(mean([rank == 1 for *_, rank in fine]))
        assert own.document_accuracy == about(mean(shares))
        assert own.all_right == shares.count(1)
        assert own.reciprocal_rank == about(mean([1 / rank for *_, rank in fine]))
        limits = [0, *RANKS, math.inf]
        counts = [sum(a < rank <= b for *_, rank in fine) for a, b in pairwise(limits)]
        assert list(own.ranks.values()) == counts
        assert_tokens(own.by_token, fine)
        assert_examples(own.worst, sorted(losses, key=lambda one: (-one[0], one[1])))
        assert_examples(own.best, sorted(losses))


def assert_tokens(found, fine):
    tokens = {target for target, *_ in fine}
    order = sorted(tokens, key=lambda token: (-sum(t == token for t, *_ in fine), token))
    assert [own.token for own in found] == order
    for own in found:
        of = [(loss, rank) for target, loss, rank in fine if target == own.token]
        assert own.count == len(of)
        assert own.loss == about(mean([loss for loss, _ in of]))
        assert own.accuracy == about(mean([rank == 1 for _, rank in of]))
        assert own.reciprocal_rank == about(mean([1 / rank for _, rank in of]))


def assert_examples(found, expected):
    """Equal but for documents whose losses float32 does not tell apart."""
    assert len(found) == min(EXAMPLES, len(expected))
    of = {number: loss for loss, number in expected}
    for own, (loss, _) in zip(found, expected, strict=False):
        assert own.value == about(loss), f"document {own.document}: {own.value}, by hand {loss}"
        assert own.value == about(of[own.document])
        assert own.place.endswith(f"corpus.txt:{own.document + 1}")


def test_ties_go_by_the_id(monkeypatch, tmp_path):
    """All logits alike: the rank of a token is its id and one more."""
    model = init()
    model.params["lm_head"][:] = 0
    (train_part, _) = report_of(surveyed(model, ["abc", "zz"], tmp_path)).parts
    ranks = {own.label: round(1 / own.reciprocal_rank) for own in train_part.by_token}
    assert ranks == {"EOS": 1, "a": 2, "b": 3, "c": 4, "z": 27}
    assert train_part.loss == about(math.log(27))


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
NAMES = ["".join(letters) for letters in LETTERS]  # nothing is to be learned of them but themselves


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that has learned its names by heart, and one that has only begun to."""
    path = tmp_path_factory.mktemp("names") / "corpus.txt"
    path.write_text("\n".join(NAMES) + "\n")
    return {steps: train(steps=steps, data=path) for steps in (1000, 3)}


@pytest.mark.parametrize(("steps", "holds"), [(1000, True), (3, False)])
def test_overfitting_is_told_by_the_spread_over_names(trained, steps, holds, tmp_path):
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
    assert found.text.startswith("It overfits: " if holds else "No overfitting")


@pytest.mark.parametrize(("texts", "model", "words"), [
    (NAMES, init(), "the model is untrained"), (NAMES[:-1], None, "or not all of, the data"),
    (["abba"], init(), "Overfitting is not judged, for there are too few names"),
])  # fmt: skip
def test_overfitting_is_not_judged_without_reason(texts, model, words, trained, tmp_path):
    found = report_of(surveyed(model or trained[1000], texts, tmp_path)).overfitting
    assert found.holds is None
    assert words in found.text
    assert "verfit" not in found.text.replace("Overfitting is not judged", "")


def test_an_unfinished_survey_of_a_model_of_unknown_training_is_not_judged(checkpoints, tmp_path):
    """Neither what it was trained on nor what the corpus is is known: these are not the same data."""
    found = surveyed(load(checkpoints["deep"]), MANY * 4, tmp_path, events=["logits"])
    found.corpus = found.corpus.__class__(found.corpus.sources, "text", None, None, 0)
    judged = report_of(found).overfitting
    assert judged.holds is None, judged.text
    assert "not known" in judged.text


@pytest.mark.parametrize(
    ("some", "more"), [({"limit": 40}, []), ({"sample": 40, "seed": 3}, []), ({"limit": 40}, ["bob"])]
)
def test_some_of_the_training_data_keep_their_parts(trained, tmp_path, some, more):
    """A few names of the training data, but not of a file that begins like it."""
    found = report_of(surveyed(trained[3], NAMES + more, tmp_path, **some))
    parts = [""] if more else ["train", "held out"]
    assert [part.part for part in found.parts] == parts
    assert sum(part.documents for part in found.parts) == 40
    assert (found.overfitting.gap is None) is bool(more)


def test_what_cannot_be_read_beyond_a_limit_is_no_training_data(trained, tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes("\n".join([*NAMES, ""]).encode() + b"\xff\n")
    found = report_of(survey(trained[3], path, limit=40))
    assert [part.documents for part in found.parts] == [40]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_data_are_known_and_parted_by_what_training_takes_of_them(tmp_path):
    """Lines that training lowers or leaves out are the same data to a survey."""
    texts = ["zoë", *map(str.capitalize, NAMES), "waytoolongforthismodel"]
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(texts) + "\n")
    model = train(steps=2, data=path)
    found = surveyed(model, texts, tmp_path)
    assert model.trained_on == f"90 names, crc32 {zlib.crc32(chr(10).join(NAMES).encode()):08x}"
    assert found.corpus.data == model.trained_on
    held = sum(map(held_out, NAMES))
    parts = {part.part: part.documents for part in report_of(found).parts}
    assert parts == {"train": len(NAMES) - held, "held out": held}
