"""Attribution patching by TransformerLens (before 4.0), with the weights or the shapes of our Llama.

Knows nothing about measurements.
"""

from __future__ import annotations

from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from microgpt_trace.models.language_model import LanguageModel

# The names at which TransformerLens keeps gradients.
WATCHED = ("hook_q", "hook_k", "hook_v", "hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_post")


def in_shapes_of(config: Any) -> HookedTransformer:
    """Return a model with random weights that need no gradients."""
    return HookedTransformer(
        HookedTransformerConfig(
            n_layers=config.n_layer, d_model=config.n_embd, n_ctx=512, d_head=config.head_dim,
            n_heads=config.n_head, n_key_value_heads=config.n_kv_head, d_mlp=config.n_inner,
            d_vocab=config.vocab_size, act_fn="silu", gated_mlp=True, normalization_type="RMS",
            positional_embedding_type="rotary", rotary_dim=config.head_dim, rotary_base=config.rope.theta,
            eps=config.norm_eps, final_rms=True, device="cpu",
        )
    ).requires_grad_(False)  # fmt: skip


def copy_of(model: LanguageModel) -> HookedTransformer:
    """Return a model with the weights of a Llama without biases. Our matrices are [out, in]."""
    peer, heads = in_shapes_of(model.config), (-1, model.config.head_dim, model.config.n_embd)

    def weight(name: str) -> torch.Tensor:
        return torch.tensor(model.parameter(name))

    output = "lm_head" if "lm_head" in model.plan.parameters else "wte"
    own = {"embed.W_E": weight("wte"), "ln_final.w": weight("final_norm"), "unembed.W_U": weight(output).T}
    for i in range(model.config.n_layer):
        at, ours = f"blocks.{i}.", f"layer{i}."
        for name, matrix in (("W_Q", "wq"), ("_W_K", "wk"), ("_W_V", "wv")):
            own[f"{at}attn.{name}"] = weight(f"{ours}attn_{matrix}").reshape(heads).mT
        own[f"{at}attn.W_O"] = weight(f"{ours}attn_wo").T.reshape(heads)
        for name, matrix in (("W_gate", "wgate"), ("W_in", "wup"), ("W_out", "wdown")):
            own[f"{at}mlp.{name}"] = weight(f"{ours}mlp_{matrix}").T
        own |= {f"{at}ln1.w": weight(f"{ours}attn_norm"), f"{at}ln2.w": weight(f"{ours}mlp_norm")}
    for name, value in own.items():
        peer.get_parameter(name).copy_(value)
    return peer


def estimates(
    peer: HookedTransformer, clean: list[int], corrupt: list[int], target: int, against: int
) -> dict[str, torch.Tensor]:
    """Return (clean value - corrupted value) * gradient of the corrupted run for each element, by hook.

    The gradient is of the logit difference, logit(target) - logit(against), at the last position. The
    estimates are shares of the change of this difference between the runs.
    """
    watched, gradients = ("hook_embed", "hook_post", *WATCHED), dict[str, torch.Tensor]()

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, target] - logits[0, -1, against]

    def keep(gradient: torch.Tensor, hook: Any) -> None:
        gradients[hook.name] = gradient.clone()

    def at(name: str) -> bool:
        return name.endswith(watched)

    with torch.no_grad():
        logits, kept = peer.run_with_cache(torch.tensor([clean]), names_filter=at)
        high = metric(logits)
    peer.reset_hooks()
    values = peer.add_caching_hooks(at)
    peer.add_hook("hook_embed", lambda value, hook: value.requires_grad_())
    peer.add_hook(at, keep, "bwd")
    low = metric(peer(torch.tensor([corrupt])))
    low.backward()
    peer.reset_hooks()
    with torch.no_grad():
        return {name: (kept[name] - values[name]) * gradients[name] / (high - low) for name in gradients}


def by_our_names(own: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return estimates by the names of our sites: the embeddings, streams and MLPs at each position, heads as
    a whole and at each position, and neurons at each position."""
    found = dict[str, float]()
    for name, effects in own.items():
        rows = effects[0].double()  # [T, C], or [T, H, D] of heads
        layer = f"layer{name.split('.')[1]}" if name.startswith("blocks") else ""
        if name.endswith("hook_z"):
            sums = rows.sum(2)  # [T, H]
            for head in range(sums.shape[1]):
                found[f"{layer}.attn.head{head}"] = float(sums[:, head].sum())
                for t, value in enumerate(sums[:, head].tolist()):
                    found[f"{layer}.attn.head{head}@{t}"] = value
        elif name.endswith("hook_post"):
            for t, channels in enumerate(rows.tolist()):
                found |= {f"{layer}.mlp.hidden@{t}:{c}": value for c, value in enumerate(channels)}
        else:
            ends = {"mlp_out": f"{layer}.mlp.down", "resid_post": f"{layer}.mlp.residual"}
            ours = ends.get(name.rpartition("hook_")[2]) or ("embed.tok" if name == "hook_embed" else None)
            if ours:
                found |= {f"{ours}@{t}": value for t, value in enumerate(rows.sum(1).tolist())}
    return found
