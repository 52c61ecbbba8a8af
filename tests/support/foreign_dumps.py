"""Dumps with the names and shapes of other engines, as folders of .npy files."""

import numpy as np

HUGGINGFACE = {
    "embed.tok": "model.embed_tokens", "attn.norm": "input_layernorm", "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj", "attn.v": "self_attn.v_proj", "attn.q_norm": "self_attn.q_norm",
    "attn.k_norm": "self_attn.k_norm", "attn.context": "self_attn.o_proj.input",
    "attn.out": "self_attn.o_proj", "attn.residual": "post_attention_layernorm.input",
    "mlp.norm": "post_attention_layernorm", "mlp.gate": "mlp.gate_proj", "mlp.up": "mlp.up_proj",
    "mlp.act": "mlp.act_fn", "mlp.hidden": "mlp.down_proj.input", "mlp.down": "mlp.down_proj",
    "mlp.residual": "", "final.norm": "model.norm", "logits": "lm_head",
}  # fmt: skip
_LLAMA_CPP = {
    "embed.tok": "inp_embd", "attn.norm": "attn_norm", "attn.v": "Vcur", "attn.q_norm": "Qcur_normed",
    "attn.k_norm": "Kcur_normed", "attn.q_rope": "Qcur", "attn.k_rope": "Kcur",
    "attn.weights": "kq_soft_max", "attn.context": "kqv_out", "attn.out": "attn_out",
    "attn.residual": "ffn_inp", "mlp.norm": "ffn_norm", "mlp.gate": "ffn_gate", "mlp.up": "ffn_up",
    "mlp.hidden": "ffn_swiglu", "mlp.down": "ffn_out", "mlp.residual": "l_out",
    "final.norm": "result_norm", "logits": "result_output",
}  # fmt: skip
_TRANSFORMERLENS = {
    "embed.tok": "hook_embed", "attn.q": "attn.hook_q", "attn.k": "attn.hook_k", "attn.v": "attn.hook_v",
    "attn.q_rope": "attn.hook_rot_q", "attn.k_rope": "attn.hook_rot_k",
    "attn.scores": "attn.hook_attn_scores", "attn.weights": "attn.hook_pattern",
    "attn.context": "attn.hook_z", "attn.out": "hook_attn_out", "attn.residual": "hook_resid_mid",
    "mlp.gate": "mlp.hook_pre", "mlp.up": "mlp.hook_pre_linear", "mlp.hidden": "mlp.hook_post",
    "mlp.down": "hook_mlp_out", "mlp.residual": "hook_resid_post",
}  # fmt: skip
_BY_HEAD = {
    "huggingface": ("attn.q_norm", "attn.k_norm"),
    "llama.cpp": ("attn.v", "attn.q_norm", "attn.k_norm", "attn.q_rope", "attn.k_rope"),
    "transformerlens": ("attn.q", "attn.k", "attn.v", "attn.q_rope", "attn.k_rope", "attn.context"),
}
_NAMES = {"huggingface": HUGGINGFACE, "llama.cpp": _LLAMA_CPP, "transformerlens": _TRANSFORMERLENS}
STYLES = ("ours", "numbers", *_NAMES)


def write_dump(folder, events, style, *, adjacent=False) -> dict[str, str]:
    """Write events in the style of an engine, and return the file of each event that the engine has.

    The style "numbers" writes t000.npy, t001.npy ... in order of computation. With `adjacent`, q and k in
    style llama.cpp have GGUF's order of channels, as in its llama architecture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for number, (event, value) in enumerate(events.items()):
        layer, _, rest = event.removeprefix("layer").partition(".")
        layer, name = (layer, rest) if layer.isdigit() else ("", event)
        if style in _NAMES:
            if name not in _NAMES[style]:
                continue
            file, value = _file(style, layer, name), _as_written(value, name, style, events, adjacent)
        else:
            file = event if style == "ours" else f"t{number:03}"
        np.save(folder / f"{file}.npy", value)
        files[event] = f"{file}.npy"
    return files


def _file(style, layer, name):
    theirs = _NAMES[style][name]
    if not layer:
        return theirs
    if style == "llama.cpp":
        return f"{theirs}-{layer}"
    return f"{'model.layers' if style == 'huggingface' else 'blocks'}.{layer}.{theirs}".rstrip(".")


def _as_written(value, name, style, events, adjacent):
    if name in _BY_HEAD[style]:
        heads = len(events["layer0.attn.scores"])
        dim = events["layer0.attn.q"].shape[1] // heads
        value = value.reshape(len(value), -1, dim)  # [T, H, D]
        if adjacent and style == "llama.cpp" and name != "attn.v":
            value = np.stack(np.split(value, 2, -1), -1).reshape(value.shape)
    if style == "transformerlens" and name == "attn.scores":  # its hook comes after the mask
        value = np.where(np.tri(value.shape[1], dtype=bool), value, np.float32(-np.inf))
    return value if style == "llama.cpp" else value[None]
