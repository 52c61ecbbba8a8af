"""What other engines call our events, and which of their names cannot be compared. Knows no file.

# stands for the number of the layer. Several events of one name, whose values lie side by side, stand with a
+ or a space between them, candidates with a |. What a module reads is not written here: the plan tells it.
"""

from __future__ import annotations

# What stands before an engine's name for an event of a layer, before one of the whole model, and behind
# the former.
# llama.cpp: graph_get_cb (src/llama-context.cpp) names a tensor "NAME-LAYER", or "NAME". The names are from
# build_qkv, build_ffn and build_attn_mha in src/llama-graph.cpp and from src/models/{llama,gpt2,qwen3}.cpp.
# Vcur's last has the bias.
# TransformerLens: {transformer_block,abstract_attention,mlps/gated_mlp,unembed}.py in
# transformer_lens/components. Scores are masked. Where weights were folded (fold_value_biases, the default)
# v is without its bias.
# Reference: the arrays of test models, transformers' values under short keys.
SPELLINGS = {
    "transformers": ("model.layers.#.", "model.", ""),  # Llama, Mistral, Qwen2 and Qwen3
    "GPT-2": ("model.transformer.h.#.", "model.transformer.", ""),
    "llama.cpp": ("", "", "-#"),
    "TransformerLens": ("blocks.#.", "", ""),
    "reference": ("L#__", "", ""),
}
NAMES = """
event                 transformers             GPT-2       llama.cpp       TransformerLens       reference
embed.tok             embed_tokens             wte         embd            hook_embed            embed
embed.pos             -                        wpe         pos_embd        hook_pos_embed        -
embed.sum             -                        drop        inpL            -                     -
attn.norm             input_layernorm          ln_1        attn_norm       -                     attn_norm
attn.q                self_attn.q_proj         -           -               attn.hook_q           q_proj
attn.k                self_attn.k_proj         -           -               attn.hook_k           k_proj
attn.v                self_attn.v_proj         -           Vcur            attn.hook_v           v_proj
attn.q+attn.k+attn.v  -                        attn.c_attn -               -                     -
attn.q_norm           self_attn.q_norm         -           Qcur_normed     -                     -
attn.k_norm           self_attn.k_norm         -           Kcur_normed     -                     -
attn.q_rope           -                        -           -               attn.hook_rot_q       -
attn.k_rope           -                        -           -               attn.hook_rot_k       -
attn.scores           -                        -           -               attn.hook_attn_scores -
attn.weights          -                        -           kq_soft_max     attn.hook_pattern     -
attn.context          -                        -           kqv_merged_cont attn.hook_z           attn
attn.out              self_attn.o_proj         attn.c_proj attn_out        hook_attn_out         o_proj
attn.residual         -                        -           ffn_inp         hook_resid_mid        attn_residual
mlp.norm              post_attention_layernorm ln_2        ffn_norm        -                     ffn_norm
mlp.gate              mlp.gate_proj            -           ffn_gate_b      -                     gate_proj
mlp.up                mlp.up_proj              mlp.c_fc    ffn_up_b        mlp.hook_pre_linear   up_proj
mlp.act               mlp.act_fn               mlp.act     ffn_silu        -                     -
mlp.hidden            -                        -           ffn_swiglu      -                     silu_mul
mlp.down              mlp.down_proj            mlp.c_proj  ffn_out         hook_mlp_out          ffn_down
mlp.residual          -                        -           l_out           hook_resid_post       out
final.norm            norm                     ln_f        result_norm     -                     -
logits                lm_head                  -           result_output   unembed.hook_out      -
"""

# The residual stream before a layer, and what it is before the first.
ENTERS_LAYER, ENTERS_SUMMED = "what enters layer #", "what enters layer #, positions added"
ENTERS = {ENTERS_LAYER: "embed.tok", ENTERS_SUMMED: "embed.sum"}
ENTRANCES = ("embed.norm", "embed.sum", "embed.tok")  # of these the first that a model has enters its layers

_QKV = "layer#.attn.q layer#.attn.k layer#.attn.v"
MORE_NAMES = {
    "model.layers.#": "layer#.mlp.residual",
    "model.layers.#.self_attn.qkv_proj": _QKV,  # Phi-3's
    "model.layers.#.mlp.gate_up_proj": "layer#.mlp.gate layer#.mlp.up",
    "model.transformer.h.#": "layer#.mlp.residual",
    "ffn_gelu-#": "layer#.mlp.act",
    "blocks.#.mlp.hook_pre": "layer#.mlp.gate | layer#.mlp.up",
    "blocks.#.mlp.hook_post": "layer#.mlp.hidden | layer#.mlp.act",
}

# llama.cpp's names of rows that are in GGUF's order in Llama files. Qcur and Kcur name the product, that
# with the bias, the same by heads and what RoPE makes of it: a dump that writes a file for each name keeps
# the last, after RoPE. The one that RoPE reads was called "Qcur-0 (reshaped)" until 2025 (ggml_reshape_3d).
ADJACENT_NAMES = {
    "Qcur-#": "layer#.attn.q_rope | layer#.attn.q",
    "Kcur-#": "layer#.attn.k_rope | layer#.attn.k",
    "Qcur-# (reshaped)": "layer#.attn.q",
    "Kcur-# (reshaped)": "layer#.attn.k",
}

# What other names the same tensor has.
SECOND_NAMES = {
    "hidden_states.0": "embed.tok",
    "model.layers.#.input": ENTERS_LAYER,
    "model.layers.#.self_attn.input": "layer#.attn.norm",
    "model.layers.#.self_attn": "layer#.attn.out",
    "model.layers.#.mlp.input": "layer#.mlp.norm",
    "model.layers.#.mlp": "layer#.mlp.down",
    "model.transformer.drop.input": "embed.sum",
    "model.transformer.h.#.input": ENTERS_SUMMED,
    "model.transformer.h.#.attn.input": "layer#.attn.norm",
    "model.transformer.h.#.attn": "layer#.attn.out",
    "model.transformer.h.#.attn.resid_dropout": "layer#.attn.out",
    "model.transformer.h.#.attn.resid_dropout.input": "layer#.attn.out",
    "model.transformer.h.#.mlp.input": "layer#.mlp.norm",
    "model.transformer.h.#.mlp": "layer#.mlp.down",
    "model.transformer.h.#.mlp.dropout": "layer#.mlp.down",
    "model.transformer.h.#.mlp.dropout.input": "layer#.mlp.down",
    "inp_embd": "embed.tok",  # now the input of batches that come as embeddings
    "wqkv_b-#": _QKV,
    "bqkv-#": _QKV,  # its older name
    "Vcur-# (reshaped)": "layer#.attn.v",
    "kq_soft_max_ext-#": "layer#.attn.weights",  # until 2025
    "ffn_gate-#": "layer#.mlp.gate",
    "ffn_up-#": "layer#.mlp.up",
    "ffn_gate_par-#": "layer#.mlp.hidden",  # where SiLU and the product are two steps
    "blocks.#.hook_resid_pre": ENTERS_LAYER,
}

# What transformers' attention shows that is no module's output: what its function for RoPE gives of q and k,
# and what eager attention returns beside its output.
TURNED = ("layer#.attn.q_rope", "layer#.attn.k_rope")
RETURNED_SECOND = "layer#.attn.weights"

_NO_GAIN = "norm before its gain, which our events include"
_HIDDEN_STATES = "the last of transformers' hidden_states is the final norm's output and no name tells: --map"
_LAST_OUTPUT = "the last layer's output, whose number no name tells: --map"
REFUSED = {
    "hidden_states": _HIDDEN_STATES,
    "hidden_states.#": _HIDDEN_STATES,
    "norm": f"Hugging Face's final norm, or llama.cpp's {_NO_GAIN}: --map says which",
    **dict.fromkeys(("model.norm.input", "model.ln_f.input", "model.transformer.ln_f.input"), _LAST_OUTPUT),
    "norm-#": f"a {_NO_GAIN}",  # build_norm (src/llama-graph.cpp)
    **dict.fromkeys(("norm_w", "norm_w-#"), "LayerNorm before its bias, which our events include"),
    "wqkv-#": "q, k and v before their biases, which our events include",  # build_qkv
    "kq-#": "q @ k.T before 1/sqrt(d), which our scores include",  # build_attn_mha: soft_max_ext scales
    # Until 2025 llm_build_kqv's caller gave that name to the product with wo; since src/llama-graph.cpp
    # is there, build_attn gives it to what enters that product. Both are [T, C].
    "kqv_out-#": "o_proj's output in llama.cpp before April 2025, its input since: --map says which",
    "ffn_down-#": "the MLP's output before the bias, which our events include",  # build_ffn
    # TransformerLens: components/rms_norm.py
    **{
        f"{norm}.hook_{hook}": reason
        for norm in ("ln_final", *(f"blocks.#.{n}" for n in ("ln1", "ln2", "attn.q_norm", "attn.k_norm")))
        for hook, reason in {"normalized": f"a {_NO_GAIN}", "scale": "the denominator of a norm"}.items()
    },
    "unembed.hook_in": f"a {_NO_GAIN}, where TransformerLens has folded it into the weights, as by default",
    "blocks.#.attn.hook_result": "every head's share in one array: --map with a slice for each head",
}
