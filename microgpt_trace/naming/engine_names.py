"""The names of our events in other engines, and the names of tensors that cannot be compared.

In a name, # stands for the layer number. The events of a fused tensor are separated by spaces, and candidates
by |. torch_modules.py has the names in transformers.
"""

from __future__ import annotations

from .torch_modules import LAYER_INPUT

# For each engine: the prefix of names in a layer, the prefix of other names, the suffix of names in a layer.
# llama.cpp: graph_get_cb (src/llama-context.cpp) names a tensor "NAME-LAYER", or "NAME". The names are from
# build_qkv, build_ffn and build_attn_mha in src/llama-graph.cpp and from src/models/{llama,gpt2,qwen3}.cpp.
# Several tensors are called Vcur, and the last Vcur includes the bias.
# TransformerLens: the names are from {transformer_block,abstract_attention,mlps/gated_mlp,unembed}.py in
# transformer_lens/components. Scores are masked. By default (fold_value_biases), v does not include its bias.
# reference: the arrays of test models. Their values are from transformers, under short keys.
SPELLINGS = {
    "llama.cpp": ("", "", "-#"),
    "TransformerLens": ("blocks.#.", "", ""),
    "reference": ("L#__", "", ""),
}
NAMES = """
event                 llama.cpp       TransformerLens       reference
embed.tok             embd            hook_embed            embed
embed.pos             pos_embd        hook_pos_embed        -
embed.sum             inpL            -                     -
embed.scaled          inp_scaled      -                     -
attn.norm             attn_norm       -                     attn_norm
attn.q                -               attn.hook_q           q_proj
attn.k                -               attn.hook_k           k_proj
attn.v                Vcur            attn.hook_v           v_proj
attn.q_norm           Qcur_normed     -                     -
attn.k_norm           Kcur_normed     -                     -
attn.q_rope           -               attn.hook_rot_q       -
attn.k_rope           -               attn.hook_rot_k       -
attn.scores           -               attn.hook_attn_scores -
attn.weights          kq_soft_max     attn.hook_pattern     -
attn.context          kqv_merged_cont attn.hook_z           attn
attn.out              attn_out        hook_attn_out         o_proj
attn.post_norm        attn_post_norm  -                     -
attn.residual         ffn_inp         hook_resid_mid        attn_residual
mlp.norm              ffn_norm        -                     ffn_norm
mlp.router            ffn_moe_logits  -                     -
mlp.chosen            ffn_moe_topk    -                     -
mlp.routing           ffn_moe_weights_norm -                -
mlp.gate              ffn_gate_b      -                     gate_proj
mlp.up                ffn_up_b        mlp.hook_pre_linear   up_proj
mlp.act               ffn_silu        -                     -
mlp.hidden            ffn_swiglu      -                     silu_mul
mlp.down              ffn_out         hook_mlp_out          ffn_down
mlp.mixture           ffn_moe_out     -                     -
mlp.post_norm         ffn_post_norm   -                     -
mlp.residual          l_out           hook_resid_post       out
final.norm            result_norm     -                     -
logits                result_output   unembed.hook_out      -
"""

# Layer 0 reads the first of these events that a model has.
ENTRANCES = ("embed.norm", "embed.scaled", "embed.sum", "embed.tok")

_QKV = "layer#.attn.q layer#.attn.k layer#.attn.v"
MORE_NAMES = {
    "model.layers.#.self_attn.qkv_proj": _QKV,  # Phi-3
    "model.layers.#.mlp.gate_up_proj": "layer#.mlp.gate layer#.mlp.up",
    "model.layers.#.self_attn.attn": "layer#.attn.context",  # vLLM and SGLang
    "sa_out-#": "layer#.attn.residual",  # Gemma
    "ffn_gelu-#": "layer#.mlp.act",
    "ffn_moe_gate_biased-#": "layer#.mlp.gate",
    "ffn_moe_up_biased-#": "layer#.mlp.up",
    "ffn_moe_swiglu-#": "layer#.mlp.hidden",
    "ffn_moe_swiglu_oai-#": "layer#.mlp.hidden",
    "ffn_moe_down_biased-#": "layer#.mlp.down",
    "blocks.#.mlp.hook_pre": "layer#.mlp.gate | layer#.mlp.up",
    "blocks.#.mlp.hook_post": "layer#.mlp.hidden | layer#.mlp.act",
}

# llama.cpp's tensors with GGUF's order of rows in Llama files. llama.cpp gives the name Qcur or Kcur
# to four tensors in turn: the product, the product plus bias, the sum split into heads, the result of RoPE.
# A dump with one file per name keeps the last of the four tensors. Until 2025 llama.cpp gave the input of
# RoPE the name "Qcur-0 (reshaped)" (ggml_reshape_3d).
ADJACENT_NAMES = {
    "Qcur-#": "layer#.attn.q_rope | layer#.attn.q",
    "Kcur-#": "layer#.attn.k_rope | layer#.attn.k",
    "Qcur-# (reshaped)": "layer#.attn.q",
    "Kcur-# (reshaped)": "layer#.attn.k",
}

# Second names of events. A second name counts only in a dump that lacks the first name of the event.
SECOND_NAMES = {
    "hidden_states.0": "embed.tok",
    "inp_embd": "embed.tok",  # in newer versions only for batches of embeddings
    "wqkv_b-#": _QKV,
    "bqkv-#": _QKV,  # the older name of wqkv_b
    "Vcur-# (reshaped)": "layer#.attn.v",
    "kq_soft_max_ext-#": "layer#.attn.weights",  # llama.cpp used this name until 2025
    "ffn_gate-#": "layer#.mlp.gate",
    "ffn_up-#": "layer#.mlp.up",
    "ffn_moe_weights-#": "layer#.mlp.routing",  # before the shares are normalised, if they are
    "ffn_moe_gate-#": "layer#.mlp.gate",
    "ffn_moe_up-#": "layer#.mlp.up",
    "ffn_moe_down-#": "layer#.mlp.down",
    "ffn_gate_par-#": "layer#.mlp.hidden",  # used if SiLU and the product are separate steps
    "blocks.#.hook_resid_pre": LAYER_INPUT,
}

# TransformerBridge of TransformerLens (model_bridge), which also has the older names of these hooks.
_BRIDGE = {
    "hook_out": "mlp.residual", "ln2.hook_in": "attn.residual", "attn.q.hook_out": "attn.q",
    "attn.k.hook_out": "attn.k", "attn.v.hook_out": "attn.v", "attn.o.hook_out": "attn.out",
    "attn.hook_out": "attn.out", "mlp.gate.hook_out": "mlp.gate", "mlp.in.hook_out": "mlp.up",
    "mlp.out.hook_in": "mlp.hidden", "mlp.out.hook_out": "mlp.down", "mlp.hook_out": "mlp.down",
}  # fmt: skip
SECOND_NAMES |= {f"blocks.#.{hook}": f"layer#.{event}" for hook, event in _BRIDGE.items()}
SECOND_NAMES |= {"blocks.#.hook_in": LAYER_INPUT, "embed.hook_out": "embed.tok"}

# Names of files. The dumper of SGLang (debug_utils/dumper.py) writes one value per file, and so does msprobe.
DUMPER_FILE = (
    r"(?:.*/)?step=[0-9]+___rank=[0-9]+___dump_index=[0-9]+___name=(?:non_intrusive__)?(.*?)(?:___.*)?"
)
DUMPER_LAYER = r"___layer_id=([0-9]{1,4})(?:___|$)"
MSPROBE_FILE = (
    r"(?:.*/)?Module\.(.+)\.\w+\.(forward\.0\.output\.0|(?:forward|backward)\.[0-9]+\.(?:in|out)put\.[0-9]+)"
)
NOT_FIRST = "msprobe's input, gradient, second output or later call of a module; events are first outputs"

# Layers of vLLM and SGLang return (hidden, residual), whose sum is the residual stream, and fuse q, k and v.
FUSED = r"(?:.*\.)?layers\.[0-9]+\.(self_attn\.qkv_proj|mlp\.gate_up_proj)(?:\..*)?"
PAIRED = r"(?:.*\.)?layers\.[0-9]+(?:\.output)?(?:\.[01])?"
WITHOUT_RESIDUAL = "layers of vLLM and SGLang return (hidden, residual), and only the sum is an event"

# Values in transformers' attention that are not the first output of a module: q and k after the function for
# RoPE, and the attention weights, which are the second output of eager attention.
TURNED = ("layer#.attn.q_rope", "layer#.attn.k_rope")
RETURNED_SECOND = "layer#.attn.weights"
# A router returns its logits, and then the shares and the numbers of the chosen experts.
ROUTER, ROUTED = "layer#.mlp.router", ("layer#.mlp.routing", "layer#.mlp.chosen")

_NO_GAIN = "norm without its gain, which our events include"
_HIDDEN_STATES = "hidden_states may be the output of a layer or of the final norm; use --map"
UNCLEAR = "scaled in some versions of transformers and not in others; use --map"
UNNUMBERED = "the output of the last layer, but the name lacks the layer number; use --map"
REFUSED = {
    "hidden_states": _HIDDEN_STATES,
    "hidden_states.#": _HIDDEN_STATES,
    "norm": f"Hugging Face's final norm, or llama.cpp's {_NO_GAIN}; choose one with --map",
    "norm-#": f"a {_NO_GAIN}",  # build_norm (src/llama-graph.cpp)
    **dict.fromkeys(("norm_w", "norm_w-#"), "LayerNorm without its bias, which our events include"),
    "wqkv-#": "q, k and v without their biases, which our events include",  # build_qkv
    "kq-#": "q @ k.T without 1/sqrt(d), which our scores include",  # build_attn_mha: soft_max_ext scales
    # Until 2025 the caller of llm_build_kqv gave this name to the product with wo. Since src/llama-graph.cpp
    # exists, build_attn gives this name to the input of the product with wo. Both tensors are [T, C].
    "kqv_out-#": "output of o_proj before April 2025, input of o_proj since then; choose one with --map",
    "ffn_down-#": "the MLP's output without the bias, which our events include",  # build_ffn
    # TransformerLens: components/rms_norm.py
    **{
        f"{norm}.hook_{hook}": reason
        for norm in ("ln_final", *(f"blocks.#.{n}" for n in ("ln1", "ln2", "attn.q_norm", "attn.k_norm")))
        for hook, reason in {"normalized": f"a {_NO_GAIN}", "scale": "the denominator of a norm"}.items()
    },
    # SGLang writes a file before the model returns (tensor_dump_forward_hook.py).
    **dict.fromkeys(("model", "logits_processor"), "in files of SGLang, a value of the pass before"),
    "unembed.hook_in": f"a {_NO_GAIN} if TransformerLens folded it into the weights, as it does by default",
    "blocks.#.attn.hook_result": "all heads' outputs in one array; use --map with a slice for each head",
}
