"""Shares, entropies and roles of heads, growth and peaks of layers, against plain loops over all values."""

import math
from dataclasses import asdict, astuple
from types import SimpleNamespace

import numpy as np
import pytest
from support.surveys import MANY, set_pack_size, surveyed, values_of
from support.sweeps import in_sweep

from microgpt_trace import Config, init
from microgpt_trace.measuring.attention_meter import AttentionMeter
from microgpt_trace.measuring.meter import PackLayout
from microgpt_trace.measuring.streams import FARTHEST
from microgpt_trace.models.packs import ReadText
from microgpt_trace.plans.kinds import Softmax
from microgpt_trace.surveying.report import report_of

TEXTS = [*MANY, "abcabcabc", "d"]
SWEPT = map(in_sweep, ("untrained", "llama_gqa", "qwen2_window"))
CASES = ["trained", "deep", "mistral_window", "gpt2", *SWEPT]


def shares_of(weights, tokens):
    """Return each share for every query that has such keys: [T, T], [T]"""
    shares = {key: [] for key in ("itself", "previous", "first", "repeat", "repeat_apart", "entropy")}
    for query in range(1, len(tokens)):
        row = [float(weight) for weight in weights[query][: query + 1]]
        shares["itself"].append(row[query])
        shares["previous"].append(row[query - 1])
        shares["first"].append(row[0])
        shares["entropy"].append(-sum(weight * math.log(weight) for weight in row if weight > 0))
        same = [key for key in range(query) if tokens[key] == tokens[query]]
        for name, keys in (("repeat", same), ("repeat_apart", [k for k in same if 0 < k < query - 1])):
            if keys:
                shares[name].append(sum(row[key] for key in keys))
    return shares


def even_attention(length, window):
    visible = [[k <= q and (not window or k > q - window) for k in range(length)] for q in range(length)]
    return [[see / sum(row) for see in row] for row in visible]


def means(documents):
    """Return the means over the queries of all documents, None without queries."""
    queries = {key: [x for shares in documents for x in shares[key]] for key in documents[0]}
    return {key: math.fsum(values) / len(values) if values else None for key, values in queries.items()}


def role_by_hand(shares, evenly):
    """The role with a share of at least 0.4 and twice the even share, and with the largest multiple."""
    fields = {"itself": "itself", "previous": "previous", "first": "first", "repeat": "repeat_apart"}
    times = {}
    for role, field in fields.items():
        if shares[field] is not None and shares[field] >= max(0.4, 2 * evenly[field]):
            times[role] = shares[field] / evenly[field]
    best = [role for role, multiple in times.items() if multiple == max(times.values())]
    return best[0] if len(best) == 1 else "none"


@pytest.mark.parametrize("model", CASES, indirect=True)
def test_shares_entropies_and_roles_of_heads(model, tmp_path):
    heads = report_of(surveyed(model, TEXTS, tmp_path)).heads
    documents = values_of(model, TEXTS)
    assert len(heads) == sum(documents[0][2][name].shape[0] for name in documents[0][2] if "weights" in name)
    for own in heads:
        shares = means([shares_of(value[own.event][own.head], read.tokens) for _, read, value in documents])
        tokens = [read.tokens for _, read, _ in documents]
        evenly = means([shares_of(even_attention(len(text), own.window), text) for text in tokens])
        got = asdict(own.attention) | {"entropy": own.entropy}
        assert got == pytest.approx(shares, rel=2e-6, abs=1e-7), f"{own.event} {own.head}"
        got = asdict(own.even) | {"entropy": own.even_entropy}
        assert got == pytest.approx(evenly, rel=2e-6, abs=1e-7), f"{own.event} {own.head}"
        assert own.role == role_by_hand(shares, evenly), f"{own.event} {own.head}: {own.role}"
    assert {own.window for own in heads} == {kind.window for kind in model.plan.kinds(Softmax)}


def test_a_head_that_attends_to_position_0_has_its_role(monkeypatch, tmp_path):
    """Only BOS, at position 0, gives keys whose scores are not 0."""
    set_pack_size(monkeypatch, 8)
    model = init()
    for name in ("wpe", "layer0.attn_wq", "layer0.attn_wk"):
        model.params[name][:] = 0
    model.params["wte"][:, :] = -1
    model.params["wte"][0, 0] = 9  # BOS
    model.params["wte"][:, 1] = 1
    model.params["layer0.attn_wq"][:4, 1] = 20
    model.params["layer0.attn_wk"][:4, 0] = 20
    heads = report_of(surveyed(model, TEXTS, tmp_path)).heads
    assert [own.role for own in heads] == ["first", "none", "none", "none"]
    assert [own.attention.first > 0.99 for own in heads] == [True, False, False, False]


@pytest.mark.parametrize("model", CASES, indirect=True)
def test_the_effect_of_layers_on_the_residual_stream(model, tmp_path):
    report = report_of(surveyed(model, TEXTS, tmp_path))
    documents, streams = values_of(model, TEXTS), model.plan.streams
    assert [(own.layer, own.event) for own in report.layers] == [*enumerate(streams[1:])]
    for own in report.layers:
        growth, cosine, peaks = [], [], []
        for number, _, value in documents:
            before, after = (value[streams[own.layer + i]].astype(np.float64) for i in (0, 1))
            for a, b in zip(before, after, strict=True):
                growth.append(math.log(np.linalg.norm(b) / np.linalg.norm(a)))
                cosine.append(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
            sizes = np.abs(value[streams[own.layer + 1]])
            peaks.append((float(sizes.max() / np.median(sizes)), -number, sizes))
        assert own.rows == len(growth)
        assert own.growth == pytest.approx(math.exp(math.fsum(growth) / len(growth)), rel=1e-9)
        assert own.cosine == pytest.approx(math.fsum(cosine) / len(cosine), rel=1e-9)
        assert own.documents == len(documents)
        assert own.massive == sum(times >= 1000 for times, *_ in peaks)
        times, number, sizes = max(peaks, key=lambda peak: peak[:2])
        position, channel = divmod(int(sizes.argmax()), sizes.shape[1])
        example = own.farthest
        assert example.value == pytest.approx(times, rel=1e-6)
        assert (example.document, example.position, example.channel) == (-number, position, channel)
        assert example.place.endswith(f"corpus.txt:{1 - number}")


def test_massive_activations_are_counted_by_document(monkeypatch, tmp_path):
    set_pack_size(monkeypatch, 8)
    model = init()
    for name in ("wpe", "layer0.mlp_fc2", "layer0.attn_wo"):
        model.params[name][:] = 0
    model.params["wte"][:] = 1e-6
    model.params["wte"][1, 3] = 1.0  # a
    (own,) = report_of(surveyed(model, ["a", "b", "bab", "ccc", "cca"], tmp_path)).layers
    assert (own.documents, own.massive) == (5, 3)
    assert (own.growth, own.cosine) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize("model", ["llama_gqa", "qwen2_window", "trained"], indirect=True)
def test_insights_follow_from_the_rows(model, tmp_path):
    report = report_of(surveyed(model, TEXTS, tmp_path))
    growth, massive, sinks, turn = report.insights
    assert [own.id for own in report.insights] == ["growth", "massive", "sinks", "turn"]
    factor = math.prod(own.growth for own in report.layers[1:])
    if len(report.layers) > 1:
        assert growth.numbers["last"] == pytest.approx(factor)
        assert growth.holds == (factor >= 2)
    assert massive.holds == any(own.massive for own in report.layers)
    assert massive.numbers["times_median"] == max(own.farthest.value for own in report.layers)
    heads = [own for own in report.heads if not own.window]
    layers = {own.layer for own in heads}
    largest = max(np.mean([own.attention.first for own in heads if own.layer == layer]) for layer in layers)
    assert sinks.numbers["largest"] == pytest.approx(largest)
    even = heads[0].even.first
    assert sinks.holds == (largest >= even + 0.3 * (1 - even))
    cosines = [own.cosine for own in report.layers]
    assert turn.numbers == {"layers": sum(own >= 0.98 for own in cosines), "smallest_cosine": min(cosines)}


def anomalies(texts, folder, **factors):
    """Return the anomalies of eight layers with some parameters multiplied by factors."""
    model = init(Config(n_layer=8, block_size=64))
    for name, factor in factors.items():
        model.params[name.replace("__", ".")][:] *= factor
    return {own.id: own for own in report_of(surveyed(model, texts, folder)).anomalies}


def test_anomalies_name_the_broken_layer(tmp_path):
    texts = ["abcab" * 6, "bca" * 9, "the" * 7]
    sound = anomalies(texts, tmp_path)
    assert list(sound) == ["nonfinite", "constant", "growth", "turn"]
    assert not any(own.found for own in sound.values())
    scaled = anomalies(texts, tmp_path, layer5__mlp_fc2=300)
    print(sound["growth"], scaled["growth"])
    assert (scaled["growth"].found, scaled["growth"].layer) == (True, 5)
    turned = anomalies(texts, tmp_path, layer3__mlp_fc1=0, layer6__attn_wv=np.nan)
    assert (turned["constant"].found, turned["constant"].layer) == (True, 3)
    assert turned["nonfinite"].detail == "first in layer6.attn.v"
    assert turned["growth"].detail.startswith("in every text, the residual stream of a layer is")
    short = anomalies(["ab", "bab"], tmp_path)
    reason = "needs 16 tokens per text on average, found 3.5"  # with BOS
    assert short["growth"].detail == short["turn"].detail == reason


@pytest.mark.parametrize("size", [8, 40])
def test_the_first_documents_win_ties_of_peaks(size, monkeypatch, tmp_path):
    """All rows are equal, so that all documents have the same peak, whatever their length and pack."""
    set_pack_size(monkeypatch, size)
    model = init()
    for name in ("wpe", "layer0.mlp_fc2", "layer0.attn_wo"):
        model.params[name][:] = 0
    model.params["wte"][:] = model.params["wte"][0]
    texts = ["abcab", "abca", "ab", "a", "b", "abc", "ba", "c", "cba", "aa", "bb", "a"]
    top = surveyed(model, texts, tmp_path).tallies["streams/farthest"]
    assert top.entries["document"].tolist() == [[*range(FARTHEST)]], f"{top.entries}"


@pytest.mark.parametrize(("name", "row", "lost"), [("wpe", 5, "abcabca"), ("wte", 3, "cb")])
def test_documents_with_nan_weights_do_not_change_the_heads(name, row, lost, monkeypatch, tmp_path):
    """NaN in the embedding of position 5, or of c. Another text has the same length as a lost one."""
    set_pack_size(monkeypatch, 8)
    broken = init()
    broken.params[name][row] = np.nan
    whole = report_of(surveyed(init(), ["ab", "aba", "b"], tmp_path)).heads
    heads = report_of(surveyed(broken, [lost, "ab", "aba", lost, "b"], tmp_path)).heads
    for own, expected in zip(heads, whole, strict=True):
        assert astuple(own.attention) == pytest.approx(astuple(expected.attention), rel=1e-6)
        assert own.entropy == pytest.approx(expected.entropy, rel=1e-6)
    assert report_of(surveyed(broken, [lost, lost], tmp_path)).heads == ()


@pytest.mark.parametrize("place", [(0, 0), (2, 1), (2, 2)])
def test_a_text_with_one_nan_weight_is_left_out(place):
    texts = [ReadText(np.array([1, 2, 1, 3]))] * 2
    meter = AttentionMeter({"w": 2}, {"w": None})
    meter.begin(PackLayout(init(), texts, [SimpleNamespace(number=0, row=0, text="")] * 2))
    weights = np.tile(np.tri(3, dtype=np.float32) / [[1], [2], [3]], (2, 2, 1, 1)).astype(np.float32)
    weights[0, 1][place] = np.nan
    meter("w", weights)
    meter.finish()
    assert meter.tallies["w/queries"].values().tolist() == [2]  # of the other text
    assert meter.tallies["w/itself"].values() == pytest.approx([1 / 2 + 1 / 3] * 2)
    assert meter.tallies["w/entropy"].values() == pytest.approx([math.log(2) + math.log(3)] * 2)
