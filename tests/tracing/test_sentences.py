"""Searches for a model or text that makes a printed sentence false: scaled random checkpoints and decoders.

A few dozen here; `PYTHONPATH=tests python tests/tracing/test_sentences.py 1000 3000` tries the seeds 1000
to 2999.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from support.sentences import read_decoder, read_microgpt
from support.tiny_models import CASES, random_weights, scales, write_folder

from microgpt_trace import Config, Model, Tokenizer, load, trace
from microgpt_trace.microgpt.parameters import Parameters

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
    return traced


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
        traced = trace(model, tokens=tokens, values=True)
    print(seed, tokens, *(f"{i.id} {i.holds}: {i.text}" for i in traced.insights), sep="\n")
    read_decoder(traced, gains_of(model), model.config.norm_eps, model.config.windowed_layers)
    return traced


@pytest.mark.parametrize("seed", range(40))
def test_no_microgpt_makes_a_sentence_false(seed):
    try_microgpt(seed)


@pytest.mark.parametrize("seed", range(40))
def test_no_decoder_makes_a_sentence_false(seed, tmp_path):
    try_decoder(seed, tmp_path / "model")


def search(first, stop):
    """By hand: report every seed whose trace says what its arrays do not."""
    import contextlib
    import io

    for seed in range(first, stop):
        for attempt in (try_microgpt, try_decoder):
            said = io.StringIO()
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(said):
                extra = () if attempt is try_microgpt else (Path(folder) / "model",)
                try:
                    attempt(seed, *extra)
                except Exception as error:
                    sys.stderr.write(f"{attempt.__name__} {seed}: {type(error).__name__} {error}\n")


if __name__ == "__main__":
    search(*map(int, sys.argv[1:]))
    sys.stderr.write("done\n")
