"""Check the insights of decoders, and that no random model or text makes a printed sentence false.

`support/sentences.py` reads the numbers of every sentence and compares them with the arrays.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from support.sentences import check_decoder, check_microgpt
from support.sweeps import in_sweep
from support.tiny_models import CASES, TOKENS, random_scales, random_weights, write_folder

from microgpt_trace import Config, Model, Tokenizer, load, trace
from microgpt_trace.measuring.norm_meter import NormRows
from microgpt_trace.microgpt.parameters import Parameters
from microgpt_trace.plans.plan import Plan
from microgpt_trace.text.wording import fixed, value_and_limit
from microgpt_trace.tracing.collector import TracedRun
from microgpt_trace.tracing.insights import insights_of
from microgpt_trace.tracing.layer_insights import PREDICATES

SEEDS = [*range(20), *map(in_sweep, range(20, 40)), *(in_sweep(seed, whole=True) for seed in range(40, 100))]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def random_microgpt(seed):
    """Return a microGPT of 1 to 6 layers with tensors of any size, and a text for it."""
    rng = np.random.default_rng(seed)
    chars = LETTERS[: int(rng.integers(2, 27))]
    layers, heads = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    config = Config(
        vocab_size=len(chars) + 1, n_embd=heads * int(rng.integers(1, 9)), n_head=heads, n_layer=layers,
        block_size=int(rng.integers(2, 130)), n_inner=int(rng.integers(1, 40)),
    )  # fmt: skip
    params = Parameters.random(config, seed)
    for name, factor in random_scales(rng, params).items():
        params[name][...] *= np.float32(factor)
    for name in ("wte", "wpe"):  # rows so small that eps matters
        if rng.random() < 0.3:
            params[name][rng.integers(len(params[name]))] *= np.float32(1e-4)
    for i in range(layers):  # units that always or never fire
        if rng.random() < 0.2:
            params[f"layer{i}.mlp_fc1"][...] *= np.float32(0 if rng.random() < 0.3 else 1)
    origin = "untrained, seed 1" if rng.random() < 0.3 else "a test"
    length = int(rng.integers(0, config.block_size))
    return Model(params, Tokenizer(chars), origin), "".join(rng.choice(list(chars), length))


def random_decoder(seed, folder):
    """Return a decoder of 1 to 8 layers with tensors of any size, and tokens for it."""
    rng = np.random.default_rng(seed)
    case = str(rng.choice(["llama_gqa", "llama_mha_bias", "mistral_window", "qwen2_window", "qwen3"]))
    config = CASES[case] | {"num_hidden_layers": int(rng.integers(1, 9))}
    config["rms_norm_eps"] = float(rng.choice([1e-6, 1e-5, 1e-2]))
    weights = random_weights(config, f"{case}{seed}")
    for name, factor in random_scales(rng, weights).items():
        weights[name] *= np.float32(factor)
    for name, array in weights.items():
        if rng.random() < 0.04:
            array.flat[rng.integers(array.size)] *= np.float32(10.0 ** rng.uniform(0, 6))
        if "norm" in name and rng.random() < 0.05:
            array[: rng.integers(1, len(array) + 1)] = 0
    tokens = rng.integers(0, config["vocab_size"] if rng.random() < 0.7 else 2, int(rng.integers(1, 30)))
    return load(write_folder(folder, config, weights)), [int(token) for token in tokens]


def gains_of(model):
    named = {
        f"layer{i}.{kind}.norm": f"layer{i}.{kind}_norm"
        for i in range(model.config.n_layer)
        for kind in ("attn", "mlp")
    }
    return {
        event: model.tensors[name].read() for event, name in ({"final.norm": "final_norm"} | named).items()
    }


def resized(seed):
    """Return a hook that scales the stream after some layers more than weights would."""
    rng = np.random.default_rng(seed)
    factors = 10.0 ** (rng.uniform(-2, 2, 9) * (rng.random(9) < 0.5) * (rng.random() < 0.5))

    def hook(event, value):
        return value * np.float32(factors[event.layer])

    return hook


def read(model, tokens=TOKENS):
    """Trace a decoder, and compare every sentence with the arrays."""
    traced = trace(model, tokens=list(tokens), values=True)
    print(tokens, *(f"{i.id} {i.holds}: {i.text}" for i in traced.insights), sep="\n")
    check_decoder(traced, gains_of(model), model.config.norm_eps, model.config.windowed_layers)
    return traced


@pytest.mark.parametrize("seed", SEEDS)
def test_every_sentence_about_a_random_microgpt_is_true(seed):
    model, text = random_microgpt(seed)
    traced = trace(model, text, values=True)
    print(seed, text, *(f"{i.id} {i.holds}: {i.text}" for i in traced.insights), sep="\n")
    check_microgpt(traced, model.config.n_layer)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_sentence_about_a_random_decoder_is_true(seed, tmp_path):
    model, tokens = random_decoder(seed, tmp_path / "model")
    with model.hooks.subscribe(resized(seed), "layer*.mlp.residual"):
        read(model, tokens)


def insight(traced, identifier):
    return next(found for found in traced.insights if found.id == identifier)


def twins(weights):
    """An element of the other sign is almost as large as the largest one."""
    weights["model.embed_tokens.weight"][TOKENS[2], 7:9] = 5000, -4999


def uniform(weights):
    """Spread attention evenly, which puts 1/2 on position 0, then 1/3 ..., without a sink."""
    for name in weights:
        weights[name][...] *= "q_proj" not in name


SINKS = "later positions put 49% or more of their attention on position 0"
EDITED = [
    ("sinks", uniform, False, f"In 0 of 10 layers, {SINKS}. The mean of these layers is 27%"),
    ("massive", twins, True, "The most extreme element is "),
]


@pytest.mark.parametrize(("identifier", "edit", "holds", "words"), EDITED)
def test_outcomes_of_edited_weights(decoder_folder, identifier, edit, holds, words):
    found = insight(read(load(decoder_folder(edit=edit, num_hidden_layers=10))), identifier)
    assert (found.holds, found.text[: len(words)]) == (holds, words)


def scaled(**factors):
    """Return a glob and a hook that multiplies the stream after some layers."""
    return "layer*.mlp.residual", lambda e, v: v * np.float32(factors.get(f"layer{e.layer}", 1))


def on_first(event, value):
    return np.eye(1, value.shape[2], dtype=value.dtype)[None].repeat(value.shape[1], 1).repeat(4, 0)


REPLACED = [
    ("growth", scaled(layer0=1e3), False, "The stream keeps its size (× 1."),
    ("growth", scaled(layer0=1e4, layer9=1e-3), False, "The stream shrinks to × 0.00"),
    ("growth", scaled(layer0=1e3, layer1=100, layer9=0.01), False, "The stream changes its size, but ends"),
    ("rmsnorm", ("layer3.mlp.norm", lambda e, v: v * 2), False, "The invariant does not hold: with the gain"),
    ("sinks", ("layer3.attn.weights", on_first), True, f"In 1 of 10 layers, {SINKS}."),
]


@pytest.mark.parametrize(("identifier", "hook", "holds", "words"), REPLACED)
def test_outcomes_of_replaced_values(ten, identifier, hook, holds, words):
    event, change = hook
    with ten.hooks.subscribe(change, event):
        found = insight(read(ten), identifier)
    assert (found.holds, found.text[: len(words)]) == (holds, words)


def test_insights_have_the_numbers_of_their_layers(ten):
    traced = read(ten)
    found = {insight.id: insight for insight in traced.insights}
    assert list(found) == ["rmsnorm", "growth", "massive", "sinks", "turn", "pattern"]
    assert [i.holds for i in found.values()] == [True, True, False, False, False, True]
    rows = traced.layers
    growth, turn = found["growth"].numbers, found["turn"].numbers
    assert (growth["first"], growth["last"]) == (rows[0].row_norm, rows[9].row_norm)
    assert (turn["layers"], turn["smallest_cosine"]) == (0, min(row.turn for row in rows))
    assert found["sinks"].numbers["largest"] == max(row.sink for row in rows)
    peak = max(rows, key=lambda row: abs(row.peak) / row.typical)
    assert found["massive"].numbers == {"peak": peak.peak, "times_typical": abs(peak.peak) / peak.typical}


@pytest.mark.parametrize(("value", "limit", "said"), [(0.97996, 0.98, "0.97996"), (0.98, 0.98, "0.980")])
def test_a_number_has_enough_digits_to_compare_with_its_limit(value, limit, said):
    assert value_and_limit(value, limit, fixed, 3)[0] == said


def test_does_not_evaluate_insights_without_enough_layers_or_positions(ten, decoder_folder):
    one, alone = trace(load(decoder_folder(num_hidden_layers=1)), tokens=[5, 9]), trace(ten, tokens=[5])
    assert (insight(one, "growth").holds, insight(alone, "sinks").holds) == (None, None)
    assert {row.sink for row in alone.layers} == {None}
    found = insight(read(load(decoder_folder("mistral_window"))), "sinks")
    assert (found.holds, found.text) == (None, "Not evaluated: every layer has a sliding window.")


@pytest.mark.parametrize(("layer", "holds"), [(0, True), (1, False)])
def test_leaves_layers_with_a_window_out_of_sinks(decoder_folder, layer, holds):
    """The second of two layers has a window, which soon excludes position 0."""
    model = load(decoder_folder("qwen2_window"))
    with model.hooks.subscribe(on_first, f"layer{layer}.attn.weights"):
        found = insight(trace(model, tokens=list(TOKENS)), "sinks")
    assert found.holds is holds
    assert "In 1 of 1 layer without" in found.text or not holds
    assert "layer 1" not in found.text


def test_other_steps_do_not_match_the_pattern(ten):
    traced, norms = trace(ten, tokens=list(TOKENS)), NormRows({}, {"final.norm": 0.0}, {"final.norm": 1.0})
    unnormed = Plan([row for row in ten.plan.values() if row.name != "layer0.attn.norm"])
    other = SimpleNamespace(config=ten.config, plan=unnormed)
    found = list(
        insights_of(PREDICATES, TracedRun(other, traced.input, {}, norms, (), np.empty(0), traced.layers))
    )
    assert (found[-1].id, found[-1].holds) == ("pattern", False)


@pytest.mark.parametrize(
    ("case", "layers"),
    [("llama_gqa", 2), ("llama_mqa", 1), ("llama_mha_bias", 2), ("mistral", 2), ("mistral_window", 1),
     ("qwen2", 1), ("qwen2_window", 1), ("qwen2_window", 2), ("qwen3", 1)],
)  # fmt: skip
def test_the_pattern_names_the_options_of_the_config(decoder_folder, case, layers):
    config = CASES[case] | {"num_hidden_layers": layers}
    text = insight(read(load(decoder_folder(case, **config))), "pattern").text
    windowed = config["model_type"] == "mistral" or (config.get("use_sliding_window") and layers > 1)
    groups = config["num_key_value_heads"]
    expected = {
        "2 layers instead of 1": layers == 2,
        f"{groups} key-value head{'s' * (groups > 1)} for 4 heads": groups < 4,
        "attention no further back than 3 positions": bool(windowed and config["sliding_window"]),
        "a norm of each head's q and k": config["model_type"] == "qwen3",
        "biases": config["model_type"] == "qwen2" or config.get("attention_bias", False),
    }
    assert {words: words in text for words in expected} == expected
    assert text.count(",") == 2 + sum(expected.values())
