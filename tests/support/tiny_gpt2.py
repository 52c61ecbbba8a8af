"""Tiny GPT-2s for tests: configs, seeded random weights, files, and runs of the independent engine.

Configs and names are those of Hugging Face, whose Conv1D stores matrices as [in, out]. Imports nothing from
the package. The recorded references of transformers check it.
"""

import math
import re

import numpy as np
from support.faulty_engine import Fault, gpt2_plan, run_plan
from support.tiny_models import _random_tensor, random_blocks, write_parts

EXACT = {"activation_function": "gelu"}
BY_LAYER = {"scale_attn_by_inverse_layer_idx": True}


def gpt2_config(**changes):
    """Return a config with two layers, width 32, 4 heads and 16 positions, or with `changes`."""
    return {
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 61, "n_positions": 16,
        "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": None, "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2,
    } | changes  # fmt: skip


GPT2S = {
    "gpt2": gpt2_config(),
    "gpt2_erf": gpt2_config(**EXACT, n_inner=48),
    "gpt2_untied": gpt2_config(tie_word_embeddings=False, layer_norm_epsilon=1e-2),
    "gpt2_by_layer": gpt2_config(**BY_LAYER),
    "gpt2_unscaled": gpt2_config(**BY_LAYER, scale_attn_weights=False, activation_function="relu"),
}
IN_GGUF = ("gpt2", "gpt2_untied")  # GGUF stores neither the activation nor the scaling of the scores


def inner_of(config):
    return config["n_inner"] or 4 * config["n_embd"]


def gpt2_shapes(config):
    """Return the shape of every tensor by name. Matrices of layers are [in, out]."""
    width, inner, vocab = config["n_embd"], inner_of(config), config["vocab_size"]
    matrices = {
        "attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width), "mlp.c_fc": (width, inner),
        "mlp.c_proj": (inner, width),
    }  # fmt: skip
    layer = {f"{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    layer |= {f"{name}.weight": shape for name, shape in matrices.items()}
    layer |= {f"{name}.bias": shape[1:] for name, shape in matrices.items()}
    shapes = {"wte.weight": (vocab, width), "wpe.weight": (config["n_positions"], width)}
    shapes |= {f"h.{i}.{name}": shape for i in range(config["n_layer"]) for name, shape in layer.items()}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    return shapes if config["tie_word_embeddings"] else shapes | {"lm_head.weight": (vocab, width)}


def _tensor(name, shape, seed):
    if len(shape) == 2 and ".h." in name:
        return np.ascontiguousarray(_random_tensor(name, shape[::-1], seed).T)
    return _random_tensor(name.replace("ln_", "norm_"), shape, seed)


def tiny_gpt2(case):
    """Return the config and weights of a case."""
    return GPT2S[case], random_gpt2(GPT2S[case], case)


def random_gpt2(config, seed):
    """Return float32 weights by name. A seed (the name of a case) gives the same weights everywhere."""
    return {name: _tensor(name, shape, seed) for name, shape in gpt2_shapes(config).items()}


def _is_conv1d(name, array):
    return isinstance(array, np.ndarray) and array.ndim == 2 and ".h." in name


def quantised_gpt2(type):
    """Return (config, weights as GGUF stores them, weights as Hugging Face would) of a wider model."""
    config = gpt2_config(n_embd=256, n_inner=256, n_layer=1)  # K-quants hold 256 in a block
    stored, plain = {}, {}
    for name, shape in gpt2_shapes(config).items():
        stored[name] = plain[name] = _tensor(name, shape, type)
        if _is_conv1d(name, plain[name]):
            stored[name] = random_blocks(type, shape[::-1], name)
            plain[name] = stored[name].values().T
    return config, stored, plain


def write_gpt2_gguf(path, config, weights):
    """Write a GGUF file, whose matrices are [out, in] as Blocks are already. Return the path."""
    import gguf

    fields = {
        "context_length": config["n_positions"], "embedding_length": config["n_embd"],
        "block_count": config["n_layer"], "feed_forward_length": inner_of(config),
        "head_count": config["n_head"], "layer_norm_eps": config["layer_norm_epsilon"],
    }  # fmt: skip
    rows = {name: array.T if _is_conv1d(name, array) else array for name, array in weights.items()}
    return write_parts(gguf.GGUFWriter(path, "gpt2"), path, fields, rows)


MODULES = {
    "wte": "model.embed_tokens", "ln_f": "model.norm", "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm", "attn.c_proj": "self_attn.o_proj", "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}  # fmt: skip


def engine_weights(weights):
    """Return weights for the engine: by the names of a llama, matrices [out, in], q, k and v separate."""
    result = {}
    for name, array in weights.items():
        *layer, module, kind = re.fullmatch(r"(?:transformer\.)?(?:h\.(\d+)\.)?(.*)\.(\w+)", name).groups()
        prefix = f"model.layers.{layer[0]}." if layer[0] else ""
        array = array.T if layer[0] else array
        if module == "attn.c_attn":
            parts = zip("qkv", np.split(array, 3), strict=True)
            result |= {f"{prefix}self_attn.{n}_proj.{kind}": part for n, part in parts}
        else:
            result[f"{prefix}{MODULES.get(module, module)}.{kind}"] = array
    return result


def scale_of(config, layer):
    scale = 1 / math.sqrt(config["n_embd"] / config["n_head"]) if config["scale_attn_weights"] else 1.0
    return scale / (layer + 1) if config["scale_attn_by_inverse_layer_idx"] else scale


def gpt2_events(config, weights, tokens, changes=None, rounding=None):
    """Run the independent engine and return every forward event, rounded to "f32", "bf16" or "f16". `changes`
    are options by event."""
    scales = {f"layer{i}.attn.scores": {"scale": scale_of(config, i)} for i in range(config["n_layer"])}
    fault = Fault("changes", "", (), changes=scales | (changes or {}))
    terms = config | {
        "num_hidden_layers": config["n_layer"], "hidden_size": config["n_embd"],
        "num_attention_heads": config["n_head"], "rms_norm_eps": config["layer_norm_epsilon"],
    }  # fmt: skip
    plan = gpt2_plan(terms, config["activation_function"].replace("gelu_new", "gelu_tanh"))
    precision = rounding if rounding != "f32" else None, None
    return run_plan(plan, terms, engine_weights(weights), tokens, tokens[1:], fault, precision=precision)


FIRST, MIDDLE = "layer0.attn.norm", "layer0.attn.residual"
GPT2_FAULTS = {  # faults of LayerNorm and learned positions, which support/faults.py lacks, and some others
    "eps": (FIRST, {"eps": 1e-2}, ("eps is",)),
    "mean kept": (FIRST, {"centred": False}, ("RMSNorm",)),
    "last mean kept": ("final.norm", {"centred": False}, ("RMSNorm",)),
    "bias of a norm missing": (FIRST, {"bias": 0.0}, ("attn_bnorm is missing",)),
    "bias of the last norm missing": ("final.norm", {"bias": 0.0}, ("final_bnorm is missing",)),
    "bias of a norm twice": (FIRST, {"bias": 2.0}, ("bias attn_bnorm is added twice",)),
    "neither gain nor bias": ("layer0.mlp.norm", {"gain": ""}, ("gain and bias",)),
    "another norm's gain and bias": (
        FIRST, {"gain": "post_attention_layernorm"}, ("gain and bias belong to mlp_norm",),
    ),
    "another norm's bias": (
        "final.norm", {"bias_of": "model.layers.1.post_attention_layernorm"}, ("bias",),
    ),
    "unbiased variance": ("final.norm", {"divisor": 31}, ("unbiased variance",)),
    "eps outside the root": (FIRST, {"inside": False}, ("outside",)),
    "norm skipped except gain and bias": (
        FIRST, {"power": 0.0, "centred": False}, ("only its gain and bias",),
    ),
    "only centred": (FIRST, {"power": 0.0}, ("and does not divide",)),
    "bias twice": ("layer0.mlp.up", {"bias": 2.0}, ("bias", "twice")),
    "positions one late": ("embed.pos", {"offset": 1}, ("position",)),
    "positions missing": ("embed.sum", {"added": 0.0}, ("embed.pos", "position", "missing")),
    "erf": ("layer0.mlp.act", {"kind": "gelu"}, ("is GELU,",)),
    "relu": ("layer0.mlp.act", {"kind": "relu"}, ("is ReLU",)),
    "scale by layer": ("layer1.attn.scores", {"scale": 8**-0.5 / 2}, ("not multiplied by 1/sqrt(8)",)),
    "k for q": ("layer0.attn.q", {"by": "self_attn.k_proj"}, ("attn_wk",)),
    "q for k": ("layer0.attn.k", {"by": "self_attn.q_proj"}, ("attn_wq",)),
    "q transposed": ("layer0.attn.q", {"transposed": True}, ("transposed",)),
    "bias of the other matrix": ("layer0.mlp.down", {"bias_of": "self_attn.o_proj"}, ("bias",)),
    "stream twice": (MIDDLE, {"kept": 2.0}, ("twice", "2 times", "residual")),
    "norm of the stream added": (MIDDLE, {"stream": "attn.norm"}, ("norm of the stream",)),
}  # fmt: skip
