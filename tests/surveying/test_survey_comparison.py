"""Compared surveys: the distances against NumPy over all values, the other figures against both reports."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from support.surveyed_texts import write_texts
from support.surveys import columns, surveyed, values_of
from support.terminal import rendered
from support.tiny_experts import write_experts
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace import init, load
from microgpt_trace.errors import InputError
from microgpt_trace.render.results.survey_comparison_sections import survey_comparison_sections
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.survey import survey
from microgpt_trace.surveying.survey_comparison import compare_surveys, relative_distance
from microgpt_trace.text.json_writing import result_json

TEXTS = ["Ann ran", "a man", "Ann and a hen ran", "rare", "an era near an area", "n"]


def rounded(weights):
    """Round every matrix to multiples of 1/64."""
    for name, array in weights.items():
        if array.ndim == 2:
            weights[name] = np.round(64 * array) / np.float32(64)


@pytest.fixture(scope="module")
def models(decoder_folder):
    """A model, and the same model with rounded parameters."""
    folders = (decoder_folder(edit=edit, intermediate_size=64) for edit in (None, rounded))
    return [load(folder) for folder in folders]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("corpus") / "texts.txt", TEXTS)


@pytest.fixture(scope="module")
def surveys(models, corpus):
    return [survey(model, corpus) for model in models]


@pytest.fixture(scope="module")
def comparison(surveys):
    return compare_surveys(*surveys)


@pytest.fixture(scope="module")
def values(models):
    """All values of both models by event, with channels or heads as columns: [N, C]"""
    sides = []
    for model in models:
        parts = {}
        for _, _, own in values_of(model, TEXTS):
            for name, array in own.items():
                part = columns(array, model.plan[name].kind.causal)
                parts.setdefault(name, []).append(part.astype(np.float64))
        sides.append({name: np.concatenate(arrays) for name, arrays in parts.items()})
    return sides


def rows(comparison, kind):
    """Return the differences of a kind by name and figure."""
    return {(own.name, own.figure): own for own in comparison.differences if own.kind == kind}


# --- Distances --------------------------------------------------------------------------------


def test_distances_of_events_are_those_of_numpy(comparison, surveys, values):
    found, same = rows(comparison, "event"), set()
    for name in surveys[0].order.events:
        a, b = (side[name] for side in values)
        rms_a, rms_b = (np.sqrt((x * x).mean(axis=0)) for x in (a, b))
        size = np.linalg.norm(rms_a)
        changes = {"RMS": rms_b - rms_a, "mean": b.mean(0) - a.mean(0)}
        same |= {name} if not changes["RMS"].any() else set()
        for figure, change in changes.items():
            own, expected = found.get((name, figure)), np.linalg.norm(change) / size
            assert (own.distance if own else 0) == pytest.approx(expected, rel=1e-6, abs=1e-9), (name, figure)
    assert len(found) > 60
    assert {name for name, _ in found}.isdisjoint(same)
    assert [own.distance for own in comparison.differences] == sorted(
        (own.distance for own in comparison.differences), reverse=True
    )


def test_a_distance_relative_to_zero_is_zero_or_infinite():
    zero, one = np.zeros(3), np.ones(3)
    assert relative_distance(zero, zero, zero) == 0
    assert relative_distance(zero, one, zero) == math.inf
    assert relative_distance(one, 1.5 * one, one) == 0.5


def test_other_distances_follow_from_both_reports(comparison, surveys):
    """Shares and cosines by their change, losses and growths by their relative change."""
    one, two = map(report_of, surveys)
    heads, layers = rows(comparison, "head"), rows(comparison, "layer")
    for a, b in zip(one.heads, two.heads, strict=True):
        name = f"layer{a.layer} head {a.head}"
        entropy = abs(b.entropy - a.entropy) / a.even_entropy
        assert heads[name, "entropy"].distance == pytest.approx(entropy)
        own = heads[name, "position 0"]
        assert (own.a, own.b, own.event) == (a.attention.first, b.attention.first, a.event)
        assert own.distance == abs(own.b - own.a) > 0
    for a, b in zip(one.layers, two.layers, strict=True):
        assert layers[f"layer{a.layer}", "growth"].distance == pytest.approx(abs(b.growth / a.growth - 1))
        assert layers[f"layer{a.layer}", "cosine"].distance == pytest.approx(abs(b.cosine - a.cosine))
    part, (a,), (b,) = rows(comparison, "prediction"), one.parts, two.parts
    assert part["predictions", "loss"].distance == pytest.approx(abs(b.loss / a.loss - 1))
    rank = part["predictions", "mean 1/rank"].distance
    assert rank == pytest.approx(abs(b.reciprocal_rank - a.reciprocal_rank))
    by_text = part["predictions", "loss by text"]
    assert by_text.error == pytest.approx(math.sqrt((a.spread**2 + b.spread**2) / len(TEXTS[:-1])))
    assert (by_text.a, by_text.b) == (a.document_loss, b.document_loss)


def test_changes_of_tokens_add_up_to_the_change_of_the_loss(comparison):
    loss = rows(comparison, "prediction")["predictions", "loss"]
    tokens = rows(comparison, "token").values()
    total = math.fsum(math.copysign(own.distance, own.b - own.a) for own in tokens)
    assert total == pytest.approx((loss.b - loss.a) / loss.a, rel=1e-9)


def test_experts_are_compared_by_their_shares(tmp_path):
    folder = write_experts(tmp_path / "experts")
    write_tokenizer(folder)
    one, two = (surveyed(load(folder), texts, tmp_path) for texts in (TEXTS, TEXTS[:2]))
    result, reports = compare_surveys(one, two), [report_of(own) for own in (one, two)]
    found = rows(result, "expert")
    for a, b in zip(*(own.routers for own in reports), strict=True):
        for expert, shares in enumerate(zip(a.shares, b.shares, strict=True)):
            own = found.get((f"layer{a.layer} expert {expert}", "share"))
            assert shares == ((own.a, own.b) if own else (shares[0],) * 2)
            assert own is None or own.distance == abs(own.b - own.a)
    assert {name for name, _ in rows(result, "router")} == {"layer0 router", "layer2 router"}


# --- Agreement --------------------------------------------------------------------------------


def test_the_tolerance_applies_to_the_largest_distance(surveys, comparison):
    same = compare_surveys(surveys[0], surveys[0])
    assert (same.same, same.agree, same.same_tokens, same.first) == (True, True, True, None)
    assert same.differences == ()
    most = comparison.differences[0].distance
    for rtol, agree in ((None, False), (0.0, False), (most * 0.999, False), (most, True), (1e9, True)):
        result = compare_surveys(*surveys, rtol=rtol)
        assert (result.agree, result.same) == (agree, False)
    assert comparison.first == "embed.tok"
    far = next(own for own in comparison.differences if own.kind == "event")
    assert compare_surveys(*surveys, rtol=far.distance * 0.999).first == far.name


def test_names_choose_the_compared_events(surveys):
    chosen = compare_surveys(*surveys, names=["layer1.attn.*"])
    assert {own.event.rpartition(".")[0] for own in chosen.differences} == {"layer1.attn"}
    assert chosen.compared.keys() == {"event", "head"}  # the names do not include the residual stream
    assert {name for name, _ in rows(chosen, "head")} == {f"layer1 head {head}" for head in range(4)}
    with pytest.raises(InputError, match="matches no event"):
        compare_surveys(*surveys, names=["nothing.at.all"])


def changed(survey, name, channel, value):
    """Return the survey with another number of one channel, or of all (None)."""
    tally = survey.tallies[name]
    values = tally.values().copy()
    values[slice(channel, None if channel is None else channel + 1)] = value
    new = type(tally)(*values.shape)
    new.restore({"": values})
    return replace(survey, tallies=survey.tallies | {name: new})


def test_the_tolerance_applies_to_losses_in_either_direction(surveys):
    a, name = surveys[0], "predictions/token_loss"
    worse = changed(a, name, None, 2 * a.tallies[name].values())
    for one, two, distance in ((a, worse, 1.0), (worse, a, 0.5)):
        result = compare_surveys(one, two, rtol=0.49)
        assert result.differences[0].distance == pytest.approx(distance, rel=1e-12)
        assert (result.agree, result.first) == (False, None)
        assert compare_surveys(one, two, rtol=1.001 * distance).agree


def test_a_number_that_is_not_finite_is_infinitely_far(surveys):
    a, event = surveys[0], "final.norm"
    result = compare_surveys(a, changed(a, f"{event}/nonfinite", 3, 1), rtol=1e9)
    (own,) = result.differences
    assert (own.figure, own.a, own.b, own.distance) == ("values not finite", 0, 1, math.inf)
    assert (result.agree, result.first) == (False, event)


def test_names_outliers_and_dead_channels_of_one_survey(surveys):
    a, event = surveys[0], "final.norm"
    loud = changed(a, f"{event}/squares", 3, 1e6)
    for one, two, side in ((a, loud, "B"), (loud, a, "A")):
        result = compare_surveys(one, two, names=[event])
        (own,) = rows(result, "channel").values()
        assert (own.name, own.remark) == (f"{event}[3]", f"outlier only in {side}")
        assert own.distance == pytest.approx(rows(result, "event")[event, "RMS"].distance)  # no other changed
    assert "outlier only in A" in rendered(survey_comparison_sections(result), 120)
    squares = 2**-20 * a.tallies[f"{event}/squares"].values()
    squares[3] *= 2**20  # the same as in A, but the median is smaller
    (own,) = rows(compare_surveys(a, changed(a, f"{event}/squares", None, squares)), "channel").values()
    assert (own.name, own.remark, own.distance) == (f"{event}[3]", "outlier only in B", 0)
    unknown = changed(loud, f"{event}/values", 3, 0)
    assert rows(compare_surveys(loud, unknown), "channel") == {}


# --- Other texts, models and vocabularies -----------------------------------------------------


def test_surveys_of_other_texts_are_compared_and_say_so(models, surveys, tmp_path):
    other = [*TEXTS[:-1], "bcb"]
    cases = {
        "fingerprint of the texts": {"texts": other}, "number of documents": {"texts": TEXTS[:3]},
        "--max-tokens": {"texts": TEXTS, "max_tokens": 5}, "--chat": None,
    }  # fmt: skip
    for reason, options in cases.items():
        if options is None:
            two = replace(surveys[0], order=replace(surveys[0].order, chat=True))
        else:
            two = surveyed(models[0], folder=tmp_path, **options)
        result = compare_surveys(surveys[0], two)
        note = result.notes[0]
        assert not result.same_tokens
        assert re.match(rf"the surveys did not run the same tokens \(different: .*{reason}", note), note
    fewer = compare_surveys(surveys[0], surveyed(models[0], TEXTS[:1], tmp_path))
    assert any(name.startswith("token ") for name in fewer.not_compared["not measured in B"])
    assert "spread of predictions" in fewer.not_compared["known in one survey only"]
    assert all(math.isfinite(own.distance) for own in fewer.differences)
    shown = rendered(survey_comparison_sections(fewer), 80)
    assert "corpus   A: texts.txt: 6 texts, " in shown
    assert "         B: corpus.txt: 1 text, " in shown


def test_shards_of_a_corpus_are_other_texts(models, tmp_path):
    options = {"texts": TEXTS * 5, "folder": tmp_path, "events": ["final.norm"]}
    first, second = (surveyed(models[0], **options, shard=(i, 2)) for i in (1, 2))
    same = surveyed(models[1], **options, shard=(1, 2))
    assert compare_surveys(first, same).same_tokens
    assert "shard" in compare_surveys(first, second).notes[0]


def test_models_of_other_widths_are_compared_where_their_channels_match(surveys, decoder_folder, corpus):
    narrow = survey(load(decoder_folder(intermediate_size=32, num_hidden_layers=1)), corpus)
    result = compare_surveys(surveys[0], narrow)
    reasons = result.not_compared
    assert "layer0.mlp.hidden" in reasons["Multiply of 64 channels in A, Multiply of 32 channels in B"]
    assert all(name.startswith("layer1") for name in reasons["not measured in B"])
    assert {name for name, _ in rows(result, "event")} >= {"layer0.mlp.down", "final.norm"}
    assert {name for name, _ in rows(result, "layer")} == {"layer0"}
    assert rows(result, "prediction")
    assert result.same_tokens


def test_losses_of_models_with_other_vocabularies_are_not_compared(surveys, corpus):
    result = compare_surveys(surveys[0], survey(init(seed=1), corpus, events=["*"]))
    assert result.compared.keys() == {"event", "head"}  # both have 4 heads
    assert "predictions" in result.not_compared["the vocabularies differ"]
    assert "vocabulary, texts and tokens that were run" in result.notes[0]
    with pytest.raises(InputError, match="expected an event of A with the same size, found none"):
        compare_surveys(surveys[0], survey(init(seed=1), corpus, events=["embed.pos"]))


def test_compares_the_parts_of_microgpts(tmp_path):
    names = ["emma", "olivia", "ava", "mia", "amelia", "ella", "aria", "noah"] * 4
    one, two = (surveyed(init(seed=seed), names, tmp_path, events=["layer0.mlp.act"]) for seed in (1, 2))
    result = compare_surveys(one, two)
    assert {name for name, _ in rows(result, "prediction")} == {"predictions, train", "predictions, held out"}
    document = json.loads(result_json(result))
    assert (document["schema"], document["agree"]) == ("microgpt.survey-diff/3", False)
    loss = rows(result, "prediction")["predictions, train", "loss by text"]
    shown = rendered(survey_comparison_sections(result), 100)
    assert re.search(rf"predictions, train +loss by text .* ± {loss.error:.4f} *\n", shown)
    hidden = len(rows(result, "token")) - 8
    assert f"not shown: {hidden} of kind token, with smaller distances; --verbose shows all" in shown
    assert rendered(survey_comparison_sections(result, verbose=True), 100).count("token ") == hidden + 8
