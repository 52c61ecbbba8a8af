"""Rules on a decoder: each fires on the fault that it is for, and not without."""

from dataclasses import replace

import numpy as np
import pytest
from support.tiny_models import TOKENS

from microgpt_trace import Intervention, load, trace
from microgpt_trace.architecture.operations import norm
from microgpt_trace.measuring.norms import NormRows
from microgpt_trace.tracing.anomalies import FAR, FEWEST_LAYERS, FEWEST_TOKENS, Steps, anomalies_of, trend
from microgpt_trace.tracing.layer_measures import MOST, compared_positions

ATTENTION, MLP = "attention-write", "mlp-write"
RULES = ("nonfinite", "constant", "rmsnorm", "growth", ATTENTION, MLP, "silence", "turn")
OF_LAYERS = RULES[3:]
NORMS = NormRows(1e-5, {"final.norm": 0.0}, {"final.norm": 1.0})
TENSOR = "model.layers.{}.{}.weight"


@pytest.fixture(scope="module")
def faulty(decoder_folder):
    """A function that traces a model of ten layers with the same statistics, and one fault."""

    def run(edit=None, case="llama_gqa", tokens=TOKENS, layers=10):
        return traced(load(decoder_folder(case, edit=edit, num_hidden_layers=layers)), tokens)

    return run


def traced(model, tokens=TOKENS, **options):
    return trace(model, tokens=list(tokens), **options)


def rules(run):
    print(*(f"{a.id}: {a.found} {a.value} {a.detail}" for a in run.anomalies), sep="\n")
    return {anomaly.id: anomaly for anomaly in run.anomalies}


def fired(found):
    return {identifier for identifier, rule in found.items() if rule.found}


def blamed(found):
    """The layers that a rule about layers names."""
    return {found[i].detail.partition(":")[0] for i in OF_LAYERS if found[i].found}


def scaled(layer, name, factor):
    def edit(weights):
        weights[TENSOR.format(layer, name)][...] *= np.float32(factor)

    return edit


# --- Rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "layers", "tokens"),
    [("llama_mha_bias", 8, TOKENS), ("llama_tied", 12, TOKENS), ("mistral_window", 12, range(40)),
     ("qwen2", 8, TOKENS), ("qwen3", 12, TOKENS)],
)  # fmt: skip
def test_nothing_fires_on_a_sound_model(faulty, case, layers, tokens):
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
def test_a_rule_fires_on_its_fault(faulty, fault):
    """A layer that writes too much makes the stream of those after it large: they are not at fault."""
    edit, identifier, where = FAULTS[fault]
    found = rules(faulty(edit))
    assert found[identifier].found
    assert found[identifier].value > found[identifier].threshold
    assert where in found[identifier].detail
    assert not found["rmsnorm"].found
    assert identifier not in OF_LAYERS or blamed(found) == {where}


def test_a_layer_that_turns_the_stream_around_is_found(ten):
    before = {}

    def turn_around(event, value):
        before[event.layer] = value.copy()
        return -before[4] if event.layer == 5 else None

    with ten.hooks.subscribe(turn_around, "layer?.mlp.residual"):
        rule = rules(traced(ten))["turn"]
    assert rule.found
    assert "layer 5" in rule.detail


@pytest.mark.parametrize("name", ["layer3.attn.norm", "final.norm"])
def test_a_norm_that_is_off_breaks_its_invariant(ten, name):
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
def test_a_wrong_rmsnorm_is_found(decoder_folder, monkeypatch, wrong):
    model = load(decoder_folder("llama_tied"))  # with an eps of 0.01
    monkeypatch.setattr(norm, "rmsnorm", WRONG_NORMS[wrong])
    assert "rmsnorm" in fired(rules(traced(model)))


@pytest.mark.parametrize("tokens", [[7] * 12, [7, *[9, 7] * 20, 5], [5]])
def test_alike_positions_are_no_measure(faulty, tokens):
    """A token repeated is one witness, and position 0 none: it draws massive activations."""
    found, count = rules(faulty(tokens=tokens)), len({*tokens[1:]})
    for identifier in OF_LAYERS:
        words = "different tokens after position 0 without massive activations"
        reason = f"needs {FEWEST_TOKENS} {words}, found {count}"
        assert (found[identifier].found, found[identifier].detail) == (None, reason)
    assert fired(found) == set()


def test_positions_that_are_compared():
    assert compared_positions([7, 7, 7]).tolist() == [2]
    assert compared_positions([5, 7, 9, 7]).tolist() == [2, 3]
    assert compared_positions([5]).tolist() == []
    assert len(compared_positions(range(1000))) == MOST


def massive_from(layer, positions):
    """A hook that gives some positions a massive element after a layer."""

    def hook(event, value):
        new = value.copy()
        new[positions, 7] = 1e5
        return new if event.layer == layer else None

    return hook


FEW = "fewer than 4 positions are without massive activations"
MASSIVE_POSITIONS = [  # from which layer on, which positions, and the rule's verdict, detail, seen and unseen
    (2, slice(None), (None, f"from layer 2 on {FEW}", "", "")),
    (7, slice(None), (False, None, "layers 0 to 6 at 5 positions", f"layers from 7 on: {FEW}")),
    (2, 4, (False, None, "layers 0 to 9 at 4 positions", "")),
]


@pytest.mark.parametrize(("layer", "positions", "said"), MASSIVE_POSITIONS)
def test_positions_with_massive_activations_are_no_measure(ten, layer, positions, said):
    """They leave the comparison from that layer on; where too few are left, that is said."""
    with ten.hooks.subscribe(massive_from(layer, positions), "layer*.mlp.residual"):
        found = rules(traced(ten))[MLP]
    detail = found.detail if found.found is None else None
    assert (found.found, detail, found.seen, found.unseen) == said


@pytest.mark.parametrize("layers", [1, 5])
def test_rules_that_need_more_layers_say_so(faulty, layers):
    found = rules(faulty(layers=layers))
    for identifier in OF_LAYERS:
        rule = found[identifier]
        assert (rule.found, rule.value, rule.source) == (None, None, "other layers")
        assert f"needs {FEWEST_LAYERS} layers" in rule.detail
        assert rule.detail.endswith(f"found {max(layers - 2, 0)}")


def test_rules_of_layers_are_skipped_where_one_is_not_finite(faulty):
    found = rules(faulty(spoil_up))
    assert {found[i].found for i in ("growth", ATTENTION, MLP, "turn")} == {None}
    assert all("a layer is not finite" in found[i].detail for i in ("growth", MLP))
    assert (found["rmsnorm"].found, found["rmsnorm"].detail) == (
        None,
        "layer5.attn.norm or its input is not finite, or is too large to be squared",
    )


def test_the_threshold_is_in_spreads_of_the_other_layers(ten):
    """Twice its size is within bounds, a thousand times is not."""
    run = traced(ten)

    def far(factor):
        row = run.layers[4]
        odd = replace(row, compared=replace(row.compared, mlp=row.compared.mlp * factor))
        rows = (*run.layers[:4], odd, *run.layers[5:])
        return {a.id: a for a in anomalies_of((), Steps(), (), rows, NORMS)}[MLP]

    assert (far(2).found, far(1000).found) == (False, True)
    assert far(2).threshold == FAR


@pytest.mark.parametrize("layer", [0, 9])
@pytest.mark.parametrize("name", ["mlp.down_proj", "self_attn.o_proj"])
def test_a_fault_of_the_first_or_last_layer_is_found(faulty, layer, name):
    """But for what attention writes in the first, which is said to be left out."""
    judged = (layer, name) != (0, "self_attn.o_proj")
    assert blamed(rules(faulty(scaled(layer, name, 50)))) == ({f"layer {layer}"} if judged else set())


def test_what_is_left_out_is_said(ten):
    found = rules(traced(ten, interventions=[Intervention("scale", "layer3.mlp.up", 2.0)]))
    assert {i for i in RULES if "layer 0: it reads the embedding" in found[i].unseen} == {"growth", ATTENTION}
    assert {i for i in RULES if "1 event that an intervention changed" in found[i].unseen} == {
        "nonfinite", "constant",
    }  # fmt: skip
    assert found["nonfinite"].seen == f"{len(traced(ten)) - 1} events"
    assert found["rmsnorm"].seen == "21 norms"
    assert found[MLP].seen == "layers 0 to 9 at 5 positions"
    assert found["growth"].seen == "layers 1 to 9 at 5 positions"


def test_steps_of_a_continuation_are_looked_at(ten):
    with_steps = rules(traced(ten, generate=3))["nonfinite"].seen
    count = len(traced(ten))
    assert int(with_steps.split()[0].replace(",", "")) > 2 * count - 10


@pytest.mark.parametrize("seed", range(3))
def test_the_trend_is_not_moved_by_a_few(seed):
    rng = np.random.default_rng(seed)
    line = 0.3 * np.arange(12) - 2
    bent = line.copy()
    bent[rng.choice(12, 2, replace=False)] += rng.choice([-9, 9], 2)
    assert np.abs(np.array(trend(bent)) - line).max() < 1e-12


def test_constants_are_counted_and_the_first_are_named(faulty):
    def silence(weights):
        for i in range(10):
            scaled(i, "mlp.up_proj", 0)(weights)

    rule = rules(faulty(silence))["constant"]
    assert rule.found
    assert rule.value == 30  # up, hidden and down of every layer
    assert rule.detail == "layer0.mlp.up, layer0.mlp.hidden, layer0.mlp.down and 27 more"
