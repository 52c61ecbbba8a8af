"""Compared surveys: every figure against NumPy over all values, divergences against integrals."""

import json
import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from support.surveyed_texts import write_texts
from support.surveys import columns, surveyed, values_of

from microgpt_trace import init, load
from microgpt_trace.errors import InputError
from microgpt_trace.surveying.comparison import compare_surveys
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.report_pairs import normal_divergence, relative_distance
from microgpt_trace.surveying.survey import survey
from microgpt_trace.text.json_writing import result_json

TEXTS = ["Ann ran", "a man", "Ann and a hen ran", "rare", "an era near an area", "n"]


def as_quantised(type):
    """Return a function that rounds every matrix to llama.cpp's blocks of a type."""
    quants = pytest.importorskip("gguf").quants
    kind = pytest.importorskip("gguf").GGMLQuantizationType[type]

    def edit(weights):
        for name, array in weights.items():
            if array.ndim == 2:
                weights[name] = quants.dequantize(quants.quantize(array, kind), kind).astype(np.float32)

    return edit


@pytest.fixture(scope="module")
def models(decoder_folder):
    """Two quantisations of one model."""
    kinds = ("Q8_0", "Q4_0")
    folders = (decoder_folder(edit=as_quantised(kind), intermediate_size=64) for kind in kinds)
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


def normal_kl(a, b):
    """Return the textbook KL divergence of each channel."""
    divergences = []
    for one, two in zip(a.T, b.T, strict=True):
        s, t = one.std(), two.std()
        divergences.append(math.log(t / s) + (s * s + (one.mean() - two.mean()) ** 2) / (2 * t * t) - 0.5)
    return np.array(divergences)


# --- Events -----------------------------------------------------------------------------------


def test_changes_of_channels_are_those_of_numpy(comparison, values):
    assert len(comparison.events) > 30
    for pair in comparison.events:
        a, b = (side[pair.name] for side in values)
        rms_a, rms_b = (np.sqrt((x * x).mean(axis=0)) for x in (a, b))
        size, changes = np.linalg.norm(rms_a), np.abs(rms_b - rms_a)
        rms, mean = np.linalg.norm(changes) / size, np.linalg.norm(b.mean(0) - a.mean(0)) / size
        assert (pair.a.count, pair.a.channels) == (a.size, a.shape[1]), pair.name
        np.testing.assert_allclose([pair.rms_change, pair.mean_change], [rms, mean], rtol=1e-6, atol=1e-9)
        assert pair.same == (not changes.any()), pair.name
        assert pair.distance == max(pair.rms_change, pair.mean_change)
        kl = normal_kl(a, b)
        close = pytest.approx((kl.mean(), kl.max()), rel=1e-6, abs=1e-14)
        assert (pair.kl, pair.largest_kl) == close, pair.name
        assert kl[pair.channel] == pytest.approx(kl.max(), rel=1e-6, abs=1e-14)
        assert pair.one_sided == 0
    assert any(pair.kl > 1e-3 for pair in comparison.events)


@pytest.mark.parametrize(("a", "b"), [((0, 1), (0, 1)), ((0, 1), (0.3, 1.2)), ((-2, 0.5), (1, 3))])
def test_kl_of_normal_distributions_is_the_integral(a, b):
    (m, s), (n, t) = a, b
    x = np.linspace(m - 14 * s, m + 14 * s, 200_001)
    log_p, log_q = (-(((x - c) / w) ** 2) / 2 - math.log(w * math.sqrt(2 * math.pi)) for c, w in (a, b))
    integral = (np.exp(log_p) * (log_p - log_q)).sum() * (x[1] - x[0])
    kl = normal_divergence(*(np.array([v]) for v in (m, s * s, n, t * t)))
    print(kl, integral)
    np.testing.assert_allclose(kl, [integral], rtol=1e-9, atol=1e-12)


def test_a_distance_relative_to_zero_is_zero_or_infinite():
    zero, one = np.zeros(3), np.ones(3)
    assert relative_distance(zero, zero, zero) == 0
    assert relative_distance(zero, one, zero) == math.inf
    assert relative_distance(one, 1.5 * one, one) == 0.5


# --- Layers and heads -------------------------------------------------------------------------


def test_layers_compare_the_residual_streams_around_them(comparison, surveys, values):
    streams = surveys[0].model.streams
    kl = [normal_kl(*(side[name] for side in values)).mean() for name in streams]
    assert len(comparison.layers) == len(kl) - 1
    for i, layer in enumerate(comparison.layers):
        np.testing.assert_allclose([layer.kl_before, layer.kl], kl[i : i + 2], rtol=1e-6, atol=1e-14)
        assert layer.added == pytest.approx(kl[i + 1] - kl[i])
        within = [e for e in comparison.events if e.a.layer == i and e.name != streams[i + 1]]
        farthest = max(within, key=lambda event: event.kl)
        assert (layer.farthest, layer.farthest_kl) == (farthest.name, farthest.kl)


# --- Rows of each report, which other tests check against plain loops -------------------------


def test_pairs_consist_of_the_rows_of_both_reports(comparison, surveys):
    one, two = map(report_of, surveys)
    for kind in ("events", "layers", "heads", "parts"):
        pairs = getattr(comparison, kind)
        assert [pair.a for pair in pairs] == [*getattr(one, kind)]
        assert [pair.b for pair in pairs] == [*getattr(two, kind)]
    for own in comparison.layers:
        growth, cosine = own.b.growth / own.a.growth - 1, own.b.cosine - own.a.cosine
        assert own.distance == pytest.approx(max(abs(growth), abs(cosine)))
    for own in comparison.heads:
        attention = zip(astuple(own.a.attention), astuple(own.b.attention), strict=True)
        shares = [abs(x - y) for x, y in attention if x is not None]
        assert own.distance == max(*shares, abs(own.a.entropy - own.b.entropy) / own.a.even_entropy) > 0


def test_changes_of_losses_follow_from_both_reports(comparison):
    (part,) = comparison.parts
    a, b = part.a, part.b
    assert part.perplexity_ratio == pytest.approx(math.exp(b.loss) / math.exp(a.loss))
    assert part.difference == b.document_loss - a.document_loss
    assert part.error == pytest.approx(math.sqrt((a.spread**2 + b.spread**2) / len(TEXTS[:-1])))
    losses = {own.token: own.loss for own in b.by_token}
    lost = {own.token: own.count * (losses[own.token] - own.loss) for own in a.by_token}
    assert [pair.a.token for pair in part.tokens] == sorted(lost, key=lambda token: -lost[token])
    assert [pair.lost for pair in part.tokens] == sorted(lost.values(), reverse=True)


# --- Agreement, and surveys that cannot be compared -------------------------------------------


def test_equal_surveys_agree(surveys):
    same = compare_surveys(surveys[0], surveys[0])
    assert (same.same, same.agree, same.first) == (True, True, None)
    assert all(event.same and event.distance == 0 == event.kl for event in same.events)


def test_the_tolerance_applies_to_the_largest_distance(surveys, comparison):
    most = max(own.distance for own in comparison.measured)
    for rtol, agree in ((None, False), (0.0, False), (most * 0.999, False), (most, True), (1e9, True)):
        result = compare_surveys(*surveys, rtol=rtol)
        assert (result.agree, result.same) == (agree, False)
    assert comparison.first == next(event.name for event in comparison.events if not event.same)
    far = max(comparison.events, key=lambda event: event.distance)
    assert compare_surveys(*surveys, rtol=far.distance * 0.999).first == far.name


def test_names_choose_the_compared_events(surveys):
    chosen = compare_surveys(*surveys, names=["layer1.attn.*"])
    assert {event.name.rpartition(".")[0] for event in chosen.events} == {"layer1.attn"}
    assert {head.a.layer for head in chosen.heads} == {1}
    assert chosen.parts == chosen.layers == ()  # the names do not include the residual stream
    with pytest.raises(InputError, match="matches no event"):
        compare_surveys(*surveys, names=["nothing.at.all"])


def test_refuses_surveys_of_other_texts_or_with_other_reading_options(models, surveys, tmp_path):
    other = surveyed(models[1], [*TEXTS[:-1], "a"], tmp_path)
    fewer = surveyed(models[1], TEXTS[:3], tmp_path)
    cut = surveyed(models[1], TEXTS, tmp_path, max_tokens=5)
    few = "number of documents: expected 6 as in a.safetensors, found 3"
    tokens = "--max-tokens: expected None as in a.safetensors, found 5"
    for b, words in ((other, "fingerprint"), (fewer, few), (cut, tokens)):
        with pytest.raises(InputError, match=f"^b.safetensors: .*{words}"):
            compare_surveys(surveys[0], b, called=("a.safetensors", "b.safetensors"))


def test_compares_only_the_same_part_of_a_corpus(models, tmp_path):
    options = {"texts": TEXTS * 5, "folder": tmp_path, "events": ["final.norm"]}
    first, second = (surveyed(models[0], **options, shard=(i, 2)) for i in (1, 2))
    same = surveyed(models[1], **options, shard=(1, 2))
    assert not compare_surveys(first, same).agree
    with pytest.raises(InputError, match="blocks of an incomplete survey: expected"):
        compare_surveys(first, second)


def test_models_of_other_widths_are_compared_where_their_channels_match(surveys, decoder_folder, corpus):
    narrow = survey(load(decoder_folder(intermediate_size=32, num_hidden_layers=1)), corpus)
    result = compare_surveys(surveys[0], narrow)
    reasons = {left.reason: left.names for left in result.not_compared}
    assert "layer0.mlp.hidden" in reasons["64 channels in A, 32 in B"]
    assert all(name.startswith("layer1.") for name in reasons["not measured in B"])
    assert {event.name for event in result.events} & {"layer0.attn.q", "final.norm"}
    assert [pair.name for pair in result.layers] == ["layer0"]
    assert result.parts[0].a.loss != result.parts[0].b.loss


def test_losses_of_models_with_other_vocabularies_are_not_compared(surveys, corpus):
    result = compare_surveys(surveys[0], survey(init(seed=1), corpus, events=["*"]))
    assert "layer0.attn.weights" in {event.name for event in result.events}  # both have 4 heads
    assert result.parts == ()
    assert "the vocabularies differ" in result.notes[0]
    assert "6 texts of 53 tokens in A, 2 texts of" in result.notes[1]
    with pytest.raises(InputError, match="expected an event of A with the same size, found none"):
        compare_surveys(surveys[0], survey(init(seed=1), corpus, events=["embed.tok"]))


def changed(survey, name, channel, value):
    """Return the survey with another sum of one channel, or of all (None)."""
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
        assert result.parts[0].distance == pytest.approx(distance, rel=1e-12)
        assert (result.agree, result.first, result.events[0].distance) == (False, None, 0)
        assert compare_surveys(one, two, rtol=1.001 * distance).agree


def test_the_farthest_event_of_a_layer_is_not_the_residual_stream(surveys):
    names = surveys[0].model.streams[1:]
    assert [layer.farthest for layer in compare_surveys(*surveys, names=names).layers] == [None, None]


def test_a_channel_that_stops_varying_is_one_sided(surveys):
    a, event = surveys[0], "final.norm"
    count, total = (a.tallies[f"{event}/{measure}"].values() for measure in ("values", "total"))
    still = changed(a, f"{event}/squares", 3, total[3] ** 2 / count[3])
    pair = compare_surveys(a, still, names=[event]).events[0]
    assert (pair.one_sided, pair.kl) == (1, 0.0)


def test_names_outliers_that_appear_and_vanish(surveys):
    a, event = surveys[0], "final.norm"
    loud = changed(a, f"{event}/squares", 3, 1e6)
    for one, two, outliers in ((a, loud, ((3,), ())), (loud, a, ((), (3,)))):
        assert astuple(compare_surveys(one, two, names=[event]).events[0].outliers) == outliers


def test_compares_the_parts_of_microgpts(tmp_path):
    names = ["emma", "olivia", "ava", "mia", "amelia", "ella", "aria", "noah"] * 4
    one, two = (surveyed(init(seed=seed), names, tmp_path, events=["layer0.mlp.act"]) for seed in (1, 2))
    result = compare_surveys(one, two)
    assert {pair.name for pair in result.parts} == {"train", "held out"}
    document = json.loads(result_json(result))
    assert (document["schema"], document["agree"]) == ("microgpt.survey-diff/2", False)
