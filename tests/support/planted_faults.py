"""Edits of exports, and the faults of weights that they plant. An edit changes the metadata and the arrays of
a GGUF file in place."""

import numpy as np
from support.exports import stored
from support.tiny_models import pair_neighbours

T = "tokenizer.ggml."
Q, K, OUT, GATE, UP, DOWN, NORM, EXPERTS = (
    f"blk.0.{name}.weight"
    for name in (
        *("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "attn_norm", "ffn_gate_exps"),
    )
)
HEAD, WTE = "output.weight", "token_embd.weight"

# --- Functions of a list or an array ----------------------------------------------------------


def at(place, change):
    """Return a function that changes the element of a list, or with None removes it."""

    def edit(row):
        row = list(row)
        row[place : place + 1 or None] = [] if change is None else [change(row[place])]
        return row

    return edit


def swapped(i, j):
    def edit(row):
        row = list(row)
        row[i], row[j] = row[j], row[i]
        return row

    return edit


def put(index, value):
    def by(array):
        array[index] = value
        return array

    return by


def unpaired(heads):
    """Undo the order of rows that a GGUF file of llama needs."""
    return lambda w: w.reshape(heads, -1, 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def paired(heads):
    return lambda w: pair_neighbours(w, heads)


def bits(count):
    """Round runs of 32 numbers to integers of `count` bits, with a scale."""

    def by(array):
        runs = array.reshape(-1, 32)
        scale = np.abs(runs).max(axis=1, keepdims=True) / (2 ** (count - 1) - 0.5)
        return (np.rint(runs / scale) * scale).reshape(array.shape)

    return by


def through(type):
    """Return the rounding to a type of GGUF files."""
    return lambda array: stored("w", np.atleast_2d(array), type).read().reshape(array.shape)


def low_rank(array):
    rng = np.random.default_rng(3)
    delta = rng.normal(size=(len(array), 4)) @ rng.normal(size=(4, array.shape[1]))
    return array + delta * (0.1 * np.linalg.norm(array) / np.linalg.norm(delta))


def noisy(array):
    noise = np.random.default_rng(4).normal(size=array.shape)
    return array + 0.2 * noise * np.linalg.norm(array) / np.linalg.norm(noise)


def unrelated(array):
    return np.random.default_rng(5).normal(size=array.shape)


def rolled(array):
    return np.roll(array, 1, 0)


def transposed(array):
    """Return the columns as rows, in the old shape."""
    return array.swapaxes(-1, -2).reshape(array.shape)


# --- Edits ------------------------------------------------------------------------------------


def meta(key, value):
    """Return an edit that sets a key without its prefix. A function gets the old value, None removes it."""

    def edit(metadata, arrays):
        prefix = "" if key.startswith(("tokenizer", "general")) else f"{metadata['general.architecture']}."
        new = value(metadata[prefix + key]) if callable(value) else value
        metadata.pop(prefix + key, None) if new is None else metadata.update({prefix + key: new})

    return edit


def voc(key, value):
    return meta(T + key, value)


def template(old, new):
    return meta("tokenizer.chat_template", lambda text: text.replace(old, new))


def weight(name, by):
    """Return an edit that changes a tensor. With None it removes the tensor."""

    def edit(metadata, arrays):
        if by is None:
            del arrays[name]
        else:
            arrays[name] = np.ascontiguousarray(by(arrays[name]), np.float32)

    return edit


def every(by):
    return lambda metadata, arrays: arrays.update({name: by(array) for name, array in arrays.items()})


def exchange(one, other):
    def edit(metadata, arrays):
        arrays[one], arrays[other] = arrays[other], arrays[one]

    return edit


def exchange_layers(metadata, arrays):
    for name in [name for name in arrays if name.startswith("blk.0.")]:
        exchange(name, name.replace("blk.0.", "blk.1."))(metadata, arrays)


def copy(target, source):
    return lambda metadata, arrays: arrays.update({target: arrays[source].copy()})


def add(name, shape):
    return lambda metadata, arrays: arrays.update({name: np.ones(shape, np.float32)})


# --- Faults of weights ------------------------------------------------------------------------

QKV = "blk.0.attn_qkv.weight"
WEIGHT_FAULTS = [  # the check, the accused parameters ("": any), model, type, edits
    ("missing", "layer0.attn_wo", "llama", "Q8_0", weight(OUT, None)),
    ("missing", "lm_head", "llama", "Q8_0", weight(HEAD, None)),
    ("missing", "", "gpt2", "F16", weight("blk.1.ffn_down.bias", None)),
    ("missing", "", "mixtral", "F32", weight(EXPERTS, None)),
    ("missing", "", "olmo2", "F32", weight("blk.1.attn_q_norm.weight", None)),
    ("extra", "", "qwen3", "F32", add("blk.0.attn_z.weight", (64, 64))),
    ("extra", "layer2.attn_norm", "llama", "F16", add("blk.2.attn_norm.weight", 64)),
    # not permuted, permuted twice, without need, with the wrong number of heads, and a part of a fused matrix
    ("permuted", "layer0.attn_wq layer0.attn_wk", "llama", "Q8_0",
     weight(Q, unpaired(4)), weight(K, unpaired(2))),
    ("permuted", "layer0.attn_wq layer0.attn_wk", "llama", "F16", weight(Q, paired(4)), weight(K, paired(2))),
    ("permuted", "layer0.attn_bq", "llama_mha", "F32", weight("blk.0.attn_q.bias", unpaired(4))),
    ("permuted", "layer0.attn_wk", "qwen2", "Q4_0", weight(K, paired(2))),
    ("permuted", "layer0.attn_wk", "llama", "Q4_1", weight(K, unpaired(2)), weight(K, paired(4))),
    ("permuted", "layer0.attn_wq", "phi3", "F32",
     weight(QKV, lambda w: np.concatenate([paired(4)(w[:64]), w[64:]]))),
    ("permuted", "", "granite", "Q4_1", weight(Q, paired(4))),
    ("permuted", "", "smollm3", "Q8_0", weight(Q, unpaired(4)), weight(K, unpaired(2))),
    ("transposed", "layer0.attn_wo", "llama", "Q8_0", weight(OUT, np.transpose)),
    ("transposed", "layer0.mlp_wup", "llama", "F32", weight(UP, np.transpose)),
    ("transposed", "layer1.attn_wo", "gpt2", "F16", weight("blk.1.attn_output.weight", np.transpose)),
    ("transposed", "layer0.mlp_wdown", "gemma2", "BF16", weight(DOWN, transposed)),
    ("transposed", "layer0.mlp_wgate_experts", "mixtral", "F16", weight(EXPERTS, transposed)),
    ("swapped", "layer0.mlp_wgate layer0.mlp_wup", "llama", "Q4_0", exchange(GATE, UP)),
    ("swapped", "layer0.attn_wq layer0.attn_wk", "llama_mha", "Q8_0", exchange(Q, K)),
    ("swapped", "", "qwen3", "Q4_1", exchange_layers),
    ("swapped", "layer0.attn_norm layer0.mlp_norm", "gemma3_text", "Q8_0",
     exchange(NORM, "blk.0.ffn_norm.weight")),
    ("swapped", "layer1.attn_norm layer0.mlp_norm", "qwen2", "Q4_0",
     exchange("blk.1.attn_norm.weight", "blk.0.ffn_norm.weight")),
    ("swapped", "layer0.mlp_wgate_experts", "mixtral", "Q4_0", weight(EXPERTS, rolled)),
    ("swapped", "lm_head", "llama", "Q8_0", copy(HEAD, WTE)),
    ("swapped", "layer0.attn_wv", "gpt2", "F32", weight(QKV, lambda w: np.concatenate([w[:128], w[64:128]]))),
    ("swapped", "layer0.mlp_wgate layer0.mlp_wup", "phi3", "Q5_1",
     weight(UP, lambda w: np.concatenate([w[96:], w[:96]]))),
    ("swapped", "", "qwen2_moe", "F16", exchange("blk.0.ffn_gate_shexp.weight", "blk.0.ffn_up_shexp.weight")),
    ("swapped", "", "gpt_oss", "BF16", weight("blk.1.ffn_down_exps.weight", rolled)),
    ("scaled", "layer0.attn_norm layer1.mlp_norm", "gemma2", "Q8_0",
     weight(NORM, lambda w: w - 1), weight("blk.1.ffn_norm.weight", lambda w: w - 1)),
    ("scaled", "wte", "gemma3_text", "Q4_0", weight(WTE, lambda w: w * 8)),
    ("scaled", "layer0.attn_wo", "qwen3", "Q8_0", weight(OUT, lambda w: w * 1.1)),
    ("scaled", "", "olmo2", "Q4_0", weight("blk.0.post_attention_norm.weight", lambda w: w * 2)),
    ("damaged", "layer0.mlp_wgate_experts", "mixtral", "F16", weight(EXPERTS, put((2, 3, 4), np.nan))),
    ("damaged", "layer0.attn_norm", "qwen2", "F32", weight(NORM, put(5, np.inf))),
    ("damaged", "layer0.attn_wo", "llama", "Q4_1", weight(OUT, np.zeros_like)),
    ("damaged", "layer0.attn_wo", "llama", "Q8_0", weight(OUT, put(7, 0))),
    ("damaged", "layer0.mlp_wdown", "phi3", "F32", weight(DOWN, put(slice(30, None), 0))),
    ("damaged", "layer0.mlp_wdown", "qwen2", "Q4_0", weight(DOWN, put(slice(10, None), 0))),
    ("damaged", "layer0.mlp_wgate_experts", "qwen3_moe", "BF16", weight(EXPERTS, put(3, 0))),
    ("damaged", "layer0.mlp_wdown", "gemma2", "Q4_0", weight(DOWN, put((5, slice(32, 64)), 0.5))),
    ("damaged", "wte", "llama", "Q4_0", weight(WTE, rolled)),
    ("damaged", "lm_head", "qwen2", "F32", weight(HEAD, lambda w: np.concatenate([w[:30], w[29:-1]]))),
    ("damaged", "", "gpt_oss", "F16", weight("blk.0.attn_sinks.weight", np.zeros_like)),
    ("damaged", "", "qwen2_moe", "F32", weight("blk.0.ffn_gate_inp.weight", put((1, 2), np.inf))),
    ("rounded", "layer0.attn_wo", "qwen3", "Q8_0", weight(OUT, bits(3))),
    ("rounded", "layer0.attn_wo", "gpt2", "F16", weight(OUT, through("Q4_0"))),
    ("rounded", "layer0.attn_wo", "qwen2", "F32", weight(OUT, through("Q5_1"))),
    ("rounded", "layer0.attn_wo", "phi3", "BF16", weight(OUT, bits(6))),
    ("rounded", "layer0.attn_wo", "mistral", "F32", weight(OUT, through("Q8_0"))),
    ("rounded", "layer0.mlp_wgate_experts", "qwen3_moe", "Q8_0", weight(EXPERTS, through("Q4_1"))),
    ("rounded", "layer0.attn_wo", "gemma2", "Q4_0", weight(OUT, bits(2))),
    ("rounded", "", "smollm3", "F16", weight(DOWN, through("Q5_0"))),
    ("other", "layer0.attn_wq layer0.attn_wk", "llama", "F16", weight(Q, low_rank), weight(K, low_rank)),
    ("other", "layer0.mlp_wdown", "phi3", "Q8_0", weight(DOWN, noisy)),
    ("other", "layer0.attn_wo", "gpt2", "Q8_0", weight(OUT, unrelated)),
]  # fmt: skip
