"""The choices of experts in a trace, against plain loops over all logits and a worked case."""

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.commands import microgpt
from support.documents import valid, valid_lines
from support.terminal import rendered
from support.tiny_experts import CHOSEN, EXPERTS, bits, judged, write_experts
from support.tiny_models import TOKENS

from microgpt_trace import Intervention, load, trace
from microgpt_trace.measuring.expert_choices import ExpertMeter, choices_of
from microgpt_trace.plans.kinds import Choice
from microgpt_trace.render.trace.events import experts_sections

IDS = ",".join(map(str, TOKENS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_experts(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


@pytest.fixture(scope="module")
def traced(model):
    return trace(model, tokens=list(TOKENS), values=["*.mlp.router"])


def test_the_choices_of_a_prompt(traced):
    assert [own.layer for own in traced.experts] == [0, 2]
    for own in traced.experts:
        load, rows, tied = judged(traced[own.event.replace("chosen", "router")])
        print(own, load, min(rows), np.median([row[0] for row in rows]))
        assert (own.positions, own.count, own.load) == (len(TOKENS), CHOSEN, tuple(load))
        assert own.used == sum(count > 0 for count in load)
        assert own.load_entropy == pytest.approx(bits([count / sum(load) for count in load]), rel=1e-12)
        assert own.most_entropy == math.log2(EXPERTS)
        closest = own.closest
        assert (closest.margin, closest.position, closest.chosen, closest.other) == min(rows)
        assert own.median_margin == np.median([margin for margin, *_ in rows])
        assert own.tied_in_bf16 == len(tied)


def test_a_router_that_chooses_one_expert_is_no_anomaly(folder, tmp_path):
    """The share of a single expert is always 1, and all positions may choose the same expert."""
    one = tmp_path / "one"
    shutil.copytree(folder, one)
    config = json.loads((one / "config.json").read_text())
    (one / "config.json").write_text(json.dumps(config | {"num_experts_per_tok": 1}))
    done = microgpt("trace", one, "--tokens", "5,5,5", "--fail-on", "anomaly")
    assert done.code == 0, done.out
    assert "Experts  3 positions, 1 expert for each" in done.out


LOGITS = [
    [1.0, 3.0, 2.0, 0.0],  # chooses 1 and 2, margin 1
    [4.0, 1.0, 0.5, 4.0],  # chooses 0 and 3, margin 3
    [0.0, 8.0, 8.01, 8.02],  # chooses 3 and 2, margin 0.01; in bf16 all three are 8
    [0.0, -1.0, 0.0, 0.0],  # chooses 0 and 2, margin 0, since 3 is as large
]
CHOICES = [[1, 2], [0, 3], [3, 2], [0, 2]]


def by_hand(count):
    event = SimpleNamespace(layer=5, name="layer5.mlp.chosen")
    chosen = [[*own, *(e for e in range(4) if e not in own)][:count] for own in CHOICES]
    return choices_of(event, np.array(LOGITS, np.float32), np.array(chosen, np.float32), Choice(count))


def test_choices_worked_by_hand():
    own = by_hand(2)
    assert (own.layer, own.event, own.positions, own.count) == (5, "layer5.mlp.chosen", 4, 2)
    assert own.load == (2, 1, 3, 2)
    assert own.load_entropy == pytest.approx(0.25 * 2 * 2 + 0.125 * 3 + 0.375 * math.log2(8 / 3))
    assert (own.most_entropy, replace(own, positions=1).most_entropy) == (2, 1)
    assert own.median_margin == pytest.approx((0.01 + 1) / 2, abs=1e-6)
    assert (own.closest.position, own.closest.chosen, own.closest.other, own.closest.margin) == (3, 2, 3, 0)
    assert own.tied_in_bf16 == 2


def test_a_choice_of_all_experts_has_no_margin():
    own = by_hand(4)
    assert (own.load, own.load_entropy, own.used) == ((4, 4, 4, 4), 2, 4)
    assert own.median_margin is own.closest is own.tied_in_bf16 is None


def test_a_nan_makes_the_margin_nan():
    logits = np.array([[0, 1, 2, 3], [0, np.nan, 2, 3]], np.float32)
    chosen = np.array([[3, 2], [3, 2]], np.float32)
    own = choices_of(SimpleNamespace(layer=0, name="chosen"), logits, chosen, Choice(2))
    print(own)
    assert (own.closest.position, own.closest.other, own.tied_in_bf16) == (1, 1, 0)
    assert math.isnan(own.closest.margin)
    assert math.isnan(own.median_margin)


def test_an_intervention_changes_the_choices(model, traced):
    turned = trace(
        model, tokens=list(TOKENS), interventions=[Intervention("scale", "layer0.mlp.router", -1.0)]
    )
    load, *_ = judged(-traced["layer0.mlp.router"])
    assert turned.experts[0].load == tuple(load) != traced.experts[0].load


def test_the_trace_shows_the_choices(folder, traced):
    lines = rendered(experts_sections(traced, False), 80).splitlines()
    print(*lines, sep="\n")
    first, closest = traced.experts[0], traced.experts[0].closest
    assert lines[0] == f"Experts  7 positions, {CHOSEN} experts for each"
    assert f"{first.used}/{EXPERTS}" in lines[2]
    busiest = max(range(EXPERTS), key=lambda e: (first.load[e], -e))
    assert f"  {busiest} ×{first.load[busiest]}, " in lines[2]
    place = f"@{closest.position} {TOKENS[closest.position]}: {closest.chosen} over {closest.other}"
    assert f"{closest.margin:.3g}" in lines[2]
    assert [line.split()[0] for line in lines[2:4]] == ["0", "2"]
    assert place in lines[2]
    assert max(map(len, lines)) <= 80
    assert "margin is 0" not in rendered(experts_sections(traced, True), 80)
    for options, shown in (("--brief", True), ("-v", True), ("--layer logits", False)):
        done = microgpt("trace", folder, "--tokens", IDS, *options.split())
        assert ("\nExperts  7 positions" in done.out) == shown, options


def test_json_contains_the_choices(folder, traced):
    document = valid(microgpt("trace", folder, "--tokens", IDS, "--json").out, "trace")
    records = valid_lines(microgpt("trace", folder, "--tokens", IDS, "--jsonl").out, "trace")
    assert [record for record in records if record["record"] == "experts"] == [
        {"record": "experts", **own} for own in document["experts"]
    ]
    chosen = json.loads(microgpt("trace", folder, "--tokens", IDS, "--layers", "1-2", "--json").out)
    assert chosen["experts"] == document["experts"][1:]
    for own, found in zip(traced.experts, document["experts"], strict=True):
        assert found["load"] == list(own.load)
        assert (found["used"], found["load_entropy"]) == (own.used, own.load_entropy)
        assert found["closest"]["margin"] == own.closest.margin


def test_a_model_without_experts_measures_nothing(decoder_folder, monkeypatch):
    monkeypatch.setattr(ExpertMeter, "__call__", lambda *_: pytest.fail("called"))
    dense = load(decoder_folder("qwen3"))
    assert ExpertMeter(dense.plan).names == []
    result = trace(dense, tokens=list(TOKENS))
    assert experts_sections(result, False) == []
    assert "experts" not in json.loads(
        microgpt("trace", decoder_folder("qwen3"), "--tokens", IDS, "--json").out
    )
