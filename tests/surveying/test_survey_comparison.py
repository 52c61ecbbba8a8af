"""Two surveys compared: every figure against NumPy over all values, divergences against integrals."""

import json
import math
from dataclasses import astuple, replace

import numpy as np
import pytest
from support.surveyed_texts import written
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
    """Every matrix as llama.cpp's blocks of a type hold it."""
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
    return written(tmp_path_factory.mktemp("corpus") / "texts.txt", TEXTS)


@pytest.fixture(scope="module")
def surveys(models, corpus):
    return [survey(model, corpus) for model in models]


@pytest.fixture(scope="module")
def found(surveys):
    return compare_surveys(*surveys)


@pytest.fixture(scope="module")
def values(models):
    """All values of both models by event: channels, or heads over the keys that queries see, [N, C]"""
    sides = []
    for model in models:
        seen = {}
        for _, _, own in values_of(model, TEXTS):
            for name, array in own.items():
                part = columns(array, model.plan[name].kind.causal)
                seen.setdefault(name, []).append(part.astype(np.float64))
        sides.append({name: np.concatenate(parts) for name, parts in seen.items()})
    return sides


def normal_kl(a, b):
    """By the textbook, channel by channel."""
    found = []
    for one, two in zip(a.T, b.T, strict=True):
        s, t = one.std(), two.std()
        found.append(math.log(t / s) + (s * s + (one.mean() - two.mean()) ** 2) / (2 * t * t) - 0.5)
    return np.array(found)


# --- Events -----------------------------------------------------------------------------------


def test_channels_are_compared_as_numpy_says(found, values):
    assert len(found.events) > 30
    for shift in found.events:
        a, b = (side[shift.name] for side in values)
        rms_a, rms_b = (np.sqrt((x * x).mean(axis=0)) for x in (a, b))
        size, changes = np.linalg.norm(rms_a), np.abs(rms_b - rms_a)
        rms, mean = np.linalg.norm(changes) / size, np.linalg.norm(b.mean(0) - a.mean(0)) / size
        assert (shift.a.count, shift.a.channels) == (a.size, a.shape[1]), shift.name
        np.testing.assert_allclose([shift.rms_change, shift.mean_change], [rms, mean], rtol=1e-6, atol=1e-9)
        assert shift.same == (not changes.any()), shift.name
        assert shift.distance == max(shift.rms_change, shift.mean_change)
        kl = normal_kl(a, b)
        close = pytest.approx((kl.mean(), kl.max()), rel=1e-6, abs=1e-14)
        assert (shift.kl, shift.largest_kl) == close, shift.name
        assert kl[shift.channel] == pytest.approx(kl.max(), rel=1e-6, abs=1e-14)
        assert shift.one_sided == 0
    assert any(shift.kl > 1e-3 for shift in found.events)


@pytest.mark.parametrize(("a", "b"), [((0, 1), (0, 1)), ((0, 1), (0.3, 1.2)), ((-2, 0.5), (1, 3))])
def test_kl_of_normal_distributions_is_the_integral(a, b):
    (m, s), (n, t) = a, b
    x = np.linspace(m - 14 * s, m + 14 * s, 200_001)
    log_p, log_q = (-(((x - c) / w) ** 2) / 2 - math.log(w * math.sqrt(2 * math.pi)) for c, w in (a, b))
    integral = (np.exp(log_p) * (log_p - log_q)).sum() * (x[1] - x[0])
    kl = normal_divergence(*(np.array([v]) for v in (m, s * s, n, t * t)))
    print(kl, integral)
    np.testing.assert_allclose(kl, [integral], rtol=1e-9, atol=1e-12)


def test_a_distance_of_nothing_is_none_and_one_from_nothing_has_no_end():
    zero, one = np.zeros(3), np.ones(3)
    assert relative_distance(zero, zero, zero) == 0
    assert relative_distance(zero, one, zero) == math.inf
    assert relative_distance(one, 1.5 * one, one) == 0.5


# --- Layers and heads -------------------------------------------------------------------------


def test_layers_are_those_of_their_streams(found, surveys, values):
    streams = surveys[0].model.streams
    kl = [normal_kl(*(side[name] for side in values)).mean() for name in streams]
    assert len(found.layers) == len(kl) - 1
    for i, layer in enumerate(found.layers):
        np.testing.assert_allclose([layer.kl_before, layer.kl], kl[i : i + 2], rtol=1e-6, atol=1e-14)
        assert layer.added == pytest.approx(kl[i + 1] - kl[i])
        within = [e for e in found.events if e.a.layer == i and e.name != streams[i + 1]]
        farthest = max(within, key=lambda event: event.kl)
        assert (layer.farthest, layer.farthest_kl) == (farthest.name, farthest.kl)


# --- What each of the surveys says by itself, which other tests hold against plain loops ------


def test_rows_are_those_of_the_reports(found, surveys):
    one, two = map(report_of, surveys)
    for what in ("events", "layers", "heads", "parts"):
        pairs = getattr(found, what)
        assert [pair.a for pair in pairs] == [*getattr(one, what)]
        assert [pair.b for pair in pairs] == [*getattr(two, what)]
    for own in found.layers:
        growth, cosine = own.b.growth / own.a.growth - 1, own.b.cosine - own.a.cosine
        assert own.distance == pytest.approx(max(abs(growth), abs(cosine)))
    for own in found.heads:
        attention = zip(astuple(own.a.attention), astuple(own.b.attention), strict=True)
        shares = [abs(x - y) for x, y in attention if x is not None]
        assert own.distance == max(*shares, abs(own.a.entropy - own.b.entropy) / own.a.even_entropy) > 0


def test_losses_are_those_of_each_survey(found):
    (part,) = found.parts
    a, b = part.a, part.b
    assert part.perplexity_ratio == pytest.approx(math.exp(b.loss) / math.exp(a.loss))
    assert part.difference == b.document_loss - a.document_loss
    assert part.error == pytest.approx(math.sqrt((a.spread**2 + b.spread**2) / len(TEXTS[:-1])))
    of_b = {own.token: own.loss for own in b.by_token}
    lost = {own.token: own.count * (of_b[own.token] - own.loss) for own in a.by_token}
    assert [pair.a.token for pair in part.tokens] == sorted(lost, key=lambda token: -lost[token])
    assert [pair.lost for pair in part.tokens] == sorted(lost.values(), reverse=True)


# --- What agrees, and what cannot be compared -------------------------------------------------


def test_the_same_bits_agree(surveys):
    a, _ = surveys
    found = compare_surveys(a, a)
    assert (found.same, found.agree, found.first) == (True, True, None)
    assert all(event.same and event.distance == 0 == event.kl for event in found.events)


def test_a_tolerance_is_held_against_the_largest_distance(surveys, found):
    most = max(own.distance for own in found.measured)
    for rtol, agree in ((None, False), (0.0, False), (most * 0.999, False), (most, True), (1e9, True)):
        result = compare_surveys(*surveys, rtol=rtol)
        assert (result.agree, result.same) == (agree, False)
    own = next(event for event in found.events if not event.same)
    assert found.first == own.name
    far = max(found.events, key=lambda event: event.distance)
    above = compare_surveys(*surveys, rtol=far.distance * 0.999)
    assert above.first == far.name


def test_names_choose_what_is_compared(surveys):
    found = compare_surveys(*surveys, names=["layer1.attn.*"])
    assert {event.name.rpartition(".")[0] for event in found.events} == {"layer1.attn"}
    assert {head.a.layer for head in found.heads} == {1}
    assert found.parts == found.layers == ()  # the stream is not among the names
    with pytest.raises(InputError, match="matches no event"):
        compare_surveys(*surveys, names=["nothing.at.all"])


def test_only_the_same_texts_read_alike_are_compared(models, surveys, tmp_path):
    other = surveyed(models[1], [*TEXTS[:-1], "a"], tmp_path)
    fewer = surveyed(models[1], TEXTS[:3], tmp_path)
    cut = surveyed(models[1], TEXTS, tmp_path, max_tokens=5)
    few = "documents is 3, where a.safetensors has 6"
    for b, words in ((other, "fingerprint"), (fewer, few), (cut, "--max-tokens is 5")):
        with pytest.raises(InputError, match=f"^b.safetensors: .*{words}"):
            compare_surveys(surveys[0], b, called=("a.safetensors", "b.safetensors"))


def test_parts_of_a_corpus_are_compared_if_they_are_the_same(models, tmp_path):
    how = {"texts": TEXTS * 5, "folder": tmp_path, "events": ["final.norm"]}
    first, second = (surveyed(models[0], **how, shard=(i, 2)) for i in (1, 2))
    same = surveyed(models[1], **how, shard=(1, 2))
    assert not compare_surveys(first, same).agree
    with pytest.raises(InputError, match=r"part of the corpus, block by block, is"):
        compare_surveys(first, second)


def test_models_of_other_widths_are_compared_where_their_channels_match(surveys, decoder_folder, corpus):
    narrow = survey(load(decoder_folder(intermediate_size=32, num_hidden_layers=1)), corpus)
    found = compare_surveys(surveys[0], narrow)
    reasons = {left.reason: left.names for left in found.not_compared}
    assert "layer0.mlp.hidden" in reasons["64 channels in A, 32 in B"]
    assert all(name.startswith("layer1.") for name in reasons["B has not measured it"])
    assert {event.name for event in found.events} & {"layer0.attn.q", "final.norm"}
    assert [pair.name for pair in found.layers] == ["layer0"]
    assert found.parts[0].a.loss != found.parts[0].b.loss


def test_models_of_other_vocabularies_have_no_losses_to_compare(surveys, corpus):
    names = survey(init(seed=1), corpus, events=["*"])
    found = compare_surveys(surveys[0], names)
    assert "layer0.attn.weights" in {event.name for event in found.events}  # both have 4 heads
    assert found.parts == ()
    assert "other vocabularies" in found.notes[0]
    assert "6 texts of 53 tokens in all in A, 2 texts of" in found.notes[1]
    with pytest.raises(InputError, match="nothing in it has the name"):
        compare_surveys(surveys[0], survey(init(seed=1), corpus, events=["embed.tok"]))


def changed(one, name, channel, value):
    """The survey with another sum of one channel, or of all (None)."""
    exact = one.tallies[name]
    values = exact.values().copy()
    values[slice(channel, None if channel is None else channel + 1)] = value
    return replace(one, tallies=one.tallies | {name: type(exact).of({"": values})})


def test_losses_are_held_against_the_tolerance_in_either_direction(surveys):
    a, name = surveys[0], "predictions/token_loss"
    worse = changed(a, name, None, 2 * a.tallies[name].values())
    for one, two, distance in ((a, worse, 1.0), (worse, a, 0.5)):
        found = compare_surveys(one, two, rtol=0.49)
        assert found.parts[0].distance == pytest.approx(distance, rel=1e-12)
        assert (found.agree, found.first, found.events[0].distance) == (False, None, 0)
        assert compare_surveys(one, two, rtol=1.001 * distance).agree


def test_the_farthest_event_of_a_layer_is_not_its_stream(surveys):
    names = surveys[0].model.streams[1:]
    assert [layer.farthest for layer in compare_surveys(*surveys, names=names).layers] == [None, None]


def test_a_channel_that_stops_varying_is_counted_apart(surveys):
    a, event = surveys[0], "final.norm"
    count, total = (a.tallies[f"{event}/{what}"].values() for what in ("values", "total"))
    still = changed(a, f"{event}/squares", 3, total[3] ** 2 / count[3])
    shift = compare_surveys(a, still, names=[event]).events[0]
    assert (shift.one_sided, shift.kl) == (1, 0.0)


def test_an_outlier_that_appears_is_named(surveys):
    a, event = surveys[0], "final.norm"
    loud = changed(a, f"{event}/squares", 3, 1e6)
    for one, two, outliers in ((a, loud, ((3,), ())), (loud, a, ((), (3,)))):
        assert astuple(compare_surveys(one, two, names=[event]).events[0].outliers) == outliers


def test_parts_of_microgpts_are_compared_one_by_one(tmp_path):
    names = ["emma", "olivia", "ava", "mia", "amelia", "ella", "aria", "noah"] * 4
    one, two = (surveyed(init(seed=seed), names, tmp_path, events=["layer0.mlp.act"]) for seed in (1, 2))
    found = compare_surveys(one, two)
    assert {pair.name for pair in found.parts} == {"train", "held out"}
    document = json.loads(result_json(found))
    assert (document["schema"], document["agree"]) == ("microgpt.survey-diff/2", False)
