"""A survey by processes has the bytes of one process, whose workers are killed or not; and what is said where
they cannot work."""

import os
from dataclasses import dataclass, replace
from multiprocessing import active_children

import numpy as np
import pytest
from support.surveyed_texts import MEASURED, lines, measured, written

from microgpt_trace import init, load
from microgpt_trace.corpus.corpus import Corpus, CorpusSelection, Document
from microgpt_trace.errors import InputError, RunError
from microgpt_trace.surveying.execution import (
    Assignment,
    Block,
    ModelSource,
    merged_results,
    run_here,
    run_in_worker,
)
from microgpt_trace.surveying.shard import order_for
from microgpt_trace.surveying.state import fingerprint_of
from microgpt_trace.surveying.survey_files import survey_bytes

pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")


@dataclass(frozen=True)
class Failing(ModelSource):
    """A model that the process of the test can open, and none of its workers."""

    here: int = 0
    how: str = "dies"

    def open(self):
        if os.getpid() == self.here:
            return super().open()
        if self.how == "dies":
            os._exit(1)
        return init() if self.how == "another" else load("nowhere.gguf")


@pytest.fixture(scope="module")
def asked(decoder_folder, tmp_path_factory):
    """A model and a corpus of 7 blocks, the last of which is not full."""
    return str(decoder_folder()), written(tmp_path_factory.mktemp("corpus") / "texts.txt", lines(197))


@pytest.fixture(scope="module")
def whole(asked):
    return survey_bytes(measured(*asked))


def test_a_worker_computes_as_this_process_does(gpt2):
    """A model that keeps its weights unpacked rounds otherwise than one that does not."""
    folder, model, *_ = gpt2()
    order, texts = order_for(model), ["abcabca", "bca", "cab", "a"]
    blocks = [Block(0, [Document(i, text, "x", i + 1) for i, text in enumerate(texts)], "")]
    here = run_here(model.for_many_passes(), order, blocks)
    assignment = Assignment.of(ModelSource(str(folder)), fingerprint_of(model), order)
    assert_same(here, run_in_worker(assignment, blocks))


def test_results_are_merged_in_any_order_and_are_not_changed_by_it(asked):
    """Many of the texts are equal, and so are their largest values."""
    model = load(asked[0])
    order = order_for(model, **MEASURED)
    documents = list(Corpus(CorpusSelection((asked[1],))))
    blocks = [Block(n, documents[32 * n : 32 * n + 32], str(n)) for n in range(7)]
    whole = run_here(model, order, blocks)
    results = [run_here(model, order, [block]) for block in blocks]
    for _ in range(2):
        tree = merged_results(merged_results(*results[4:]), merged_results(*results[3::-1]))
        assert tree.blocks == whole.blocks
        assert_same(tree, whole)


def assert_same(one, other):
    for name, tally in one.tallies.items():
        for part, array in tally.arrays().items():
            expected = other.tallies[name].arrays()[part]
            np.testing.assert_array_equal(array, expected, err_msg=f"{name} {part}", strict=True)


def test_what_a_killed_worker_had_is_run_again(asked, whole):
    notes, killed = [], []

    def kill_one(done, now):
        if not killed:
            killed.append(active_children()[0])
            killed[0].kill()

    assert survey_bytes(measured(*asked, workers=2, report=kill_one, note=notes.append)) == whole
    assert notes == ["a worker ended: what was running is run again"]
    assert active_children() == []


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("dies", RunError, r"workers ended 3 times with what .*texts\.txt:1 begins"),
        ("another", InputError, "a worker on .*: another model than the one here"),
        ("lacks", InputError, r"a worker on .*: nowhere\.gguf: "),
    ],
)
def test_workers_that_cannot_work(asked, how, kind, message):
    """An error of ours arrives as what it is; nothing is left behind."""
    with pytest.raises(kind, match=message):
        measured(Failing(asked[0], here=os.getpid(), how=how), asked[1], workers=1)
    assert active_children() == []


def test_another_program_is_refused():
    model = init()
    ours = Assignment.of(ModelSource(None), fingerprint_of(model), order_for(model))
    with pytest.raises(InputError, match=r"has microgpt-trace \S+, where microgpt-trace 0\.0\.1 asks"):
        run_in_worker(replace(ours, program="microgpt-trace 0.0.1"), [])


def test_what_contradicts_itself_is_refused(asked):
    for how, message in (
        ({"workers": -1}, "workers: expected 1 to 1,024, found -1"),
        ({"workers": 2000}, "workers: expected 1 to 1,024, found 2,000"),
        ({"workers": 2, "scheduler": "tcp://a:1"}, "give one of the two"),
        ({"shard": (0, 3)}, "found 0/3"),
        ({"shard": (4, 3)}, "found 4/3"),
        ({"resume": True}, "name it"),
    ):
        with pytest.raises(InputError, match=message):
            measured(*asked, **how)
