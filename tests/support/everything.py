"""An architecture that no model has: everything that plans can state, in three layers that differ.

Layer 0 has norms before and after each branch, a window, and RoPE of half of each head. Layer 1 has parallel
branches, LayerNorm with another eps, another base, and more rotated channels, in pairs of neighbours.
Layer 2 has ALiBi and a scale of q by position instead of RoPE, and chunks instead of a window. It reads the
values of layer 0, and adds some channels of the embedding.
"""

import sys
from functools import cached_property

import numpy as np
from support.tiny_models import write_folder
from support.tiny_tokenizer import write_tokenizer

from microgpt_trace.decoder import catalogue
from microgpt_trace.decoder.architecture import Architecture, FileNames
from microgpt_trace.decoder.config import DecoderConfig
from microgpt_trace.plans.blocks import Blocks
from microgpt_trace.plans.kinds import Activation, Add, Channels, Lookup, Multiply
from microgpt_trace.plans.rope import Rope

TURNS = ((1e4, 4), (1e2, 6), None)  # the base and the rotated channels of each layer
WINDOWS = (3, None, -4)
SLOPES, BY_POSITION = (0.7, 0.3, 0.1, -0.2), (0.5, 3, 1)  # of layer 2
CAP, SCALE, EMBEDDING, BRANCH, LOGITS, LOGIT_CAP = 5.0, 0.3, 5.5, 0.7, 0.4, 4.0
EPS, OTHER_EPS = 1e-5, 1e-2


def plan_of(config, without=(), turns=TURNS):
    """Return the rows. An engine of the tests may leave out rows (`without`), or turn otherwise."""
    rows, of = Blocks(config), lambda name, number: None if name in without else number
    tokens = Lookup("wte", "tokens", config.vocab_size, config.n_embd)
    stream = rows.add("embed.tok", tokens, expr="x = wte[tokens]", parameter="wte", overview=True)
    stream = rows.scaled("embed.scaled", stream, of("embed.scaled", EMBEDDING))
    for i in rows.layers():
        parallel = i == 1
        pre = {"centred": parallel, "biased": parallel, "eps": OTHER_EPS if parallel else None}
        normed = rows.norm("attn.norm", stream, "pre-attn", **pre)
        q, k, v = rows.queries_keys_values(normed)
        if i == 2 and "sharing" not in without:
            rows.rows.pop()  # of its own values
            v = "layer0.attn.v"
        own = {"head_dim": config.head_dim, "centred": True, "by_head": True} if parallel else {}
        q, k = rows.norms_of_queries_and_keys(q, k, **own)
        if turns[i]:
            rope = Rope(turns[i][0])
            q, k = rows.rotations(q, k, rope, turns[i][1], adjacent=parallel)
        if i == 2 and "attn.q_scaled" not in without:
            q = rows.scaled_by_position(q, *BY_POSITION)
        cap = of("attn.capped", CAP)
        slopes = SLOPES if i == 2 and "attn.biased" not in without else ()
        branch = rows.attention(q, k, v, SCALE, WINDOWS[i], cap, slopes=slopes)
        if not parallel:
            if "attn.post_norm" not in without:
                branch = rows.norm("attn.post_norm", branch, of="attn_out")
            branch = rows.scaled("attn.scaled", branch, of("attn.scaled", BRANCH), "attn_out")
            stream = rows.add("attn.residual", Add(), stream, branch, expr="x = x_res + attn_out [residual]")
        normed = rows.norm("mlp.norm", stream, "pre-FFN", **pre)
        down = _mlp(rows, config, normed)
        if not parallel and "mlp.post_norm" not in without:
            down = rows.norm("mlp.post_norm", down, of="mlp_out")
        if parallel:
            down = rows.scaled("mlp.scaled", down, of("mlp.scaled", BRANCH), "mlp_out")
            down = rows.add("mlp.both", Add(), branch, down, expr="both = attn_out + mlp_out")
        stream = rows.add("mlp.residual", Add(), stream, down, expr="x = x_res + both [residual]")
        if i == 2 and "embed.scaled" not in without:
            part = rows.add("mlp.part", Channels(4, 8), "embed.scaled", expr="part = x[:, 4:12]")
            part = rows.product("mlp.extra", "wextra", part, config.n_embd, "extra = part")
            stream = rows.add("mlp.last", Add(), stream, part, expr="x = x_res + extra [residual]")
    final = rows.norm("final.norm", stream, "final")
    return rows.predictions(final, factor=LOGITS, cap=LOGIT_CAP, biased=True)


def _mlp(rows, config, normed):
    inner = config.n_inner
    gate = rows.product("mlp.gate", "wgate", normed, inner, "gate = x_n", "gate_proj")
    up = rows.product("mlp.up", "wup", normed, inner, "up = x_n", "up_proj")
    rows.add("mlp.act", Activation("GELU by tanh"), gate, expr="act = GELU by tanh(gate)")
    hidden = rows.add("mlp.hidden", Multiply(), "mlp.act", up, expr="hidden = act * up")
    return rows.product("mlp.down", "wdown", hidden, config.n_embd, "mlp_out = hidden", "ffn_down")


class EverythingConfig(DecoderConfig):
    plan = cached_property(plan_of)


NORMS = ("attn_norm", "attn_q_norm", "attn_k_norm", "attn_post_norm", "mlp_norm", "mlp_post_norm")
PRODUCTS = ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_wgate", "mlp_wup", "mlp_wdown", "mlp_wextra")
NAMES = FileNames(
    "a decoder with everything",
    {name: (name, name) for name in ("wte", "final_norm", "lm_head")},
    {name: (name, f"part.{name}") for name in (*NORMS, *PRODUCTS)},
    blocks="layers",
    vectors=True,
)
ARCHITECTURES = {
    "everything": Architecture(
        EverythingConfig,
        NAMES,
        lambda settings, sizes: {"rope": Rope(1e4), "activation": "GELU by tanh"},
        {"self_attn": "attn.out", "mlp": "mlp.down"},
        example={"n_layer": 3, "head_dim": 8, "n_embd": 8, "rope": Rope(1e4)},
    )
}
OWN = EverythingConfig("everything", 3, 32, 4, 2, 8, 48, 61, 64, EPS, Rope(1e4), tied=False)
CONFIG = {
    "model_type": "everything", "architectures": ["Everything"], "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48,
    "vocab_size": 61, "max_position_embeddings": 64, "rms_norm_eps": EPS, "tie_word_embeddings": False,
    "hidden_act": "gelu_new", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def register(patch):
    """Add the architecture to the catalogue, as long as `patch` (a MonkeyPatch) lasts."""
    patch.setitem(sys.modules, f"{catalogue.__package__}.architectures.everything", sys.modules[__name__])
    patch.setitem(catalogue.ARCHITECTURES, "everything", "everything")
    forget()


def forget():
    """Forget what was derived from the architectures of the catalogue."""
    for function in vars(catalogue).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def random_weights(seed=0):
    """Return weights by the names in a file of Hugging Face. Gains are near 1, biases near 0."""
    rng, weights = np.random.default_rng(seed), {}
    for name, shape in OWN.plan.parameters.items():
        layer, _, own = name.rpartition(".")
        size = 0.3 if len(shape) == 1 else 1 / np.sqrt(shape[1])
        gain = len(shape) == 1 and "_b" not in own
        theirs = (f"layers.{layer.removeprefix('layer')}.part.{own}" if layer else own).replace("_b", "_")
        end = "bias" if "_b" in own else "weight"
        weights[f"{theirs}.{end}"] = (gain + size * rng.standard_normal(shape)).astype(np.float32)
    return weights


def write_everything(folder, weights=None, **changes):
    """Write a folder with config.json, safetensors and a tokenizer, and return it."""
    write_folder(folder, CONFIG | changes, weights or random_weights())
    write_tokenizer(folder)
    return folder
