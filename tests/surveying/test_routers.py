"""The routers of a survey, against plain loops over all logits and a worked case."""

import math

import numpy as np
import pytest
from support.commands import microgpt, refusal
from support.documents import valid
from support.surveys import LONG, MANY, set_pack_size, surveyed, values_of
from support.terminal import rendered
from support.tiny_experts import CHOSEN, EXPERTS, bits, judged, write_experts
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace import load
from microgpt_trace.errors import FileFormatError
from microgpt_trace.measuring.router_meter import RouterMeter, RouterTallies
from microgpt_trace.measuring.tallies import named
from microgpt_trace.render.results.survey_sections import survey_sections
from microgpt_trace.surveying.report import report_of
from microgpt_trace.surveying.shard import units_of
from microgpt_trace.surveying.state import merge_surveys
from microgpt_trace.surveying.survey_files import read_survey, survey_bytes

pytest.importorskip("tokenizers", reason="text is encoded by the package tokenizers")
TEXTS = [*MANY, *LONG]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_experts(tmp_path_factory.mktemp("experts"))
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


@pytest.fixture
def survey(model, monkeypatch, tmp_path):
    set_pack_size(monkeypatch, 8)
    return surveyed(model, TEXTS, tmp_path)


def test_the_routers_of_a_corpus(model, survey):
    report, documents = report_of(survey), values_of(model, TEXTS)
    assert [own.event for own in report.routers] == ["layer0.mlp.router", "layer2.mlp.router"]
    for own in report.routers:
        logits = np.concatenate([value[own.event] for *_, value in documents]).astype(np.float64)
        load, *_ = judged(logits)
        shares = [[math.exp(x - max(row)) for x in row] for row in logits.tolist()]
        shares = [[x / math.fsum(row) for x in row] for row in shares]
        mean = [math.fsum(column) / len(shares) for column in zip(*shares, strict=True)]
        entropies = bits(c / sum(load) for c in load), bits(mean), math.fsum(map(bits, shares)) / len(shares)
        found = own.load_entropy, own.routing_entropy, own.token_entropy
        print(own.event, load, found, entropies)
        assert (own.tokens, own.load) == (len(logits), tuple(load))
        assert own.shares == pytest.approx([c / sum(load) for c in load])
        assert own.routing == pytest.approx(mean, rel=1e-12)
        assert found == pytest.approx(entropies, rel=1e-12)
        assert own.most_entropy == math.log2(EXPERTS)
        assert own.never == tuple(e for e in range(EXPERTS) if not load[e])


def test_routers_worked_by_hand():
    """A row with an infinite logit is left out."""
    meter = RouterMeter({"layer0.r": "layer0.c"}, {"layer0.r": 4})
    even, sure, half = [0, 0, 0, 0], [0, -2000, -2000, -2000], [9, 9, -2000, -2000]
    meter("layer0.r", np.array([even, sure, [np.inf, 0, 0, 0], half], np.float32))
    meter("layer0.c", np.array([[0], [0], [0], [1]], np.float32))
    found = {name.partition("/")[2]: tally.values().tolist() for name, tally in meter.tallies.items()}
    assert found == {
        "routed": [3], "load": [2, 1, 0, 0], "routing": [1.75, 0.75, 0.25, 0.25], "routing_entropy": [3.0],
    }  # fmt: skip


def test_shards_of_routers_merge_to_the_same_bytes(model, survey, tmp_path):
    parts = {str(tmp_path / f"{i}.safetensors"): (i, 3) for i in (3, 1, 2)}
    for path, shard in parts.items():
        surveyed(model, TEXTS, tmp_path, shard=shard, out=path)
    merged = merge_surveys(dict(zip(parts, map(read_survey, parts), strict=True)))
    assert survey_bytes(merged) == survey_bytes(survey)
    assert report_of(merged).routers == report_of(survey).routers
    assert len(report_of(survey).routers) == 2


def test_a_survey_without_a_router_has_no_tallies_of_it(model, survey, tmp_path):
    assert not {"layer0.mlp.chosen", "layer2.mlp.chosen"} & {*survey.order.events}
    of_one = surveyed(model, TEXTS[:3], tmp_path, events=["layer1.*", "layer2.mlp.router"])
    assert [own.layer for own in report_of(of_one).routers] == [2]


def test_a_survey_of_a_model_without_experts_has_no_routers(decoder_folder, tmp_path):
    dense = surveyed(load(decoder_folder("qwen3")), MANY, tmp_path)
    assert report_of(dense).routers == ()
    assert not any("rout" in name for name in dense.tallies)


def test_tallies_of_a_router_outside_layers_are_refused(survey, tmp_path):
    survey.tallies |= named({"embed.tok": vars(RouterTallies(32))})
    (tmp_path / "s.safetensors").write_bytes(survey_bytes(survey))
    with pytest.raises(FileFormatError, match=r"embed\.tok.* does not belong"):
        read_survey(tmp_path / "s.safetensors")


def test_the_report_of_a_survey_shows_the_experts(folder, survey, tmp_path):
    text = rendered(survey_sections(report_of(survey)), 80)
    section = text[text.index("\nExperts") :].partition("\n\n")[0]
    print(section)
    own = report_of(survey).routers[0]
    busiest = max(range(EXPERTS), key=own.load.__getitem__)
    assert f"    0  {busiest} {own.load[busiest] / sum(own.load):.1%}, " in section
    for entropy in (own.load_entropy, own.routing_entropy, own.token_entropy, math.log2(EXPERTS)):
        assert f"{entropy:.2f}" in section
    (tmp_path / "texts.txt").write_text("".join(f"{line}\n" for line in TEXTS))
    document = valid(microgpt("survey", folder, tmp_path / "texts.txt", "--json").out, "survey")
    assert [row["load"] for row in document["routers"]] == [
        list(row.load) for row in report_of(survey).routers
    ]


def test_experts_that_no_token_chose_are_listed(model, tmp_path):
    report = report_of(surveyed(model, ["a"], tmp_path))
    for router in report.routers:
        unused = [expert for expert in range(EXPERTS) if not router.load[expert]]
        assert (router.tokens, len(unused), router.never) == (1, EXPERTS - CHOSEN, tuple(unused))
    assert f"4 of 6: {', '.join(map(str, unused[:3]))}, …" in rendered(survey_sections(report), 100)


def test_units_of_experts_are_no_units_of_an_mlp(model, folder, tmp_path):
    assert units_of(model.plan) == ["layer1.mlp.hidden"]
    (tmp_path / "a.txt").write_text("abc\n")
    options = ("--events", "layer0.*", "--top", "2")
    assert "such as layer1.mlp.hidden" in refusal("survey", folder, tmp_path / "a.txt", *options)


def test_the_share_of_a_single_expert_is_no_anomaly(folder, tmp_path):
    one = load(folder, settings={"num_experts_per_tok": 1})
    own = surveyed(one, TEXTS, tmp_path)
    assert not [anomaly for anomaly in report_of(own).anomalies if anomaly.found]
