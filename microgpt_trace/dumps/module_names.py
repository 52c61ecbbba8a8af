"""The module paths of transformers' decoders, and which events of ours their outputs and inputs are.

Paths are those below "model" (GPT-2: "transformer"), with # for the number of the layer; several events of
one name stand with a space between them. The tables called SECOND have what other names the same tensor has.
"""

from __future__ import annotations

# The residual stream before a layer, and what it is before the first.
ENTERS_LAYER, ENTERS_SUMMED = "what enters layer #", "what enters layer #, positions added"
ENTERS = {ENTERS_LAYER: "embed.tok", ENTERS_SUMMED: "embed.sum"}
ENTRANCES = ("embed.norm", "embed.sum", "embed.tok")  # of these the first that a model has enters its layers

# Module paths of transformers' Llama, Mistral, Qwen2 and Qwen3, and Phi-3's fused products. What a
# module's output is called, and then what other names the same tensor has.
HUGGING_FACE = {
    "embed_tokens": "embed.tok",
    "layers.#.input_layernorm": "layer#.attn.norm",
    "layers.#.self_attn.q_proj": "layer#.attn.q",
    "layers.#.self_attn.k_proj": "layer#.attn.k",
    "layers.#.self_attn.v_proj": "layer#.attn.v",
    "layers.#.self_attn.qkv_proj": "layer#.attn.q layer#.attn.k layer#.attn.v",
    "layers.#.self_attn.q_norm": "layer#.attn.q_norm",
    "layers.#.self_attn.k_norm": "layer#.attn.k_norm",
    "layers.#.self_attn.o_proj.input": "layer#.attn.context",
    "layers.#.self_attn.o_proj": "layer#.attn.out",
    "layers.#.post_attention_layernorm.input": "layer#.attn.residual",
    "layers.#.post_attention_layernorm": "layer#.mlp.norm",
    "layers.#.mlp.gate_proj": "layer#.mlp.gate",
    "layers.#.mlp.up_proj": "layer#.mlp.up",
    "layers.#.mlp.gate_up_proj": "layer#.mlp.gate layer#.mlp.up",
    "layers.#.mlp.act_fn": "layer#.mlp.act",
    "layers.#.mlp.down_proj.input": "layer#.mlp.hidden",
    "layers.#.mlp.down_proj": "layer#.mlp.down",
    "layers.#": "layer#.mlp.residual",
    "lm_head": "logits",
}
HUGGING_FACE_SECOND = {
    "layers.#.input": ENTERS_LAYER,
    "layers.#.input_layernorm.input": ENTERS_LAYER,
    "layers.#.self_attn.input": "layer#.attn.norm",
    "layers.#.self_attn.q_proj.input": "layer#.attn.norm",
    "layers.#.self_attn.k_proj.input": "layer#.attn.norm",
    "layers.#.self_attn.v_proj.input": "layer#.attn.norm",
    "layers.#.self_attn": "layer#.attn.out",
    "layers.#.mlp.input": "layer#.mlp.norm",
    "layers.#.mlp.gate_proj.input": "layer#.mlp.norm",
    "layers.#.mlp.up_proj.input": "layer#.mlp.norm",
    "layers.#.mlp.act_fn.input": "layer#.mlp.gate",
    "layers.#.mlp": "layer#.mlp.down",
    "lm_head.input": "final.norm",
}

# Of GPT2LMHeadModel.
GPT2 = {
    "wte": "embed.tok",
    "wpe": "embed.pos",
    "drop": "embed.sum",
    "h.#.ln_1": "layer#.attn.norm",
    "h.#.attn.c_attn": "layer#.attn.q layer#.attn.k layer#.attn.v",
    "h.#.attn.c_proj.input": "layer#.attn.context",
    "h.#.attn.c_proj": "layer#.attn.out",
    "h.#.ln_2.input": "layer#.attn.residual",
    "h.#.ln_2": "layer#.mlp.norm",
    "h.#.mlp.c_fc": "layer#.mlp.up",
    "h.#.mlp.act": "layer#.mlp.act",
    "h.#.mlp.c_proj": "layer#.mlp.down",
    "h.#": "layer#.mlp.residual",
    "ln_f": "final.norm",
}
GPT2_SECOND = {
    "drop.input": "embed.sum",
    "h.#.input": ENTERS_SUMMED,
    "h.#.ln_1.input": ENTERS_SUMMED,
    "h.#.attn.input": "layer#.attn.norm",
    "h.#.attn.c_attn.input": "layer#.attn.norm",
    "h.#.attn": "layer#.attn.out",
    "h.#.attn.resid_dropout": "layer#.attn.out",
    "h.#.attn.resid_dropout.input": "layer#.attn.out",
    "h.#.mlp.input": "layer#.mlp.norm",
    "h.#.mlp.c_fc.input": "layer#.mlp.norm",
    "h.#.mlp.act.input": "layer#.mlp.up",
    "h.#.mlp.c_proj.input": "layer#.mlp.act",
    "h.#.mlp": "layer#.mlp.down",
    "h.#.mlp.dropout": "layer#.mlp.down",
    "h.#.mlp.dropout.input": "layer#.mlp.down",
}
