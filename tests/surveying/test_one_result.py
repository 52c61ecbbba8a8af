"""One result, however a corpus is run: the same bytes of any shards, in any order, from files, in a tree."""

import random

import numpy as np
import pytest
from support.surveys import MANY, in_packs_of, surveyed

from microgpt_trace import init, survey
from microgpt_trace.corpus.corpus import CorpusSelection, Document
from microgpt_trace.errors import InputError
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.shard import order_for, survey_shard
from microgpt_trace.surveying.state import merged
from microgpt_trace.surveying.survey_files import read_survey, survey_bytes

TEXTS = [*MANY, "Zoë", *MANY[::-1], "x" * 100, "q", *MANY[3:17]]
ALL = {"events": ["*"], "histograms": ["*"], "top": 3}


def shards(model, folder, count, **options):
    """Parts by the names of their files."""
    parts = {str(folder / f"{index}.safetensors"): (index, count) for index in range(1, count + 1)}
    return {
        path: surveyed(model, TEXTS, folder, shard=shard, out=path, **options)
        for path, shard in parts.items()
    }


@pytest.mark.parametrize("model", ["untrained", "broken", "mistral_window"], indirect=True)
def test_shards_in_any_order_and_tree(model, tmp_path):
    """Whose files are read again, and all at once in memory."""
    whole = surveyed(model, TEXTS, tmp_path, **ALL)
    found = shards(model, tmp_path, 5, **ALL)
    parts = list(map(read_survey, found))
    random.Random(5).shuffle(parts)
    while len(parts) > 1:  # two of them become one, whose file is read again
        path = tmp_path / f"{len(parts)}-merged.safetensors"
        path.write_bytes(survey_bytes(merged({"one": parts.pop(0), "other": parts.pop(0)})))
        parts.append(read_survey(path))
    assert parts[0].whole
    assert survey_bytes(parts[0]) == survey_bytes(whole)
    for own in ("model", "corpus", "order", "unfit", "block_size", "arithmetic"):
        assert getattr(parts[0], own) == getattr(whole, own), own
    assert repr(report_of(parts[0])) == repr(report_of(whole))
    assert survey_bytes(merged(found)) == survey_bytes(whole)


def test_packs_are_of_numbers_alone(monkeypatch):
    """Whatever is left out of a pack, the others stay with their neighbours."""
    in_packs_of(monkeypatch, 8)
    model, order, met = init(), order_for(init(), ["embed.tok"]), []
    taken = type(model).run_pack
    monkeypatch.setattr(
        type(model), "run_pack", lambda self, pack, tap: met.append(len(pack.texts)) or taken(self, pack, tap)
    )
    texts = ["a", "Zoë", "ab", "abc", "ë", "ë", "ë", "ë", "b", "ba"]
    documents = [Document(i, text, "x", i + 1) for i, text in enumerate(texts)]
    found = survey_shard(model, order, documents)
    assert met == [3, 2]
    ((reason, unfit),) = found.unfit.items()
    assert (unfit.texts, unfit.number, unfit.place) == (5, 1, "x:2"), reason


# --- What does not fit together ---------------------------------------------------------------


@pytest.fixture
def parts(monkeypatch, tmp_path):
    in_packs_of(monkeypatch, 8)
    return shards(init(), tmp_path, 2, events=["embed.*"], top=0)


def refused(parts, *words):
    with pytest.raises(InputError) as caught:
        merged(parts)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_parts_of_other_things_are_refused_by_what_differs(parts, tmp_path):
    name, first = next(iter(parts.items()))
    made = {"model": init(), "texts": TEXTS, "folder": tmp_path, "events": ["embed.*"], "shard": (2, 2)}
    for changes, words in [
        ({"model": init(seed=7)}, ("of another model", "seed 7")), ({"texts": TEXTS[:-1]}, ("corpus",)),
        ({"texts": [*TEXTS[:-1], "z"]}, ("corpus", "fingerprint")),
        ({"events": ["embed.tok"]}, ("--events",)),
        ({"histograms": ["embed.tok"]}, ("--histograms",)),
    ]:  # fmt: skip
        refused({name: first, "other": surveyed(**made | changes)}, "other", *words)


def test_parts_that_overlap_or_did_not_end_are_refused(parts):
    (name, first), (_, second) = parts.items()
    refused({name: first, "again": read_survey(name)}, "again", "text 1 of the corpus")
    second.corpus = second.corpus.__class__(second.corpus.sources, "text", None, None, 0)
    refused({name: first, "cut": second}, "cut", "--resume")


def test_keywords_change_a_selection(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("a\nb\nab\n")
    chosen = CorpusSelection((str(path),), sample=2)
    assert survey(init(), chosen).corpus.documents == 2
    found = survey(init(), chosen, sample=1, seed=3).corpus
    assert (found.documents, found.sample, found.seed) == (1, 1, 3)


# --- The unhappy ------------------------------------------------------------------------------


def test_nothing_fits(tmp_path):
    out = tmp_path / "nothing.survey.safetensors"
    with pytest.raises(InputError, match=r"none of 3 texts fits .*1 longer than 15 .*, 2 with a character"):
        surveyed(init(), ["ë", "123", "z" * 50], tmp_path, out=out)
    assert not out.exists()


def test_nothing_fits_in_one_part(tmp_path):
    found = report_of(surveyed(init(), ["ë"] * 3000, tmp_path, shard=(1, 2), top=2, histograms=["*"]))
    assert_empty(found, documents=3000)
    assert [(own.count, own.first[-2:]) for own in found.left_out] == [(2048, ":1")]
    assert found.overfitting.holds is None


def assert_empty(found, documents):
    assert (found.whole, found.documents, found.texts, found.tokens) == (False, documents, 0, 0)
    assert (found.heads, found.units, {own.mean for own in found.events}) == ((), (), {None})


def test_a_share_without_documents(tmp_path):
    path = tmp_path / "second.survey.safetensors"
    how = {"top": 2, "histograms": ["*.act"]}
    first, whole = (surveyed(init(), ["a"], tmp_path, shard=(1, n), **how) for n in (2, 1))
    shown = report_of(surveyed(init(), ["a"], tmp_path, shard=(2, 2), out=path, **how))
    assert_empty(shown, documents=1)
    assert report_of(read_survey(path)) == shown
    assert survey_bytes(merged({"second": read_survey(path), "first": first})) == survey_bytes(whole)


@pytest.mark.parametrize("options", [
    {"events": ["logits"]}, {"events": ["embed.tok"], "histograms": ["*.act"]}, {"events": ["*.weights"]},
    {"events": ["*residual"]}, {"events": ["layer0.mlp.act"], "top": 1}, {"histograms": ["layer0.*"]},
])  # fmt: skip
def test_few_texts_and_few_events(options, tmp_path):
    for texts in (["a"], ["b", "", "ab"]):
        found = surveyed(init(), texts, tmp_path, **options)
        shown = report_of(found)
        assert shown.texts == len([text for text in texts if text])
        assert {own.name for own in shown.events} == set(found.order.events)


@pytest.mark.parametrize("options", [{"max_tokens": 1}, {"max_tokens": 16}, {}])
def test_texts_are_cut_to_the_tokens_allowed(options, gpt2, tmp_path):
    """GPT-2 reads 16: what is cut to 16 fits it, and without a limit it does not."""
    _, model, *_ = gpt2()
    texts, most = ["abcd", "a", "abc" * 8], options.get("max_tokens", 99)
    shown = report_of(surveyed(model, texts, tmp_path, top=1, **options))
    lengths = [length for length in (4, 1, 24) if options or length <= 16]
    assert shown.tokens == sum(min(length, most) for length in lengths)
    assert shown.parts[0].tokens == sum(min(length, most) - 1 for length in lengths)
    followed = [letter for text in texts if options or len(text) <= 16 for letter in text[1:most]]
    counts = {own.label: own.count for own in shown.parts[0].by_token}
    assert counts == {letter: followed.count(letter) for letter in followed}
    left = {own.reason: own.count for own in shown.left_out}
    assert sum(left.values()) == (sum(length > most for length in lengths) if options else 1), left


def test_an_empty_text_is_read_as_what_begins_every_text(monkeypatch):
    order = order_for(init(), ["embed.tok"])
    found = survey_shard(init(), order, [Document(0, "", "x", 1), Document(1, "a", "x", 2)])
    assert found.tallies["corpus/read"].numbers.tolist() == [2, 3]
    assert np.all(found.tallies["embed.tok/values"].numbers == 3)
