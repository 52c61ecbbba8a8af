"""A survey that ended early goes on to the bytes of one that did not, or is refused by what differs."""

import pytest
from support.commands import process
from support.surveyed_texts import lines, measured, written

from microgpt_trace import load
from microgpt_trace.errors import InputError
from microgpt_trace.surveying import execution
from microgpt_trace.surveying.survey_files import read_survey, survey_bytes

pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")


@pytest.fixture(scope="module")
def model(decoder_folder):
    return str(decoder_folder())


@pytest.fixture(autouse=True)
def block_by_block(monkeypatch):
    """Of 8 texts, however fast they are."""
    monkeypatch.setattr(execution, "MOST_BLOCKS", 1)


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
    """There may be nothing to go on with, and nothing left to do."""
    whole = out.with_name("whole.safetensors")
    measured(model, corpus, out=whole, resume=True, **how)
    interrupted(model, corpus, out, **how)
    assert sorted(read_survey(out).blocks) == ([0, 2] if how else [0, 1])
    told = []
    for expected in ([(24, 8)], []):  # texts in all, and by this run
        told.clear()
        measured(model, corpus, out=out, resume=True, report=lambda *now: told.append(now), **how)
        assert out.read_bytes() == whole.read_bytes()
        assert told[:1] == expected


@pytest.mark.parametrize("shard", [None, (1, 1), (1, 2)])
def test_other_texts_are_refused_and_nothing_is_lost(model, corpus, out, shard):
    """By what is left of an interrupted survey, of a whole one, and of a part."""
    how = {"shard": shard} if shard else {}
    if shard:
        measured(model, corpus, out=out, **how)
    else:
        interrupted(model, corpus, out)
    before = out.read_bytes()
    others, said = ["another", *lines(40)[1:]], ""
    if shard == (1, 1):
        others, said = [*lines(40), "more"], r" \(40 documents, now 41\)"
    written(out.parent / "texts.txt", others)
    with pytest.raises(InputError, match=rf"other texts than .* there{said}$"):
        measured(model, corpus, out=out, resume=True, **how)
    assert out.read_bytes() == before


def test_what_is_asked_for_must_be_the_same(model, corpus, out, decoder_folder):
    before = interrupted(model, corpus, out)
    other = decoder_folder(edit=lambda weights: weights.update(_doubled(weights)))
    for message, asked, change in (
        ("--events ", model, {"events": ["*.mlp.*"]}),
        ("--top 3", model, {"top": 3}),
        ("--max-tokens 8", model, {"max_tokens": 8}),
        ("--limit 30", model, {"limit": 30}),
        ("of another model, of ", other, {}),
    ):
        with pytest.raises(InputError, match=f"{out}.*{message}|{message}.*{out}"):
            measured(asked, corpus, out=out, resume=True, **change)
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


def test_what_ends_before_anything_was_read_leaves_what_was_there(model, corpus, out):
    measured(model, corpus, out=out)
    before = out.read_bytes()
    with pytest.raises(InputError, match="give the path"):
        measured(load(model), corpus, out=out, force=True, workers=1)
    assert out.read_bytes() == before
