"""A survey has the same bytes however its corpus is divided into shards and in whatever order they merge."""

import random

import numpy as np
import pytest
from support.surveys import MANY, set_pack_size, surveyed
from support.sweeps import in_sweep

from microgpt_trace import init, survey
from microgpt_trace.corpus.corpus import CorpusSelection, Document
from microgpt_trace.errors import InputError
from microgpt_trace.surveying.options import SurveyOptions
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.shard import order_for, survey_shard
from microgpt_trace.surveying.state import merge_surveys
from microgpt_trace.surveying.survey_files import read_survey, survey_bytes

TEXTS = [*MANY, "Zoë", *MANY[::-1], "x" * 100, "q", *MANY[3:17]]
ALL = {"events": ["*"], "histograms": ["*"], "top": 3}


def shards(model, folder, count, **options):
    """Return the parts of a survey by file name."""
    parts = {str(folder / f"{index}.safetensors"): (index, count) for index in range(1, count + 1)}
    return {
        path: surveyed(model, TEXTS, folder, shard=shard, out=path, **options)
        for path, shard in parts.items()
    }


@pytest.mark.parametrize("model", ["untrained", "broken", in_sweep("mistral_window")], indirect=True)
def test_shards_merge_in_any_order_and_tree(model, tmp_path):
    """The shards are merged pair by pair through files, and all at once in memory."""
    whole = surveyed(model, TEXTS, tmp_path, **ALL)
    surveys = shards(model, tmp_path, 5, **ALL)
    parts = list(map(read_survey, surveys))
    random.Random(5).shuffle(parts)
    while len(parts) > 1:
        path = tmp_path / f"{len(parts)}-merged.safetensors"
        path.write_bytes(survey_bytes(merge_surveys({"one": parts.pop(0), "other": parts.pop(0)})))
        parts.append(read_survey(path))
    assert parts[0].whole
    assert survey_bytes(parts[0]) == survey_bytes(whole)
    for name in ("model", "corpus", "order", "unfit", "block_size", "arithmetic"):
        assert getattr(parts[0], name) == getattr(whole, name), name
    assert repr(report_of(parts[0])) == repr(report_of(whole))
    assert survey_bytes(merge_surveys(surveys)) == survey_bytes(whole)


def test_packs_depend_only_on_the_numbers_of_documents(monkeypatch):
    """Texts that do not fit are left out of a pack, and no other text moves up."""
    set_pack_size(monkeypatch, 8)
    model, order, sizes = init(), order_for(init(), SurveyOptions(("embed.tok",))), []
    run = type(model).run_pack
    monkeypatch.setattr(
        type(model), "run_pack", lambda self, pack, tap: sizes.append(len(pack.texts)) or run(self, pack, tap)
    )
    texts = ["a", "Zoë", "ab", "abc", "ë", "ë", "ë", "ë", "b", "ba"]
    documents = [Document(i, text, "x", i + 1) for i, text in enumerate(texts)]
    ((reason, unfit),) = survey_shard(model, order, documents).unfit.items()
    assert sizes == [3, 2]
    assert (unfit.texts, unfit.number, unfit.place) == (5, 1, "x:2"), reason


# --- Parts that do not belong together --------------------------------------------------------


@pytest.fixture
def parts(monkeypatch, tmp_path):
    set_pack_size(monkeypatch, 8)
    return shards(init(), tmp_path, 2, events=["embed.*"], top=0)


def refused(parts, *words):
    with pytest.raises(InputError) as caught:
        merge_surveys(parts)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_refuses_parts_of_another_model_corpus_or_order(parts, tmp_path):
    name, first = next(iter(parts.items()))
    made = {"model": init(), "texts": TEXTS, "folder": tmp_path, "events": ["embed.*"], "shard": (2, 2)}
    for changes, words in [
        ({"model": init(seed=7)}, ("expected the model of", "seed 7")), ({"texts": TEXTS[:-1]}, ("corpus",)),
        ({"texts": [*TEXTS[:-1], "z"]}, ("corpus", "fingerprint")),
        ({"events": ["embed.tok"]}, ("events",)),
        ({"histograms": ["embed.tok"]}, ("histograms",)),
    ]:  # fmt: skip
        refused({name: first, "other": surveyed(**made | changes)}, "other", *words)


def test_refuses_parts_that_overlap_or_are_unfinished(parts):
    (name, first), (_, second) = parts.items()
    refused({name: first, "again": read_survey(name)}, "again", "text 1 of the corpus")
    second.corpus = second.corpus.__class__(second.corpus.sources, "text", None, None, 0)
    refused({name: first, "cut": second}, "cut", "--resume")


def test_keywords_change_a_selection(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("a\nb\nab\n")
    selection = CorpusSelection((str(path),), sample=2)
    assert survey(init(), selection).corpus.documents == 2
    corpus = survey(init(), selection, sample=1, seed=3).corpus
    assert (corpus.documents, corpus.sample, corpus.seed) == (1, 1, 3)


# --- Few or no texts --------------------------------------------------------------------------


def test_refuses_a_corpus_whose_texts_do_not_fit(tmp_path):
    out = tmp_path / "nothing.survey.safetensors"
    with pytest.raises(InputError, match=r"none of 3 texts fits .*1 longer than 15 .*, 2 with a character"):
        surveyed(init(), ["ë", "123", "z" * 50], tmp_path, out=out)
    assert not out.exists()


def test_a_part_may_have_no_text_that_fits(tmp_path):
    report = report_of(surveyed(init(), ["ë"] * 3000, tmp_path, shard=(1, 2), top=2, histograms=["*"]))
    assert_empty(report, documents=3000)
    assert [(own.count, own.first[-2:]) for own in report.left_out] == [(2048, ":1")]
    assert report.overfitting.holds is None


def assert_empty(report, documents):
    assert (report.whole, report.documents, report.texts, report.tokens) == (False, documents, 0, 0)
    assert (report.heads, report.units, {own.mean for own in report.events}) == ((), (), {None})


def test_a_part_may_have_no_documents(tmp_path):
    path = tmp_path / "second.survey.safetensors"
    options = {"top": 2, "histograms": ["*.act"]}
    first, whole = (surveyed(init(), ["a"], tmp_path, shard=(1, n), **options) for n in (2, 1))
    report = report_of(surveyed(init(), ["a"], tmp_path, shard=(2, 2), out=path, **options))
    assert_empty(report, documents=1)
    assert report_of(read_survey(path)) == report
    assert survey_bytes(merge_surveys({"second": read_survey(path), "first": first})) == survey_bytes(whole)


@pytest.mark.parametrize("options", [
    {"events": ["logits"]}, {"events": ["embed.tok"], "histograms": ["*.act"]}, {"events": ["*.weights"]},
    {"events": ["*residual"]}, {"events": ["layer0.mlp.act"], "top": 1}, {"histograms": ["layer0.*"]},
])  # fmt: skip
def test_few_texts_and_few_events_have_a_report(options, tmp_path):
    for texts in (["a"], ["b", "", "ab"]):
        survey = surveyed(init(), texts, tmp_path, **options)
        report = report_of(survey)
        assert report.texts == len([text for text in texts if text])
        assert {own.name for own in report.events} == set(survey.order.events)


@pytest.mark.parametrize("options", [{"max_tokens": 1}, {"max_tokens": 16}, {}])
def test_max_tokens_cuts_texts(options, gpt2, tmp_path):
    """The GPT-2 of the test reads 16 tokens, so that the longest text fits only if it is cut."""
    _, model, *_ = gpt2()
    texts, most = ["abcd", "a", "abc" * 8], options.get("max_tokens", 99)
    report = report_of(surveyed(model, texts, tmp_path, top=1, **options))
    lengths = [length for length in (4, 1, 24) if options or length <= 16]
    assert report.tokens == sum(min(length, most) for length in lengths)
    assert report.parts[0].tokens == sum(min(length, most) - 1 for length in lengths)
    targets = [letter for text in texts if options or len(text) <= 16 for letter in text[1:most]]
    counts = {own.label: own.count for own in report.parts[0].by_token}
    assert counts == {letter: targets.count(letter) for letter in targets}
    left_out = {own.reason: own.count for own in report.left_out}
    assert sum(left_out.values()) == (sum(length > most for length in lengths) if options else 1), left_out


def test_an_empty_text_is_read_as_bos_alone():
    order = order_for(init(), SurveyOptions(("embed.tok",)))
    measured = survey_shard(init(), order, [Document(0, "", "x", 1), Document(1, "a", "x", 2)])
    assert measured.tallies["corpus/read"].numbers.tolist() == [2, 3]
    assert np.all(measured.tallies["embed.tok/values"].numbers == 3)
