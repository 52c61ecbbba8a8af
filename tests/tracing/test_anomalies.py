"""Check the anomaly rules of a decoder: each finds its fault, and finds nothing in a sound model."""

import math

import numpy as np
import pytest
from support.tiny_models import TOKENS

from microgpt_trace import Intervention, load, trace
from microgpt_trace.operations import norm
from microgpt_trace.tracing.anomalies import FEWEST_LAYERS, FEWEST_TOKENS, GROWTH, TURN, odd_layer, trend
from microgpt_trace.tracing.layer_measures import MOST, compared_positions

ATTENTION, MLP = "attention-write", "mlp-write"
RULES = ("nonfinite", "constant", "rmsnorm", "growth", ATTENTION, MLP, "silence", "turn")
OF_LAYERS = RULES[3:]
TENSOR = "model.layers.{}.{}.weight"


@pytest.fixture(scope="module")
def faulty(decoder_folder):
    """Return a function that traces a model of ten similar layers with one fault."""

    def run(edit=None, case="llama_gqa", tokens=TOKENS, layers=10):
        return traced(load(decoder_folder(case, edit=edit, num_hidden_layers=layers)), tokens)

    return run


def traced(model, tokens=TOKENS, **options):
    return trace(model, tokens=list(tokens), **options)


def rules(run):
    print(*(f"{a.id}: {a.found} {a.value} {a.detail}" for a in run.anomalies), sep="\n")
    return {anomaly.id: anomaly for anomaly in run.anomalies}


def anomalous(found):
    return {identifier for identifier, rule in found.items() if rule.found}


def named_layers(found):
    """Return the layers that the rules about layers name."""
    return {found[i].detail.partition(":")[0] for i in OF_LAYERS if found[i].found}


def scaled(layer, name, factor):
    def edit(weights):
        weights[TENSOR.format(layer, name)][...] *= np.float32(factor)

    return edit


@pytest.mark.parametrize(
    ("case", "layers", "tokens"),
    [("llama_mha_bias", 8, TOKENS), ("llama_tied", 12, TOKENS), ("mistral_window", 12, range(40)),
     ("qwen2", 8, TOKENS), ("qwen3", 12, TOKENS)],
)  # fmt: skip
def test_finds_no_anomaly_in_a_sound_model(faulty, case, layers, tokens):
    found = rules(faulty(case=case, layers=layers, tokens=tokens))
    assert {identifier: rule.found for identifier, rule in found.items()} == dict.fromkeys(RULES, False)
    assert tuple(found) == RULES


def spoil_up(weights):
    weights[TENSOR.format(4, "mlp.up_proj")][5, 3] = np.nan


FAULTS = {
    "o_proj": (scaled(4, "self_attn.o_proj", 1000), ATTENTION, "layer 4"),
    "v_proj": (scaled(4, "self_attn.v_proj", 1e-5), ATTENTION, "layer 4"),
    "norm gain": (scaled(5, "post_attention_layernorm", 300), MLP, "layer 5"),
    "down_proj": (scaled(3, "mlp.down_proj", 1e-5), MLP, "layer 3"),
    "up_proj": (scaled(6, "mlp.up_proj", 0), "constant", "layer6.mlp.up"),
    "norm without gain": (scaled(4, "input_layernorm", 0), "constant", "layer4.attn.norm"),
    "gate_proj": (scaled(6, "mlp.gate_proj", 1e-5), "silence", "layer 6"),
    "growth": (scaled(4, "mlp.down_proj", 1000), "growth", "layer 4"),
    "nan": (spoil_up, "nonfinite", "layer4.mlp.up"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rule_finds_its_fault(faulty, fault):
    """A layer that writes too much enlarges the stream of the later layers, which are not at fault."""
    edit, identifier, where = FAULTS[fault]
    found = rules(faulty(edit))
    assert found[identifier].found
    assert found[identifier].value > found[identifier].threshold
    assert where in found[identifier].detail
    assert not found["rmsnorm"].found
    assert identifier not in OF_LAYERS or named_layers(found) == {where}


def test_finds_a_layer_that_reverses_the_stream(ten):
    before = {}

    def turn_around(event, value):
        before[event.layer] = value.copy()
        return -before[4] if event.layer == 5 else None

    with ten.hooks.subscribe(turn_around, "layer?.mlp.residual"):
        rule = rules(traced(ten))["turn"]
    assert rule.found
    assert "layer 5" in rule.detail


@pytest.mark.parametrize("name", ["layer3.attn.norm", "final.norm"])
def test_finds_a_scaled_norm(ten, name):
    with ten.hooks.subscribe(lambda e, v: v * np.float32(1.01), name):
        rule = rules(traced(ten))["rmsnorm"]
    assert (rule.found, rule.detail, rule.source) == (True, name, "invariant")
    assert rule.value == pytest.approx(0.01, rel=0.05)


WRONG_NORMS = {
    "eps left out": lambda x, gain, eps: x / np.sqrt(np.square(x).mean(-1, keepdims=True)) * gain,
    "mean taken off": lambda x, gain, eps: SOUND(x - x.mean(-1, keepdims=True), gain, eps),
    "gain plus one": lambda x, gain, eps: SOUND(x, 1 + gain, eps),
    "gain left out": lambda x, gain, eps: SOUND(x, gain * 0 + 1, eps),
    "norm of the whole": lambda x, gain, eps: x / np.sqrt(np.square(x).mean() + eps) * gain,
}
SOUND = norm.rmsnorm


@pytest.mark.parametrize("wrong", WRONG_NORMS)
def test_finds_a_wrong_rmsnorm(decoder_folder, monkeypatch, wrong):
    model = load(decoder_folder("llama_tied"))  # with an eps of 0.01
    monkeypatch.setattr(norm, "rmsnorm", WRONG_NORMS[wrong])
    assert "rmsnorm" in anomalous(rules(traced(model)))


@pytest.mark.parametrize("tokens", [[7] * 12, [7, *[9, 7] * 20, 5], [5]])
def test_does_not_compare_repeated_tokens(faulty, tokens):
    """A repeated token counts once, and position 0 does not count: it has massive activations."""
    found, count = rules(faulty(tokens=tokens)), len({*tokens[1:]})
    for identifier in OF_LAYERS:
        words = "different tokens after position 0 without massive activations"
        reason = f"needs {FEWEST_TOKENS} {words}, found {count}"
        assert (found[identifier].found, found[identifier].detail) == (None, reason)
    assert anomalous(found) == set()


def test_chooses_the_positions_to_compare():
    assert compared_positions([7, 7, 7]).tolist() == [2]
    assert compared_positions([5, 7, 9, 7]).tolist() == [2, 3]
    assert compared_positions([5]).tolist() == []
    assert len(compared_positions(range(1000))) == MOST


def massive_from(layer, positions):
    """Return a hook that puts a massive element at some positions after a layer."""

    def hook(event, value):
        new = value.copy()
        new[positions, 7] = 1e5
        return new if event.layer == layer else None

    return hook


FEW = "fewer than 4 positions are without massive activations"
MASSIVE_POSITIONS = [  # the first layer, the positions, and the rule's verdict, detail, seen and unseen
    (2, slice(None), (None, f"from layer 2 on, {FEW}", "", "")),
    (7, slice(None), (False, None, "layers 0 to 6 at 5 positions", f"layers from 7 on: {FEW}")),
    (2, 4, (False, None, "layers 0 to 9 at 4 positions", "")),
]


@pytest.mark.parametrize(("layer", "positions", "expected"), MASSIVE_POSITIONS)
def test_does_not_compare_positions_with_massive_activations(ten, layer, positions, expected):
    """They are left out from that layer on, and the rule says if too few are left."""
    with ten.hooks.subscribe(massive_from(layer, positions), "layer*.mlp.residual"):
        found = rules(traced(ten))[MLP]
    detail = found.detail if found.found is None else None
    assert (found.found, detail, found.seen, found.unseen) == expected


@pytest.mark.parametrize("layers", [1, 5])
def test_rules_give_the_number_of_layers_that_they_need(faulty, layers):
    found = rules(faulty(layers=layers))
    for identifier in OF_LAYERS:
        rule = found[identifier]
        assert (rule.found, rule.value, rule.source) == (None, None, "other layers")
        assert f"needs {FEWEST_LAYERS} layers" in rule.detail
        assert rule.detail.endswith(f"found {max(layers - 2, 0)}")


def test_does_not_compare_layers_that_are_not_finite(faulty):
    found = rules(faulty(spoil_up))
    assert {found[i].found for i in ("growth", ATTENTION, MLP, "turn")} == {None}
    assert all("a layer is not finite" in found[i].detail for i in ("growth", MLP))
    reason = "layer5.attn.norm or its input is not finite, or is too large to be squared"
    assert (found["rmsnorm"].found, found["rmsnorm"].detail) == (None, reason)


THRESHOLDS = {  # the rule, logarithms of the layers' values, the odd layer, the distance of 6 spreads
    "1.4826 median deviations": (TURN, [1, -1, -1, 0, 0, 0, -1, -1, 1], 4, 6 * 1.4826),
    "the lower limit": (TURN, [0.1, -0.1, -0.1, 0, 0, 0, -0.1, -0.1, 0.1], 4, 6 * 0.25),
    "the first layer": (TURN, [0] * 9, 0, 6 * 0.55),
    "the last layer": (TURN, [0] * 9, 8, 6 * 0.55),
    "the first judged layer": (GROWTH, [0] * 8, 0, 6 * 0.25),  # layer 0 is left out
}


@pytest.mark.parametrize("factor", [0.999, 1.001])
@pytest.mark.parametrize("case", THRESHOLDS)
def test_the_threshold_counts_spreads_of_the_layers(case, factor):
    """The layers are symmetric, so that the trend is 0, and only the odd layer is above 1."""
    rule, logs, odd, limit = THRESHOLDS[case]
    values = [math.exp(factor * limit if i == odd else log) for i, log in enumerate(logs)]
    found = odd_layer(rule, values, 9, "")
    assert (found.found, found.threshold, found.layer) == (factor > 1, 6, odd + (rule is GROWTH))
    assert found.value == pytest.approx(6 * factor)


@pytest.mark.parametrize("layer", [0, 9])
@pytest.mark.parametrize("name", ["mlp.down_proj", "self_attn.o_proj"])
def test_finds_a_fault_of_the_first_or_last_layer(faulty, layer, name):
    """Except for the attention of the first layer, which the rule leaves out."""
    judged = (layer, name) != (0, "self_attn.o_proj")
    assert named_layers(rules(faulty(scaled(layer, name, 50)))) == ({f"layer {layer}"} if judged else set())


def test_reports_what_a_rule_left_out(ten):
    found = rules(traced(ten, interventions=[Intervention("scale", "layer3.mlp.up", 2.0)]))
    left_out = "layer 0: its input is the embedding"
    assert {i for i in RULES if left_out in found[i].unseen} == {"growth", ATTENTION}
    assert {i for i in RULES if "1 event that an intervention changed" in found[i].unseen} == {
        "nonfinite", "constant",
    }  # fmt: skip
    assert found["nonfinite"].seen == f"{len(traced(ten)) - 1} events"
    assert found["rmsnorm"].seen == "21 norms"
    assert found[MLP].seen == "layers 0 to 9 at 5 positions"
    assert found["growth"].seen == "layers 1 to 9 at 5 positions"


def test_judges_the_steps_of_a_continuation(ten):
    with_steps = rules(traced(ten, generate=3))["nonfinite"].seen
    count = len(traced(ten))
    assert int(with_steps.split()[0].replace(",", "")) > 2 * count - 10


@pytest.mark.parametrize("seed", range(3))
def test_a_few_values_do_not_move_the_trend(seed):
    rng = np.random.default_rng(seed)
    line = 0.3 * np.arange(12) - 2
    bent = line.copy()
    bent[rng.choice(12, 2, replace=False)] += rng.choice([-9, 9], 2)
    assert np.abs(np.array(trend(bent)) - line).max() < 1e-12


def test_counts_constants_and_names_the_first(faulty):
    def silence(weights):
        for i in range(10):
            scaled(i, "mlp.up_proj", 0)(weights)

    rule = rules(faulty(silence))["constant"]
    assert rule.found
    assert rule.value == 30  # up, hidden and down of every layer
    assert rule.detail == "layer0.mlp.up, layer0.mlp.hidden, layer0.mlp.down and 27 more"
