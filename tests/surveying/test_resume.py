"""A survey that ended early goes on to the bytes of one that did not, or is refused by what differs."""

import errno
import os

import pytest
from support.commands import process
from support.surveyed_texts import lines, measured, written

from microgpt_trace import load
from microgpt_trace.decoder import model as decoder
from microgpt_trace.errors import InputError, RunError
from microgpt_trace.surveying import run
from microgpt_trace.surveying.survey_files import read_survey, survey_bytes

pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")


@pytest.fixture(scope="module")
def model(decoder_folder):
    return str(decoder_folder())


@pytest.fixture(autouse=True)
def block_by_block(monkeypatch):
    """Of 8 texts, however fast they are."""
    monkeypatch.setattr(run, "MOST_BLOCKS", 1)
    monkeypatch.setattr(decoder, "PACK", 8)


@pytest.fixture
def corpus(tmp_path):
    return written(tmp_path / "texts.txt", lines(40))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "a.survey.safetensors"


def interrupted(model, corpus, out, at=16, **how):
    """Read so many documents and be interrupted."""

    def stop(done, now):
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(model, corpus, out=out, report=stop, **how)
    return out.read_bytes()


@pytest.mark.parametrize("how", [{}, {"shard": (1, 2)}])
def test_a_survey_goes_on_to_the_bytes_of_a_whole_one(model, corpus, out, how):
    whole, told = survey_bytes(measured(model, corpus, **how)), []
    interrupted(model, corpus, out, **how)
    assert sorted(read_survey(out).blocks) == ([0, 2] if how else [0, 1])
    measured(model, corpus, out=out, resume=True, report=lambda *now: told.append(now), **how)
    assert out.read_bytes() == whole
    assert told[0] == (24, 8)  # texts in all, and by this run
    told.clear()
    measured(model, corpus, out=out, resume=True, report=lambda *now: told.append(now), **how)
    assert (out.read_bytes(), told) == (whole, [])


def test_there_may_be_nothing_to_go_on_with(model, corpus, out):
    measured(model, corpus, out=out, resume=True)
    assert out.read_bytes() == survey_bytes(measured(model, corpus))


@pytest.mark.parametrize("left", ["some", "all", "a part"])
def test_other_texts_are_refused_and_nothing_is_lost(model, corpus, out, left):
    if left == "some":
        before = interrupted(model, corpus, out)
    else:
        measured(model, corpus, out=out, shard=(1, 2) if left == "a part" else (1, 1))
        before = out.read_bytes()
    texts = lines(40)
    written(out.parent / "texts.txt", [*texts[:3], "another", *texts[4:]])
    with pytest.raises(InputError, match="other texts than"):
        measured(model, corpus, out=out, resume=True, shard=(1, 2) if left == "a part" else (1, 1))
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("--events ", {"events": ["*.mlp.*"]}),
        ("--top 3", {"top": 3}),
        ("--max-tokens 8", {"max_tokens": 8}),
        ("--limit 30", {"limit": 30}),
        ("--seed 1", {"seed": 1}),
    ],
)
def test_what_is_asked_for_must_be_the_same(model, corpus, out, what, change):
    before = interrupted(model, corpus, out)
    with pytest.raises(InputError, match=what) as error:
        measured(model, corpus, out=out, resume=True, **change)
    assert str(out) in str(error.value)
    assert out.read_bytes() == before


def test_another_model_is_refused(model, corpus, out, decoder_folder):
    before = interrupted(model, corpus, out)
    other = decoder_folder(edit=lambda weights: weights.update(_doubled(weights)))
    with pytest.raises(InputError, match="of another model, of "):
        measured(other, corpus, out=out, resume=True)
    assert out.read_bytes() == before


def _doubled(weights):
    return {name: 2 * weights[name] for name in list(weights)[:1]}


def test_one_run_at_a_time_writes_a_file(model, corpus, out):
    refused = []

    def another(done, now):
        if not refused:
            refused.append(process("survey", model, corpus, "--out", out, "--force"))

    measured(model, corpus, out=out, report=another)
    assert (refused[0].code, refused[0].err) == (2, f"microgpt: {out}: another run is writing it\n")
    assert out.read_bytes() == survey_bytes(measured(model, corpus))


def test_a_full_disk_leaves_what_was_there(model, corpus, out, monkeypatch):
    before = interrupted(model, corpus, out)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="No space left on device"):
            measured(model, corpus, out=out, resume=True)
    assert out.read_bytes() == before
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, "texts.txt"]
    measured(model, corpus, out=out, resume=True)
    assert out.read_bytes() == survey_bytes(measured(model, corpus))


def test_what_ends_before_anything_was_read_leaves_what_was_there(model, corpus, out):
    measured(model, corpus, out=out)
    before = out.read_bytes()
    with pytest.raises(InputError, match="give the path"):
        measured(load(model), corpus, out=out, force=True, workers=1)
    assert out.read_bytes() == before
