"""Rules and insights on a decoder: each fires on the fault that it is for, and not without."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.tiny_models import CASES, TOKENS

from microgpt_trace import Intervention, load, trace
from microgpt_trace.architecture.operations import norm
from microgpt_trace.arrays.norm_rows import NormRows
from microgpt_trace.text.wording import fixed, told_apart
from microgpt_trace.tracing.anomalies import FAR, FEWEST_LAYERS, FEWEST_TOKENS, Steps, anomalies_of, trend
from microgpt_trace.tracing.decoder_insights import GROWN, MASSIVE, SINK, STILL, insights_of
from microgpt_trace.tracing.layer_measures import MOST, compared_positions

ATTENTION, MLP = "attention-write", "mlp-write"
RULES = ("nonfinite", "constant", "rmsnorm", "growth", ATTENTION, MLP, "silence", "turn")
OF_LAYERS = RULES[3:]
NORMS = NormRows(1e-5, {"final.norm": 0.0}, {"final.norm": 1.0})
TENSOR = "model.layers.{}.{}.weight"


@pytest.fixture(scope="module")
def faulty(decoder_folder):
    """A function that traces a model of ten layers with the same statistics, and one fault."""

    def run(edit=None, case="llama_gqa", tokens=TOKENS, **changes):
        folder = decoder_folder(case, edit=edit, **{"num_hidden_layers": 10} | changes)
        return trace(load(folder), tokens=list(tokens))

    return run


@pytest.fixture(scope="module")
def ten(decoder_folder):
    return load(decoder_folder(num_hidden_layers=10))


def rules(traced):
    print(*(f"{a.id}: {a.found} {a.value} {a.detail}" for a in traced.anomalies), sep="\n")
    return {anomaly.id: anomaly for anomaly in traced.anomalies}


def fired(traced):
    return {identifier for identifier, rule in rules(traced).items() if rule.found}


def insight(traced, identifier):
    found = next(insight for insight in traced.insights if insight.id == identifier)
    print(found.text)
    return found


def scaled(layer, name, factor):
    def edit(weights):
        weights[TENSOR.format(layer, name)][...] *= np.float32(factor)

    return edit


# --- Rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["llama_gqa", "llama_mha_bias", "llama_tied", "mistral_window", "qwen2", "qwen3"]
)
@pytest.mark.parametrize("layers", [8, 12])
def test_nothing_fires_on_a_sound_model(faulty, case, layers):
    traced = faulty(case=case, num_hidden_layers=layers)
    assert fired(traced) == set()
    assert all(rule.found is False for rule in rules(traced).values())
    assert tuple(rules(traced)) == RULES


@pytest.mark.parametrize("tokens", [[5], [5, 9], [7] * 12, [*range(40)]])
def test_nothing_fires_on_any_prompt(faulty, tokens):
    assert fired(faulty(tokens=tokens)) == set()


def spoil_up(weights):
    weights[TENSOR.format(4, "mlp.up_proj")][5, 3] = np.nan


FAULTS = {
    "o_proj": (scaled(4, "self_attn.o_proj", 1000), ATTENTION, "layer 4"),
    "v_proj": (scaled(4, "self_attn.v_proj", 1e-5), ATTENTION, "layer 4"),
    "norm gain": (scaled(5, "post_attention_layernorm", 300), MLP, "layer 5"),
    "down_proj": (scaled(3, "mlp.down_proj", 1e-5), MLP, "layer 3"),
    "up_proj": (scaled(6, "mlp.up_proj", 0), "constant", "layer6.mlp.up"),
    "gate_proj": (scaled(6, "mlp.gate_proj", 1e-5), "silence", "layer 6"),
    "growth": (scaled(4, "mlp.down_proj", 1000), "growth", "layer 4"),
    "nan": (spoil_up, "nonfinite", "layer4.mlp.up"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rule_fires_on_its_fault(faulty, fault):
    edit, identifier, where = FAULTS[fault]
    rule = rules(faulty(edit))[identifier]
    assert rule.found
    assert rule.value > rule.threshold
    assert where in rule.detail


@pytest.mark.parametrize("fault", ["o_proj", "norm gain", "growth"])
def test_no_sound_layer_is_blamed(faulty, fault):
    """A layer that writes too much makes the stream of those after it large: they are not at fault."""
    edit, _, where = FAULTS[fault]
    found = rules(faulty(edit))
    blamed = {found[i].detail.partition(":")[0] for i in OF_LAYERS if found[i].found}
    assert blamed == {where}


def test_a_layer_that_turns_the_stream_around_is_found(ten):
    before = {}

    def turn_around(event, value):
        before[event.layer] = value.copy()
        return -before[4] if event.layer == 5 else None

    with ten.hooks.subscribe(turn_around, "layer?.mlp.residual"):
        rule = rules(trace(ten, tokens=list(TOKENS)))["turn"]
    assert rule.found
    assert "layer 5" in rule.detail


@pytest.mark.parametrize("name", ["layer3.attn.norm", "layer0.mlp.norm", "final.norm"])
def test_a_norm_that_is_off_breaks_its_invariant(ten, name):
    with ten.hooks.subscribe(lambda e, v: v * np.float32(1.01), name):
        rule = rules(trace(ten, tokens=list(TOKENS)))["rmsnorm"]
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
    assert "rmsnorm" in fired(trace(model, tokens=list(TOKENS)))


@pytest.mark.parametrize("tokens", [[7] * 12, [7, *[9, 7] * 20, 5], [5, 9, 11], [5]])
def test_alike_positions_are_no_measure(faulty, tokens):
    """A token repeated is one witness, and position 0 none: it draws massive activations."""
    found, count = rules(faulty(tokens=tokens)), len({*tokens[1:]})
    for identifier in OF_LAYERS:
        words = "different tokens after position 0 without massive activations"
        reason = f"needs {FEWEST_TOKENS} {words}, found {count}"
        assert (found[identifier].found, found[identifier].detail) == (None, reason)


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


@pytest.mark.parametrize(("layer", "seen"), [(2, None), (7, "layers 0 to 6 at 5 positions")])
def test_positions_with_massive_activations_are_no_measure(ten, layer, seen):
    """They leave the comparison from that layer on; where too few are left, that is said."""
    with ten.hooks.subscribe(massive_from(layer, slice(None)), "layer*.mlp.residual"):
        found = rules(trace(ten, tokens=list(TOKENS)))[MLP]
    few = "fewer than 4 positions are without massive activations"
    if seen is None:
        assert (found.found, found.detail) == (None, f"from layer {layer} on {few}")
    else:
        assert (found.found, found.seen, found.unseen) == (False, seen, f"layers from {layer} on: {few}")


def test_one_massive_position_leaves_the_others(ten):
    with ten.hooks.subscribe(massive_from(2, 4), "layer*.mlp.residual"):
        found = rules(trace(ten, tokens=list(TOKENS)))[MLP]
    assert (found.found, found.seen) == (False, "layers 0 to 9 at 4 positions")


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_rules_that_need_more_layers_say_so(faulty, layers):
    traced = faulty(num_hidden_layers=layers)
    for identifier in OF_LAYERS:
        rule = rules(traced)[identifier]
        assert (rule.found, rule.value, rule.source) == (None, None, "other layers")
        assert f"needs {FEWEST_LAYERS} layers" in rule.detail
        assert rule.detail.endswith(f"found {max(layers - 2, 0)}")


def test_rules_of_layers_are_skipped_where_one_is_not_finite(faulty):
    found = rules(faulty(spoil_up))
    assert {found[i].found for i in ("growth", ATTENTION, MLP, "turn")} == {None}
    assert all("a layer is not finite" in found[i].detail for i in ("growth", MLP))
    assert (found["rmsnorm"].found, found["rmsnorm"].detail) == (
        None,
        "layer5.attn.norm, or what went in, is not finite or too large to be squared",
    )


def test_the_threshold_is_in_spreads_of_the_other_layers(ten):
    """Twice its size is within bounds, a thousand times is not."""
    traced = trace(ten, tokens=list(TOKENS))

    def far(factor):
        row = traced.layers[4]
        odd = replace(row, compared=replace(row.compared, mlp=row.compared.mlp * factor))
        rows = (*traced.layers[:4], odd, *traced.layers[5:])
        return {a.id: a for a in anomalies_of((), Steps(), (), rows, NORMS)}[MLP]

    assert (far(2).found, far(1000).found) == (False, True)
    assert far(2).threshold == FAR


@pytest.mark.parametrize("layer", range(10))
@pytest.mark.parametrize("name", ["mlp.down_proj", "self_attn.o_proj"])
def test_a_fault_of_any_layer_is_found(faulty, layer, name):
    """But for what attention writes in the first, which is said to be left out."""
    found = rules(faulty(scaled(layer, name, 50)))
    blamed = {found[i].detail.partition(":")[0] for i in OF_LAYERS if found[i].found}
    judged = (layer, name) != (0, "self_attn.o_proj")
    assert blamed == ({f"layer {layer}"} if judged else set())


def test_what_is_left_out_is_said(ten):
    found = rules(
        trace(ten, tokens=list(TOKENS), interventions=[Intervention("scale", "layer3.mlp.up", 2.0)])
    )
    assert {i for i in RULES if "layer 0: it reads the embedding" in found[i].unseen} == {"growth", ATTENTION}
    assert {i for i in RULES if "1 event that an intervention changed" in found[i].unseen} == {
        "nonfinite", "constant",
    }  # fmt: skip
    assert found["nonfinite"].seen == f"{len(trace(ten, tokens=list(TOKENS))) - 1} events"
    assert found["rmsnorm"].seen == "21 norms"
    assert found[MLP].seen == "layers 0 to 9 at 5 positions"
    assert found["growth"].seen == "layers 1 to 9 at 5 positions"


def test_steps_of_a_continuation_are_looked_at(ten):
    with_steps = rules(trace(ten, tokens=list(TOKENS), generate=3))["nonfinite"].seen
    count = len(trace(ten, tokens=list(TOKENS)))
    assert int(with_steps.split()[0].replace(",", "")) > 2 * count - 10


@pytest.mark.parametrize("seed", range(20))
def test_the_trend_is_not_moved_by_a_few(seed):
    rng = np.random.default_rng(seed)
    line = 0.3 * np.arange(12) - 2
    bent = line.copy()
    bent[rng.choice(12, 2, replace=False)] += rng.choice([-9, 9], 2)
    assert np.abs(np.array(trend(bent)) - line).max() < 1e-12


def test_constants_are_counted_and_the_first_are_named(faulty):
    rule = rules(faulty(lambda weights: [scaled(i, "mlp.up_proj", 0)(weights) for i in range(10)]))[
        "constant"
    ]
    assert rule.found
    assert rule.value == 30  # up, hidden and down of every layer
    assert rule.detail == "layer0.mlp.up, layer0.mlp.hidden, layer0.mlp.down and 27 more"


# --- Insights -------------------------------------------------------------------------------------


def small(weights):
    """Layers that write next to nothing."""
    for name, weight in weights.items():
        if "o_proj" in name or "down_proj" in name:
            weight *= np.float32(1e-3)


def giant(weights):
    weights["model.embed_tokens.weight"][TOKENS[2], 7] = 1e4


def uniform(weights):
    for name, weight in weights.items():
        if "q_proj" in name:
            weight[...] = 0


def test_growth(faulty):
    grown, kept = insight(faulty(), "growth"), insight(faulty(small), "growth")
    assert (grown.holds, kept.holds) == (True, False)
    assert grown.numbers["last"] >= GROWN * grown.numbers["first"]
    assert grown.text.startswith("The stream grows × ")
    assert "keeps its size" in kept.text


def test_growth_of_one_layer_is_not_evaluated(faulty):
    assert insight(faulty(num_hidden_layers=1), "growth").holds is None


def test_massive_activations(faulty):
    found, none = insight(faulty(giant), "massive"), insight(faulty(), "massive")
    assert (found.holds, none.holds) == (True, False)
    assert found.numbers["times_typical"] >= MASSIVE > none.numbers["times_typical"]
    assert "at position 2" in found.text
    assert "channel 7" in found.text
    assert "After 10 of 10 layers the largest element is 1,000 times the median or more, all at" in found.text
    assert none.text.startswith("None")


def test_two_elements_of_one_size_are_both_there(faulty):
    """The largest element does not outweigh one that is as large with the other sign."""

    def twins(weights):
        weights["model.embed_tokens.weight"][TOKENS[2], 7:9] = 5000, -4999

    found = insight(faulty(twins), "massive")
    assert found.text.startswith("Farthest out is ")
    assert "all others" not in found.text


def sized(model, factors):
    """The growth of a stream that a hook makes so many times as long after each layer."""
    scaling = np.array(factors, np.float32)
    with model.hooks.subscribe(lambda e, v: v * scaling[e.layer], "layer*.mlp.residual"):
        return insight(trace(model, tokens=list(TOKENS)), "growth")


def test_growth_has_four_outcomes(ten):
    flat = [1.0] * 10
    assert sized(ten, [1e3, *flat[1:]]).text.startswith("The stream keeps its size (× 1.")
    shrunk = sized(ten, [1e4, *flat[1:9], 1e-3])
    assert shrunk.text.startswith("The stream shrinks to × 0.00")
    assert shrunk.holds is False
    back = sized(ten, [1e3, 100.0, *flat[2:9], 0.01])
    assert back.text.startswith("The stream leaves its size and comes back near it (× 1.")
    assert "at most " in back.text


def test_rows_that_eps_takes_are_told(faulty):
    def tiny(weights):
        weights["model.embed_tokens.weight"][TOKENS[2]] *= 1e-5

    found = insight(faulty(tiny), "rmsnorm")
    assert found.holds is False
    assert found.numbers["least_rms"] < 0.01
    assert f"a row after layer0.attn.norm has RMS {found.numbers['least_rms']:.4g}" in found.text
    assert "tells of what went in" in found.text


@pytest.mark.parametrize(("value", "limit", "said"), [(0.97996, 0.98, "0.97996"), (0.98, 0.98, "0.980")])
def test_a_number_shows_on_which_side_of_its_limit_it_lies(value, limit, said):
    assert told_apart(value, limit, fixed, 3)[0] == said


def first_alone(event, value):
    return np.eye(1, value.shape[2], dtype=value.dtype)[None].repeat(value.shape[1], 1).repeat(4, 0)


def test_sinks(ten):
    with ten.hooks.subscribe(first_alone, "layer3.attn.weights"):
        found = insight(trace(ten, tokens=list(TOKENS)), "sinks")
    assert found.holds
    assert found.numbers["largest"] == 1
    assert "most in layer 3 (100%" in found.text


@pytest.mark.parametrize("length", [2, 3, 5, 7, 20])
def test_attention_spread_evenly_is_no_sink(faulty, length):
    """Short prompts put much on position 0 without a sink: evenly it is 1/2, then 1/3 ..."""
    found = insight(faulty(uniform, tokens=[*range(5, 5 + length)]), "sinks")
    evenly = np.mean([1 / (t + 1) for t in range(1, length)])
    print(f"measured {found.numbers['largest']}, evenly {evenly}, a sink takes {SINK} of the rest")
    assert found.numbers["largest"] == pytest.approx(evenly, rel=1e-4)
    assert found.holds is False


def test_one_position_has_no_sink_to_speak_of(faulty):
    assert insight(faulty(tokens=[5]), "sinks").holds is None


@pytest.mark.parametrize(("layer", "holds"), [(0, True), (1, False)])
def test_layers_with_a_window_are_no_sinks(decoder_folder, layer, holds):
    """Of the two layers the second has a window, within which position 0 is soon out of sight."""
    model = load(decoder_folder("qwen2_window"))
    with model.hooks.subscribe(first_alone, f"layer{layer}.attn.weights"):
        found = insight(trace(model, tokens=list(TOKENS)), "sinks")
    assert found.holds is holds
    assert "of 1 layer without" in found.text or not holds
    assert "layer 1" not in found.text


def test_windows_in_every_layer_leave_no_sink_to_speak_of(decoder_folder):
    found = insight(trace(load(decoder_folder("mistral_window")), tokens=list(TOKENS)), "sinks")
    assert (found.holds, found.text) == (None, "Not evaluated: every layer has a sliding window.")


def test_layers_that_barely_turn_the_stream(faulty):
    still, turning = insight(faulty(small), "turn"), insight(faulty(), "turn")
    assert (still.holds, turning.holds) == (True, False)
    assert still.numbers["layers"] > 5
    assert turning.numbers["smallest_cosine"] < STILL
    assert f"{still.numbers['layers']:.0f} of 10 layers" in still.text


def test_rmsnorm_invariant(ten):
    sound = insight(trace(ten, tokens=list(TOKENS)), "rmsnorm")
    with ten.hooks.subscribe(lambda e, v: v * 2, "layer3.mlp.norm"):
        off = insight(trace(ten, tokens=list(TOKENS)), "rmsnorm")
    assert (sound.holds, off.holds) == (True, False)
    assert "each of the 21 norms" in sound.text
    assert "layer3.mlp.norm" in off.text


def test_the_pattern_is_microgpts_unless_the_layers_differ(ten):
    traced = trace(ten, tokens=list(TOKENS))
    assert insight(traced, "pattern").holds
    other = SimpleNamespace(config=ten.config, plan=ten.plan, chain=("ffn_norm", "attn"))
    found = list(insights_of(other, traced.layers, NORMS, traced.input))
    assert (found[-1].id, found[-1].holds) == ("pattern", False)


@pytest.mark.parametrize(
    "case",
    [
        "llama_gqa",
        "llama_mqa",
        "llama_mha_bias",
        "mistral",
        "mistral_window",
        "qwen2",
        "qwen2_window",
        "qwen3",
    ],
)
@pytest.mark.parametrize("layers", [1, 2])
def test_the_pattern_names_what_the_config_has(decoder_folder, case, layers):
    config = CASES[case] | {"num_hidden_layers": layers}
    text = insight(trace(load(decoder_folder(case, **config)), tokens=list(TOKENS)), "pattern").text
    windowed = config["model_type"] == "mistral" or (config.get("use_sliding_window") and layers > 1)
    groups = config["num_key_value_heads"]
    expected = {
        "2 layers instead of 1": layers == 2,
        f"{groups} key-value heads for 4 heads": groups < 4,
        "attention no further back than 3 positions": bool(windowed and config["sliding_window"]),
        "a norm of each head's q and k": config["model_type"] == "qwen3",
        "biases": config["model_type"] == "qwen2" or config.get("attention_bias", False),
    }
    assert {words: words in text for words in expected} == expected
    assert text.count(",") == 2 + sum(expected.values())


def test_every_insight_is_given_once_and_in_order(ten):
    traced = trace(ten, tokens=list(TOKENS))
    assert [i.id for i in traced.insights] == ["rmsnorm", "growth", "massive", "sinks", "turn", "pattern"]
