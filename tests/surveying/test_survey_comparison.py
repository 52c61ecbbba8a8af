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
from microgpt_trace.surveying.divergences import jensen_shannon, normal_divergence, relative_distance
from microgpt_trace.surveying.meters import bin_edges
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.survey import survey
from microgpt_trace.text.json_writing import result_json

TEXTS = ["Ann ran", "a man", "Ann and a hen ran", "rare", "an era near an area", "n"]
HISTOGRAMS = ["*.mlp.hidden", "*.attn.weights"]


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
    return [survey(model, corpus, histograms=HISTOGRAMS) for model in models]


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
        assert (shift.count_a, shift.channels) == (a.size, a.shape[1]), shift.name
        np.testing.assert_allclose([shift.rms_change, shift.mean_change], [rms, mean], rtol=1e-6, atol=1e-9)
        assert (shift.same, changes[shift.channel]) == (not changes.any(), changes.max()), shift.name
        kl = normal_kl(a, b)
        close = pytest.approx((kl.mean(), kl.max()), rel=1e-6, abs=1e-14)
        assert (shift.kl.mean, shift.kl.largest) == close, shift.name
        assert (shift.kl.channels, shift.kl.one_sided) == (a.shape[1], 0)
    assert any(shift.kl.mean > 1e-3 for shift in found.events)


def test_magnitudes_are_compared_where_they_were_counted(found, values):
    counted = [shift for shift in found.events if shift.magnitudes is not None]
    assert {shift.name.partition(".")[2] for shift in counted} == {"mlp.hidden", "attn.weights"}
    edges = bin_edges()
    edges = edges[: np.isfinite(edges).sum()]
    for shift in counted:
        p, q = (np.histogram(np.abs(side[shift.name]), edges)[0] for side in values)
        p, q = p / p.sum(), q / q.sum()
        both = [(x, (x + y) / 2) for x, y in [*zip(p, q, strict=True), *zip(q, p, strict=True)] if x]
        assert shift.magnitudes == pytest.approx(sum(x * math.log(x / m) for x, m in both) / 2, rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [((0, 1), (0, 1)), ((0, 1), (0.3, 1.2)), ((-2, 0.5), (1, 3))])
def test_kl_of_normal_distributions_is_the_integral(a, b):
    (m, s), (n, t) = a, b
    x = np.linspace(m - 14 * s, m + 14 * s, 200_001)
    log_p, log_q = (-(((x - c) / w) ** 2) / 2 - math.log(w * math.sqrt(2 * math.pi)) for c, w in (a, b))
    integral = (np.exp(log_p) * (log_p - log_q)).sum() * (x[1] - x[0])
    kl = normal_divergence(*(np.array([v]) for v in (m, s * s, n, t * t)))
    print(kl, integral)
    np.testing.assert_allclose(kl, [integral], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 2, 3], [2, 4, 6], 0.0),
        ([1, 0], [0, 7], math.log(2)),
        ([0, 0], [1, 2], None),
        ([1, 1], [2, 0], (math.log(2 / 3) + math.log(2) + 2 * math.log(4 / 3)) / 4),
    ],
)
def test_jensen_shannon(a, b, expected):
    assert jensen_shannon(np.array(a), np.array(b)) == (expected and pytest.approx(expected, rel=1e-12))


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
        within = [e for e in found.events if e.layer == i and e.name != streams[i + 1]]
        farthest = max(within, key=lambda event: event.kl.mean)
        assert (layer.farthest, layer.farthest_kl) == (farthest.name, farthest.kl.mean)
    assert found.entering_kl == pytest.approx(kl[0])


# --- What each of the surveys says by itself, which other tests hold against plain loops ------


def test_layers_and_heads_change_by_what_each_survey_says_of_them(found, surveys):
    one, two = map(report_of, surveys)
    for own, a, b in zip(found.layers, one.layers, two.layers, strict=True):
        assert (own.growth_a, own.cosine_a, own.massive_a) == (a.growth, a.cosine, a.massive)
        assert (own.growth_b, own.cosine_b, own.massive_b) == (b.growth, b.cosine, b.massive)
        assert own.distance == pytest.approx(max(abs(b.growth / a.growth - 1), abs(b.cosine - a.cosine)))
    for own, a, b in zip(found.heads, one.heads, two.heads, strict=True):
        assert (own.role_a, own.entropy_a, own.attention_a) == (a.role, a.entropy, a.attention)
        assert (own.role_b, own.entropy_b, own.attention_b) == (b.role, b.entropy, b.attention)
        shares = [abs(x - y) for x, y in zip(astuple(a.attention), astuple(b.attention), strict=True) if x]
        assert own.change == max(*shares, abs(a.entropy - b.entropy) / a.even_entropy) > 0


def test_losses_are_those_of_each_survey(found, surveys):
    (part,), (a,), (b,) = found.parts, *(report_of(one).parts for one in surveys)
    assert (part.loss_a, part.document_loss_a, part.accuracy_a) == (a.loss, a.document_loss, a.accuracy)
    assert (part.loss_b, part.document_loss_b, part.accuracy_b) == (b.loss, b.document_loss, b.accuracy)
    assert part.perplexity_ratio == pytest.approx(math.exp(b.loss) / math.exp(a.loss))
    assert part.difference == b.document_loss - a.document_loss
    assert part.error == pytest.approx(math.sqrt((a.spread**2 + b.spread**2) / len(TEXTS[:-1])))
    assert part.beyond_error == (abs(part.difference) > 2 * part.error)
    of_b = {own.token: own.loss for own in b.by_token}
    lost = {own.token: own.count * (of_b[own.token] - own.loss) for own in a.by_token}
    assert [t.token for t in part.by_token] == sorted(lost, key=lambda token: -lost[token])
    assert [t.lost for t in part.by_token] == sorted(lost.values(), reverse=True)
    assert part.other_tokens == 0


# --- What agrees, and what cannot be compared -------------------------------------------------


def test_the_same_bits_agree(surveys):
    a, _ = surveys
    found = compare_surveys(a, a)
    assert (found.same, found.agree, found.first) == (True, True, None)
    assert all(event.same and event.distance == 0 == event.kl.mean for event in found.events)


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
    assert {head.layer for head in found.heads} == {1} == {layer.layer for layer in found.layers}
    assert found.parts == ()
    assert found.layers[0].event is None
    with pytest.raises(InputError, match="matches no event"):
        compare_surveys(*surveys, names=["nothing.at.all"])


def test_only_the_same_texts_read_alike_are_compared(models, surveys, tmp_path):
    other = surveyed(models[1], [*TEXTS[:-1], "a"], tmp_path)
    fewer = surveyed(models[1], TEXTS[:3], tmp_path)
    cut = surveyed(models[1], TEXTS, tmp_path, max_tokens=5)
    few = "documents is 3, where a.safetensors has 6"
    for b, words in ((other, "fingerprint"), (fewer, few), (cut, "--max-tokens was 5")):
        with pytest.raises(InputError, match=f"^b.safetensors: .*{words}"):
            compare_surveys(surveys[0], b, called=("a.safetensors", "b.safetensors"))


def test_parts_of_a_corpus_are_compared_if_they_are_the_same(models, tmp_path):
    how = {"texts": TEXTS * 5, "folder": tmp_path, "events": ["final.norm"]}
    first, second = (surveyed(models[0], **how, shard=(i, 2)) for i in (1, 2))
    same = surveyed(models[1], **how, shard=(1, 2))
    assert not compare_surveys(first, same).agree
    with pytest.raises(InputError, match=r"part of the corpus is .*blocks"):
        compare_surveys(first, second)


def test_models_of_other_widths_are_compared_where_their_channels_match(surveys, decoder_folder, corpus):
    narrow = survey(load(decoder_folder(intermediate_size=32, num_hidden_layers=1)), corpus)
    found = compare_surveys(surveys[0], narrow)
    reasons = {left.reason: left.names for left in found.not_compared}
    assert "layer0.mlp.hidden" in reasons["64 channels in A, 32 in B"]
    assert all(name.startswith("layer1.") for name in reasons["B has not measured it"])
    assert {event.name for event in found.events} & {"layer0.attn.q", "final.norm"}
    assert [layer.layer for layer in found.layers] == [0]
    assert found.parts[0].loss_a != found.parts[0].loss_b


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
    assert (shift.kl.one_sided, shift.kl.channels, shift.kl.mean) == (1, len(count) - 1, 0.0)


def test_an_outlier_that_appears_is_named(surveys):
    a, event = surveys[0], "final.norm"
    loud = changed(a, f"{event}/squares", 3, 1e6)
    for one, two, dead in ((a, loud, (1, (3,), 0, ())), (loud, a, (0, (), 1, (3,)))):
        own = compare_surveys(one, two, names=[event]).events[0].outliers
        assert (own.appeared, own.first_appeared, own.vanished, own.first_vanished) == dead


def test_parts_of_microgpts_are_compared_one_by_one(tmp_path):
    names = ["emma", "olivia", "ava", "mia", "amelia", "ella", "aria", "noah"] * 4
    one, two = (surveyed(init(seed=seed), names, tmp_path, events=["layer0.mlp.act"]) for seed in (1, 2))
    found = compare_surveys(one, two)
    assert {part.part for part in found.parts} == {"train", "held out"}
    document = json.loads(result_json(found))
    assert (document["schema"], document["agree"]) == ("microgpt.survey-diff/1", False)
    assert document["layers"][0]["added"] is None
