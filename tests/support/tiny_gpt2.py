"""Tiny GPT-2s for tests: configs, seeded random weights, files, and an independent judge in float64.

Configs and names are Hugging Face's, whose Conv1D stores matrices as [in, out]. It imports nothing of the
package; the references that transformers recorded judge it in turn.
"""

import math
from types import SimpleNamespace

import numpy as np
from support.faulty_engine import rounded_to
from support.judges_decoder import gelu, gelu_by_tanh, softmax
from support.tiny_models import _random_tensor, random_blocks, write_tensors

EXACT = {"activation_function": "gelu"}
BY_LAYER = {"scale_attn_by_inverse_layer_idx": True}


def gpt2_config(**changes):
    """A config of two layers, width 32, 4 heads and 16 positions; `changes` stand in it."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 61,
        "n_positions": 16,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    } | changes


GPT2S = {
    "gpt2": gpt2_config(),
    "gpt2_erf": gpt2_config(**EXACT, n_inner=48),
    "gpt2_untied": gpt2_config(tie_word_embeddings=False, layer_norm_epsilon=1e-2),
    "gpt2_by_layer": gpt2_config(**BY_LAYER),
    "gpt2_unscaled": gpt2_config(**BY_LAYER, scale_attn_weights=False, activation_function="relu"),
}
IN_GGUF = ("gpt2", "gpt2_untied")  # it says neither the function nor what scales the scores


def inner_of(config):
    return config["n_inner"] or 4 * config["n_embd"]


def gpt2_shapes(config):
    """Name and shape of every tensor, matrices of layers [in, out]."""
    width, inner, vocab = config["n_embd"], inner_of(config), config["vocab_size"]
    matrices = {
        "attn.c_attn": (width, 3 * width), "attn.c_proj": (width, width), "mlp.c_fc": (width, inner),
        "mlp.c_proj": (inner, width),
    }  # fmt: skip
    own = {f"{norm}.{part}": (width,) for norm in ("ln_1", "ln_2") for part in ("weight", "bias")}
    own |= {f"{name}.weight": shape for name, shape in matrices.items()}
    own |= {f"{name}.bias": shape[1:] for name, shape in matrices.items()}
    shapes = {"wte.weight": (vocab, width), "wpe.weight": (config["n_positions"], width)}
    shapes |= {f"h.{i}.{name}": shape for i in range(config["n_layer"]) for name, shape in own.items()}
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    shapes = {f"transformer.{name}": shape for name, shape in shapes.items()}
    return shapes if config["tie_word_embeddings"] else shapes | {"lm_head.weight": (vocab, width)}


def _tensor(name, shape, seed):
    if len(shape) == 2 and ".h." in name:
        return np.ascontiguousarray(_random_tensor(name, shape[::-1], seed).T)
    return _random_tensor(name.replace("ln_", "norm_"), shape, seed)


def tiny_gpt2(case):
    """(config, weights) of a case"""
    return GPT2S[case], random_gpt2(GPT2S[case], case)


def random_gpt2(config, seed):
    """Weights by name, float32; the same for the same seed (a case's name) on every machine."""
    return {name: _tensor(name, shape, seed) for name, shape in gpt2_shapes(config).items()}


def _is_conv1d(name, array):
    return isinstance(array, np.ndarray) and array.ndim == 2 and ".h." in name


def quantised_gpt2(type):
    """(config, weights as GGUF has them, weights as Hugging Face would have them) of a wider model."""
    config = gpt2_config(n_embd=256, n_inner=256, n_layer=1)  # K-quants hold 256 in a block
    stored, plain = {}, {}
    for name, shape in gpt2_shapes(config).items():
        stored[name] = plain[name] = _tensor(name, shape, type)
        if _is_conv1d(name, plain[name]):
            stored[name] = random_blocks(type, shape[::-1], name)
            plain[name] = stored[name].values().T
    return config, stored, plain


def write_gpt2_gguf(path, config, weights):
    """Write a GGUF file, matrices [out, in], as Blocks are already; returns the path."""
    import gguf

    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(inner_of(config))
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    rows = {name: array.T if _is_conv1d(name, array) else array for name, array in weights.items()}
    return write_tensors(writer, path, config["n_layer"], rows)


# --- The judge --------------------------------------------------------------------------------


def centred(x):
    return x - x.mean(-1, keepdims=True)


def layer_norm(x, gain, bias, eps, mean=True, divisor=None):
    x = centred(x) if mean else x
    return x / np.sqrt((x * x).sum(-1, keepdims=True) / (divisor or x.shape[-1]) + eps) * gain + bias


ACTIVATIONS = {"gelu": gelu, "gelu_new": gelu_by_tanh, "relu": lambda x: np.maximum(x, 0)}


def scores_of(q, k, heads, scale):
    """[T, C], [T, C] -> [H, T, T]"""
    q, k = (a.reshape(len(a), heads, -1) for a in (q, k))
    return np.einsum("qhd,khd->hqk", q, k) * scale


def gpt2_events(config, weights, tokens, instead=None, rounding=None):
    """Every forward event by its name, float64, or with `rounding` ("f32", "bf16", "f16") rounded. `instead`
    gives for an event a function of what was computed so far (`e`), the layer's weights (`w`), its right
    value (`right`) and the row of it that it has."""
    events, instead, T = {}, instead or {}, len(tokens)
    every = {n.removeprefix("transformer."): np.asarray(a, np.float64) for n, a in weights.items()}

    def put(name, value, w=every):
        if name in instead:
            value = instead[name](SimpleNamespace(e=events, w=w, right=value))
        if rounding is not None:
            value = rounded_to(value, rounding if rounding != "f32" else None)
        events[name] = value
        return value

    put("embed.tok", every["wte.weight"][list(tokens)])
    put("embed.pos", every["wpe.weight"][:T])
    x = put("embed.sum", events["embed.tok"] + events["embed.pos"])
    for i in range(config["n_layer"]):
        w = {n.removeprefix(f"h.{i}."): a for n, a in every.items()}
        x = _layer(config, w, x, i, lambda name, value, i=i, w=w: put(f"layer{i}.{name}", value, w))
    x = put("final.norm", _norm(config, every, "ln_f", x))
    head = every["wte.weight" if config["tie_word_embeddings"] else "lm_head.weight"]
    put("probs", softmax(put("logits", x @ head.T)))
    put("loss", -np.log(events["probs"][range(T - 1), list(tokens[1:])]).mean())
    return events


def _norm(config, w, name, x):
    return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"], config["layer_norm_epsilon"])


def _linear(w, name, x):
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def scale_of(config, layer):
    scale = 1 / math.sqrt(config["n_embd"] / config["n_head"]) if config["scale_attn_weights"] else 1.0
    return scale / (layer + 1) if config["scale_attn_by_inverse_layer_idx"] else scale


def _layer(config, w, x, i, put):
    T, heads = len(x), config["n_head"]
    q, k, v = np.split(_linear(w, "attn.c_attn", put("attn.norm", _norm(config, w, "ln_1", x))), 3, -1)
    q, k, v = put("attn.q", q), put("attn.k", k), put("attn.v", v)
    scores = put("attn.scores", scores_of(q, k, heads, scale_of(config, i)))
    weights = put("attn.weights", softmax(np.where(np.tri(T, dtype=bool), scores, -np.inf)))
    context = put("attn.context", np.einsum("hqk,khd->qhd", weights, v.reshape(T, heads, -1)).reshape(T, -1))
    columns = np.split(np.arange(context.shape[1]), heads)
    for h, own in enumerate(columns):
        put(f"attn.head{h}", context[:, own] @ w["attn.c_proj.weight"][own])
    x = put("attn.residual", x + put("attn.out", _linear(w, "attn.c_proj", context)))
    up = put("mlp.up", _linear(w, "mlp.c_fc", put("mlp.norm", _norm(config, w, "ln_2", x))))
    act = put("mlp.act", ACTIVATIONS[config["activation_function"]](up))
    return put("mlp.residual", x + put("mlp.down", _linear(w, "mlp.c_proj", act)))


# --- The judge with faults --------------------------------------------------------------------


def norm_with(name, source, **options):
    """A norm that reads `source`, with another eps, gain, bias or mean than its own."""

    def value(s):
        own = {"gain": s.w[f"{name}.weight"], "bias": s.w[f"{name}.bias"], "eps": 1e-5} | options
        return layer_norm(s.e[source], **own)

    return value


def first_norm(own):
    """The first norm: its gain and bias are right, `own` makes the rest of its input."""
    return lambda s: own(s.e["embed.sum"]) * s.w["ln_1.weight"] + s.w["ln_1.bias"]


def query_with(wrong):
    """q from its input, and from the matrix and the bias that stand for q, k and v together."""
    return lambda s: wrong(s.e["layer0.attn.norm"], s.w["attn.c_attn.weight"], s.w["attn.c_attn.bias"])


def _outside(x):
    """Divided by the root, and eps added to that."""
    x = centred(x)
    return x / (np.sqrt(np.square(x).mean(-1, keepdims=True)) + 1e-5)


FIRST, MIDDLE, LAST = "layer0.attn.norm", "layer0.attn.residual", "layer1.mlp.residual"
GPT2_FAULTS = {  # those that support/faults.py cannot have: its decoders lack LayerNorm and learned positions
    "eps": (FIRST, norm_with("ln_1", "embed.sum", eps=1e-2), ("eps is",)),
    "mean kept": (FIRST, norm_with("ln_1", "embed.sum", mean=False), ("RMSNorm",)),
    "last mean kept": ("final.norm", norm_with("ln_f", LAST, mean=False), ("RMSNorm",)),
    "bias of a norm missing": (
        FIRST, norm_with("ln_1", "embed.sum", bias=0.0), ("attn_bnorm is missing",),
    ),
    "bias of the last norm missing": (
        "final.norm", norm_with("ln_f", LAST, bias=0.0), ("final_bnorm is missing",),
    ),
    "bias of a norm twice": (
        FIRST, lambda s: s.right + s.w["ln_1.bias"], ("bias attn_bnorm is added twice",),
    ),
    "neither gain nor bias": (
        "layer0.mlp.norm", norm_with("ln_2", MIDDLE, gain=1.0, bias=0.0), ("gain and bias",),
    ),
    "another norm's gain and bias": (
        FIRST, norm_with("ln_2", "embed.sum"), ("gain and bias are those of mlp_norm",),
    ),
    "another norm's bias": (
        "final.norm", lambda s: s.right - s.w["ln_f.bias"] + s.w["h.1.ln_2.bias"], ("bias",),
    ),
    "unbiased variance": ("final.norm", norm_with("ln_f", LAST, divisor=31), ("unbiased variance",)),
    "eps outside the root": (FIRST, first_norm(_outside), ("outside",)),
    "norm skipped but for gain and bias": (FIRST, first_norm(lambda x: x), ("gain and bias kept",)),
    "only centred": (FIRST, first_norm(centred), ("nothing divides",)),
    "bias twice": ("layer0.mlp.up", lambda s: s.right + s.w["mlp.c_fc.bias"], ("bias", "twice")),
    "positions one late": ("embed.pos", lambda s: s.w["wpe.weight"][1 : 1 + len(s.right)], ("position",)),
    "positions missing": ("embed.sum", lambda s: s.e["embed.tok"], ("embed.pos", "position", "missing")),
    "erf": ("layer0.mlp.act", lambda s: gelu(s.e["layer0.mlp.up"]), ("is GELU,",)),
    "relu": ("layer0.mlp.act", lambda s: np.maximum(s.e["layer0.mlp.up"], 0), ("is ReLU",)),
    "scale by layer": ("layer1.attn.scores", lambda s: s.right / 2, ("not multiplied by 1/sqrt(8)",)),
    "k for q": ("layer0.attn.q", query_with(lambda x, w, b: x @ w[:, 32:64] + b[32:64]), ("attn_wk",)),
    "q for k": ("layer0.attn.k", query_with(lambda x, w, b: x @ w[:, :32] + b[:32]), ("attn_wq",)),
    "q transposed": (
        "layer0.attn.q", query_with(lambda x, w, b: x @ w[:, :32].T + b[:32]), ("transposed",),
    ),
    "bias of the other matrix": (
        "layer0.mlp.down", lambda s: s.right - s.w["mlp.c_proj.bias"] + s.w["attn.c_proj.bias"], ("bias",),
    ),
    "stream twice": (MIDDLE, lambda s: s.right + s.e["embed.sum"], ("twice", "2 times", "residual")),
    "norm of the stream added": (
        MIDDLE, lambda s: s.e["layer0.attn.norm"] + s.e["layer0.attn.out"], ("norm of the stream",),
    ),
}  # fmt: skip
