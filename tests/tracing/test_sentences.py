"""What the trace of a decoder reveals, and searches for a model or text that makes a printed sentence false.

`support/sentences.py` takes the numbers out of every sentence and holds them against the arrays.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from support.sentences import read_decoder, read_microgpt
from support.sweeps import in_sweep
from support.tiny_models import CASES, TOKENS, random_weights, scales, write_folder

from microgpt_trace import Config, Model, Tokenizer, load, trace
from microgpt_trace.measuring.norms import NormRows
from microgpt_trace.microgpt.parameters import Parameters
from microgpt_trace.text.wording import fixed, told_apart
from microgpt_trace.tracing.decoder_insights import insights_of

SEEDS = [*range(40), *(in_sweep(seed, whole=True) for seed in range(40, 100))]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def odd_microgpt(seed):
    """A microGPT of 1 to 6 layers whose tensors are of any size, and a text for it."""
    rng = np.random.default_rng(seed)
    chars = LETTERS[: int(rng.integers(2, 27))]
    layers, heads = int(rng.integers(1, 7)), int(rng.integers(1, 4))
    config = Config(
        vocab_size=len(chars) + 1, n_embd=heads * int(rng.integers(1, 9)), n_head=heads, n_layer=layers,
        block_size=int(rng.integers(2, 130)), n_inner=int(rng.integers(1, 40)),
    )  # fmt: skip
    params = Parameters.random(config, seed)
    for name, factor in scales(rng, params).items():
        params[name][...] *= np.float32(factor)
    for name in ("wte", "wpe"):  # rows so small that eps counts
        if rng.random() < 0.3:
            params[name][rng.integers(len(params[name]))] *= np.float32(1e-4)
    for i in range(layers):  # units that always or never fire
        if rng.random() < 0.2:
            params[f"layer{i}.mlp_fc1"][...] *= np.float32(0 if rng.random() < 0.3 else 1)
    origin = "untrained, seed 1" if rng.random() < 0.3 else "a test"
    length = int(rng.integers(0, config.block_size))
    return Model(params, Tokenizer(chars), origin), "".join(rng.choice(list(chars), length))


def odd_decoder(seed, folder):
    """A decoder of 1 to 8 layers whose tensors are of any size, and tokens for it."""
    rng = np.random.default_rng(seed)
    case = str(rng.choice(["llama_gqa", "llama_mha_bias", "mistral_window", "qwen2_window", "qwen3"]))
    config = CASES[case] | {"num_hidden_layers": int(rng.integers(1, 9))}
    config["rms_norm_eps"] = float(rng.choice([1e-6, 1e-5, 1e-2]))
    weights = random_weights(config, f"{case}{seed}")
    for name, factor in scales(rng, weights).items():
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


def try_microgpt(seed):
    model, text = odd_microgpt(seed)
    traced = trace(model, text, values=True)
    print(seed, text, *(f"{i.id} {i.holds}: {i.text}" for i in traced.insights), sep="\n")
    read_microgpt(traced, model.config.n_layer)


def resized(seed):
    """A hook that gives the stream after some layers another size, as no weights would."""
    rng = np.random.default_rng(seed)
    factors = 10.0 ** (rng.uniform(-2, 2, 9) * (rng.random(9) < 0.5) * (rng.random() < 0.5))

    def hook(event, value):
        return value * np.float32(factors[event.layer])

    return hook


def try_decoder(seed, folder):
    model, tokens = odd_decoder(seed, folder)
    with model.hooks.subscribe(resized(seed), "layer*.mlp.residual"):
        read(model, tokens)


def read(model, tokens=TOKENS):
    """The trace of a decoder, every sentence of which was held against its arrays."""
    traced = trace(model, tokens=list(tokens), values=True)
    print(tokens, *(f"{i.id} {i.holds}: {i.text}" for i in traced.insights), sep="\n")
    read_decoder(traced, gains_of(model), model.config.norm_eps, model.config.windowed_layers)
    return traced


@pytest.mark.parametrize("seed", SEEDS)
def test_no_microgpt_makes_a_sentence_false(seed):
    try_microgpt(seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_decoder_makes_a_sentence_false(seed, tmp_path):
    try_decoder(seed, tmp_path / "model")


# --- Each outcome of a predicate ------------------------------------------------------------------


def insight(traced, identifier):
    return next(found for found in traced.insights if found.id == identifier)


def twins(weights):
    """The largest element does not outweigh one that is as large with the other sign."""
    weights["model.embed_tokens.weight"][TOKENS[2], 7:9] = 5000, -4999


def uniform(weights):
    """Attention is spread evenly, which puts 1/2 on position 0, then 1/3 ..., without a sink."""
    for name in weights:
        weights[name][...] *= "q_proj" not in name


SINKS = "Later positions put 49% or more of their attention on position 0"
EDITED = [
    ("sinks", uniform, False, f"{SINKS} in none of 10 layers. The mean of these layers is 27%"),
    ("massive", twins, True, "The most extreme element is "),
]


@pytest.mark.parametrize(("identifier", "edit", "holds", "words"), EDITED)
def test_what_weights_reveal(decoder_folder, identifier, edit, holds, words):
    found = insight(read(load(decoder_folder(edit=edit, num_hidden_layers=10))), identifier)
    assert (found.holds, found.text[: len(words)]) == (holds, words)


def sized(**factors):
    """The stream so many times as long after a layer."""
    return "layer*.mlp.residual", lambda e, v: v * np.float32(factors.get(f"layer{e.layer}", 1))


def first_alone(event, value):
    return np.eye(1, value.shape[2], dtype=value.dtype)[None].repeat(value.shape[1], 1).repeat(4, 0)


REPLACED = [
    ("growth", sized(layer0=1e3), False, "The stream keeps its size (× 1."),
    ("growth", sized(layer0=1e4, layer9=1e-3), False, "The stream shrinks to × 0.00"),
    ("growth", sized(layer0=1e3, layer1=100, layer9=0.01), False, "The stream changes its size and ends"),
    ("rmsnorm", ("layer3.mlp.norm", lambda e, v: v * 2), False, "The invariant does not hold: with the gain"),
    ("sinks", ("layer3.attn.weights", first_alone), True, f"{SINKS} in 1 of 10 layers."),
]


@pytest.mark.parametrize(("identifier", "hook", "holds", "words"), REPLACED)
def test_what_values_reveal(ten, identifier, hook, holds, words):
    event, change = hook
    with ten.hooks.subscribe(change, event):
        found = insight(read(ten), identifier)
    assert (found.holds, found.text[: len(words)]) == (holds, words)


def test_every_insight_of_a_sound_model_has_its_numbers(ten):
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
def test_a_number_shows_on_which_side_of_its_limit_it_lies(value, limit, said):
    assert told_apart(value, limit, fixed, 3)[0] == said


def test_what_there_is_too_little_of_is_not_evaluated(ten, decoder_folder):
    one, alone = trace(load(decoder_folder(num_hidden_layers=1)), tokens=[5, 9]), trace(ten, tokens=[5])
    assert (insight(one, "growth").holds, insight(alone, "sinks").holds) == (None, None)
    assert {row.sink for row in alone.layers} == {None}
    found = insight(read(load(decoder_folder("mistral_window"))), "sinks")
    assert (found.holds, found.text) == (None, "Not evaluated: every layer has a sliding window.")


@pytest.mark.parametrize(("layer", "holds"), [(0, True), (1, False)])
def test_layers_with_a_window_are_no_sinks(decoder_folder, layer, holds):
    """Of the two layers the second has a window, within which position 0 is soon out of sight."""
    model = load(decoder_folder("qwen2_window"))
    with model.hooks.subscribe(first_alone, f"layer{layer}.attn.weights"):
        found = insight(trace(model, tokens=list(TOKENS)), "sinks")
    assert found.holds is holds
    assert "in 1 of 1 layer without" in found.text or not holds
    assert "layer 1" not in found.text


def test_layers_that_differ_are_not_the_pattern(ten):
    traced, norms = trace(ten, tokens=list(TOKENS)), NormRows(1e-5, {"final.norm": 0.0}, {"final.norm": 1.0})
    other = SimpleNamespace(config=ten.config, plan=ten.plan, chain=("ffn_norm", "attn"))
    found = list(insights_of(other, traced.layers, norms, traced.input))
    assert (found[-1].id, found[-1].holds) == ("pattern", False)


@pytest.mark.parametrize(
    ("case", "layers"),
    [("llama_gqa", 2), ("llama_mqa", 1), ("llama_mha_bias", 2), ("mistral", 2), ("mistral_window", 1),
     ("qwen2", 1), ("qwen2_window", 1), ("qwen2_window", 2), ("qwen3", 1)],
)  # fmt: skip
def test_the_pattern_names_what_the_config_has(decoder_folder, case, layers):
    config = CASES[case] | {"num_hidden_layers": layers}
    text = insight(read(load(decoder_folder(case, **config))), "pattern").text
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
