"""A survey by worker processes has the bytes of one process, even if workers are killed. Workers that cannot
work are an error."""

import os
from dataclasses import replace
from multiprocessing import active_children
from types import SimpleNamespace

import numpy as np
import pytest
from support.stored_tensors import stored
from support.surveyed_texts import make_texts, small_survey, write_texts

from microgpt_trace import init, load
from microgpt_trace.corpus.corpus import Document
from microgpt_trace.errors import InputError, RunError
from microgpt_trace.surveying.execution import (
    Assignment,
    Block,
    ModelSource,
    run_here,
    run_in_worker,
)
from microgpt_trace.surveying.options import SurveyOptions
from microgpt_trace.surveying.shard import order_for
from microgpt_trace.surveying.state import SAMPLED, fingerprint_of
from microgpt_trace.surveying.survey_files import survey_bytes
from microgpt_trace.text.frozen import frozen

pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")


@frozen(slots=False)
class Failing(ModelSource):
    """A model that only the process of the test can open."""

    here: int = 0
    failure: str = "dies"

    def open(self):
        if os.getpid() == self.here:
            return super().open()
        if self.failure == "dies":
            os._exit(1)
        return init() if self.failure == "another" else load("nowhere.gguf")


@pytest.fixture(scope="module")
def inputs(decoder_folder, tmp_path_factory):
    """A model and a corpus of 7 blocks, the last of which is not full."""
    corpus = tmp_path_factory.mktemp("corpus") / "texts.txt"
    return str(decoder_folder()), write_texts(corpus, make_texts(197))


@pytest.fixture(scope="module")
def whole(inputs):
    return survey_bytes(small_survey(*inputs))


def test_a_worker_computes_the_same_as_this_process(gpt2):
    """Both must unpack the weights, since packed weights round differently."""
    folder, model, *_ = gpt2()
    order, texts = order_for(model, SurveyOptions()), ["abcabca", "bca", "cab", "a"]
    blocks = [Block(0, [Document(i, text, "x", i + 1) for i, text in enumerate(texts)], "")]
    here = run_here(model.for_many_passes(), order, blocks)
    assignment = Assignment.of(ModelSource(str(folder)), fingerprint_of(model), order)
    assert_same(here, run_in_worker(assignment, blocks))


@pytest.mark.parametrize("at", [0, SAMPLED - 1, 1 << 15, (1 << 15) + SAMPLED - 1, -SAMPLED, -1])
def test_the_fingerprint_covers_the_start_the_middle_and_the_end_of_a_stored_tensor(at):
    tensor = stored("F32", 128, 128)  # 64 KiB
    model = SimpleNamespace(config=SimpleNamespace(shapes=lambda: {"w": (128, 128)}), tensors={"w": tensor})
    before = fingerprint_of(model)
    assert fingerprint_of(model) == before
    tensor.data[at] ^= 1
    assert fingerprint_of(model) != before


def test_the_fingerprint_covers_every_value_in_memory():
    model = init()
    prints = {fingerprint_of(model)}
    for at in ((0, 0), (13, 7), (-1, -1)):
        model.params["lm_head"][at] += 1
        prints.add(fingerprint_of(model))
    assert len(prints) == 4


def assert_same(one, other):
    for name, tally in one.tallies.items():
        for part, array in tally.arrays().items():
            expected = other.tallies[name].arrays()[part]
            np.testing.assert_array_equal(array, expected, err_msg=f"{name} {part}", strict=True)


def test_the_tasks_of_a_killed_worker_are_run_again(inputs, whole):
    notes, killed = [], []

    def kill_one(done, now):
        if not killed:
            killed.append(active_children()[0])
            killed[0].kill()

    assert survey_bytes(small_survey(*inputs, workers=2, report=kill_one, note=notes.append)) == whole
    assert notes == ["A worker process ended. Its tasks are run again."]
    assert active_children() == []


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        ("dies", RunError, r"texts\.txt:1: workers ended 3 times in the task that starts here"),
        ("another", InputError, "a worker on .*: expected the parameters of this command's model"),
        ("lacks", InputError, r"a worker on .*: nowhere\.gguf: "),
    ],
)
def test_an_error_of_a_worker_ends_the_survey_and_all_workers(inputs, failure, kind, message):
    with pytest.raises(kind, match=message):
        small_survey(Failing(inputs[0], here=os.getpid(), failure=failure), inputs[1], workers=1)
    assert active_children() == []


def test_a_worker_refuses_another_version_of_the_program():
    model = init()
    ours = Assignment.of(ModelSource(None), fingerprint_of(model), order_for(model, SurveyOptions()))
    with pytest.raises(InputError, match=r"expected microgpt-trace 0\.0\.1, found microgpt-trace \S+$"):
        run_in_worker(replace(ours, program="microgpt-trace 0.0.1"), [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": -1}, "workers: expected 0 to 1,024, found -1"),
        ({"workers": 2000}, "workers: expected 0 to 1,024, found 2000"),
        ({"workers": 2, "scheduler": "tcp://a:1"}, "workers and scheduler cannot be combined"),
        ({"shard": (0, 3)}, "found 0/3"),
        ({"shard": (4, 3)}, "found 4/3"),
        ({"resume": True}, "resume needs out: out names the survey to continue"),
    ],
)
def test_refuses_invalid_options(inputs, options, message):
    with pytest.raises(InputError, match=message):
        small_survey(*inputs, **options)
