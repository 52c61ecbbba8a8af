"""A resumed survey has the bytes of an uninterrupted one. A changed corpus or option is refused."""

import pytest
from support.commands import process
from support.surveyed_texts import make_texts, small_survey, write_texts

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
    """Make every task one block of 8 texts."""
    monkeypatch.setattr(execution, "MOST_BLOCKS", 1)


@pytest.fixture
def corpus(tmp_path):
    return write_texts(tmp_path / "texts.txt", make_texts(40))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "a.survey.safetensors"


def interrupted(model, corpus, out, at=16, **options):
    """Interrupt a survey after some documents and return the bytes of its file."""

    def stop(done, now):
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_survey(model, corpus, out=out, report=stop, **options)
    return out.read_bytes()


@pytest.mark.parametrize("options", [{}, {"shard": (1, 2)}])
def test_a_resumed_survey_has_the_bytes_of_an_uninterrupted_one(model, corpus, out, options):
    """The first file does not exist yet; the last run has nothing left to do."""
    whole = out.with_name("whole.safetensors")
    small_survey(model, corpus, out=whole, resume=True, **options)
    interrupted(model, corpus, out, **options)
    assert sorted(read_survey(out).blocks) == ([0, 2] if options else [0, 1])
    for expected in ([(24, 8)], []):  # texts in all, and by this run
        reports = []
        small_survey(model, corpus, out=out, resume=True, report=lambda *now: reports.append(now), **options)  # noqa: B023
        assert out.read_bytes() == whole.read_bytes()
        assert reports[:1] == expected


@pytest.mark.parametrize("shard", [None, (1, 1), (1, 2)])
def test_refuses_a_changed_corpus_and_keeps_the_file(model, corpus, out, shard):
    """The cases: an interrupted survey, a complete one, and a part."""
    options = {"shard": shard} if shard else {}
    if shard:
        small_survey(model, corpus, out=out, **options)
    else:
        interrupted(model, corpus, out)
    before = out.read_bytes()
    others, counts = ["another", *make_texts(40)[1:]], ""
    if shard == (1, 1):
        others, counts = [*make_texts(40), "more"], " from 40 to 41 documents"
    write_texts(out.parent / "texts.txt", others)
    with pytest.raises(InputError, match=f"the texts changed{counts} since this survey began; "):
        small_survey(model, corpus, out=out, resume=True, **options)
    assert out.read_bytes() == before


def test_refuses_to_resume_with_other_options_or_another_model(model, corpus, out, decoder_folder):
    before = interrupted(model, corpus, out)
    other = decoder_folder(edit=lambda weights: weights.update({(name := min(weights)): 2 * weights[name]}))
    for message, path, change in (
        ("events: expected ", model, {"events": ["*.mlp.*"]}),
        ("top: expected 3 as in the request, found 2", model, {"top": 3}),
        ("max_tokens: expected 8 as in the request, found None", model, {"max_tokens": 8}),
        ("limit: expected 30 as in the request, found None", model, {"limit": 30}),
        ("expected the model of the request, ", other, {}),
    ):
        with pytest.raises(InputError, match=f"^{out}: {message}"):
            small_survey(path, corpus, out=out, resume=True, **change)
        assert out.read_bytes() == before


def test_only_one_run_at_a_time_writes_a_file(model, corpus, out):
    refused = []

    def another(done, now):
        if not refused:
            refused.append(process("survey", model, corpus, "--out", out, "--force"))

    small_survey(model, corpus, out=out, report=another)
    assert (refused[0].code, refused[0].err) == (2, f"microgpt: {out}: another run is writing it\n")
    assert out.read_bytes() == survey_bytes(small_survey(model, corpus))


def test_an_error_before_the_first_result_keeps_the_file(model, corpus, out):
    small_survey(model, corpus, out=out)
    before = out.read_bytes()
    with pytest.raises(InputError, match="workers: expected the path of a model"):
        small_survey(load(model), corpus, out=out, force=True, workers=1)
    assert out.read_bytes() == before
