"""An independent judge of decoders: the formulas in float64, from a Hugging Face config and weights.

It imports nothing of the package; the references that transformers recorded judge it in turn.
"""

import math

import numpy as np


def rope_of(config):
    """RoPE's settings, from either dialect: `rope_parameters`, or `rope_theta` beside `rope_scaling`."""
    settings = {"rope_theta": config.get("rope_theta"), "rope_type": "default"}
    settings |= config.get("rope_parameters") or config.get("rope_scaling") or {}
    return settings | {"rope_type": settings.pop("type", settings["rope_type"])}


def head_dim_of(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def kv_heads_of(config):
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def rope_frequencies(config):
    """(radians per position of each pair [D/2], factor of cos and sin)"""
    rope, dim = rope_of(config), head_dim_of(config)
    plain = np.array([rope["rope_theta"] ** (-2 * i / dim) for i in range(dim // 2)])
    kind = rope["rope_type"]
    if kind == "default":
        return plain, 1.0
    factor = rope["factor"]
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        return np.array([_llama3(f, rope) for f in plain]), 1.0
    kept = 1 - _yarn_ramp(rope, dim)
    attention = rope.get("attention_factor") or 0.1 * math.log(factor) + 1
    return plain * kept + plain / factor * (1 - kept), attention


def _llama3(frequency, rope):
    """Long waves are slowed by the factor, short ones kept, those between blended."""
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = min(max((turns - low) / (high - low), 0.0), 1.0)
    return frequency * (kept + (1 - kept) / rope["factor"])


def _yarn_ramp(rope, dim):
    """0 where a pair keeps its frequency, 1 where it is slowed (Peng et al. 2023, section 3.2)"""

    def pair_with(turns):
        waves = rope["original_max_position_embeddings"] / (turns * 2 * math.pi)
        return dim * math.log(waves) / (2 * math.log(rope["rope_theta"]))

    low, high = pair_with(rope.get("beta_fast", 32)), pair_with(rope.get("beta_slow", 1))
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    return np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)


def window_of(config, layer):
    """How many positions back a layer sees, itself included; None for all."""
    kinds = config.get("layer_types")
    if kinds is not None:
        return config["sliding_window"] if kinds[layer] == "sliding_attention" else None
    if config["model_type"] == "mistral":
        return config["sliding_window"]
    windowed = config.get("use_sliding_window") and layer >= config["max_window_layers"]
    return config["sliding_window"] if windowed else None


def _norm(x, gain, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_by_tanh(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def _turn(x, angles, factor):  # [T, H, D], [T, D/2]; channel i and i + D/2 are a pair
    pairs = x[..., : x.shape[-1] // 2] + 1j * x[..., x.shape[-1] // 2 :]
    turned = pairs * np.exp(1j * angles)[:, None, :] * factor
    return np.concatenate([turned.real, turned.imag], -1)


def decoder_events(config, weights, tokens):
    """Every forward event of a decoder by its name, float64."""
    w = {name: np.asarray(array, np.float64) for name, array in weights.items()}
    eps = config["rms_norm_eps"]
    events = {"embed.tok": w["model.embed_tokens.weight"][list(tokens)]}
    x = events["embed.tok"]
    for i in range(config["num_hidden_layers"]):
        own = {n.removeprefix(f"model.layers.{i}."): a for n, a in w.items()}
        layer = _attention_events(config, own, x, window_of(config, i))
        layer |= _mlp_events(own, layer["attn.residual"], eps)
        x = layer["mlp.residual"]
        events |= {f"layer{i}.{name}": array for name, array in layer.items()}
    events["final.norm"] = _norm(x, w["model.norm.weight"], eps)
    head = w["model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"]
    events["logits"] = events["final.norm"] @ head.T
    return events | {"probs": softmax(events["logits"])}


def _attention_events(config, w, x, window):
    """Events of one layer's attention, without the layer's name."""
    length, dim, eps = len(x), head_dim_of(config), config["rms_norm_eps"]
    events = {"attn.norm": _norm(x, w["input_layernorm.weight"], eps)}
    q, k, v = (_linear(w, f"self_attn.{n}_proj", events["attn.norm"]).reshape(length, -1, dim) for n in "qkv")
    events |= {"attn.q": q, "attn.k": k, "attn.v": v}
    if "self_attn.q_norm.weight" in w:
        q, k = _norm(q, w["self_attn.q_norm.weight"], eps), _norm(k, w["self_attn.k_norm.weight"], eps)
        events |= {"attn.q_norm": q, "attn.k_norm": k}
    frequencies, factor = rope_frequencies(config)
    angles = np.arange(length)[:, None] * frequencies
    q, k = _turn(q, angles, factor), _turn(k, angles, factor)
    events |= {"attn.q_rope": q, "attn.k_rope": k}
    shared = q.shape[1] // k.shape[1]  # query heads of one key-value head
    scores = np.einsum("qhd,khd->hqk", q, k.repeat(shared, 1)) / math.sqrt(dim)
    back = np.arange(length)[:, None] - np.arange(length)
    seen = (back >= 0) & (back < (window or length))
    weights = softmax(np.where(seen, scores, -np.inf))
    context = np.einsum("hqk,khd->qhd", weights, v.repeat(shared, 1)).reshape(length, -1)
    out = _linear(w, "self_attn.o_proj", context)
    rows = {name: array.reshape(length, -1) for name, array in events.items()}
    maps = {"attn.scores": scores, "attn.weights": weights}
    return rows | maps | {"attn.context": context, "attn.out": out, "attn.residual": x + out}


def _mlp_events(w, x, eps):
    """Events of one layer's MLP, without the layer's name."""
    norm = _norm(x, w["post_attention_layernorm.weight"], eps)
    gate, up = _linear(w, "mlp.gate_proj", norm), _linear(w, "mlp.up_proj", norm)
    act = gate / (1 + np.exp(-gate))
    down = _linear(w, "mlp.down_proj", act * up)
    steps = {"norm": norm, "gate": gate, "up": up, "act": act, "hidden": act * up, "down": down}
    return {f"mlp.{name}": array for name, array in (steps | {"residual": x + down}).items()}


def _linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)
