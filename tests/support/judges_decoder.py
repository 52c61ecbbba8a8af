"""An independent reference for decoders: the meaning of a Hugging Face config, and formulas in float64.

Imports nothing from the package. The recorded references of transformers check it.
"""

import math

import numpy as np


def rope_of(config):
    """Return the RoPE settings, from `rope_parameters`, or from `rope_theta` and `rope_scaling`."""
    settings = {"rope_theta": config.get("rope_theta"), "rope_type": "default"}
    settings |= config.get("rope_parameters") or config.get("rope_scaling") or {}
    return settings | {"rope_type": settings.pop("type", settings["rope_type"])}


def head_dim_of(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def kv_heads_of(config):
    return config.get("num_key_value_heads") or config["num_attention_heads"]


def rope_frequencies(config):
    """Return (radians per position of each pair [D/2], factor of cos and sin)."""
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
    """Slow long waves down by the factor, keep short ones, and blend between them."""
    turns = rope["original_max_position_embeddings"] * frequency / (2 * math.pi)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    kept = min(max((turns - low) / (high - low), 0.0), 1.0)
    return frequency * (kept + (1 - kept) / rope["factor"])


def _yarn_ramp(rope, dim):
    """Return 0 for pairs that keep their frequency, and up to 1 for slowed ones (Peng et al. 2023, 3.2)."""

    def pair_with(turns):
        waves = rope["original_max_position_embeddings"] / (turns * 2 * math.pi)
        return dim * math.log(waves) / (2 * math.log(rope["rope_theta"]))

    low, high = pair_with(rope.get("beta_fast", 32)), pair_with(rope.get("beta_slow", 1))
    if rope.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    return np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)


def window_of(config, layer):
    """Return the number of positions that a layer sees, the current one included, or None for all."""
    kinds = config.get("layer_types")
    if kinds is not None:
        return config["sliding_window"] if kinds[layer] == "sliding_attention" else None
    if config["model_type"] == "mistral":
        return config["sliding_window"]
    windowed = config.get("use_sliding_window") and layer >= config["max_window_layers"]
    return config["sliding_window"] if windowed else None


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def gelu_by_tanh(x):
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
