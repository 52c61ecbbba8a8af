"""Survey statistics by PyTorch hooks on the modules of transformers' Llama, in float32.

The texts and batches are those of our survey, and the statistics nearly the same. Per channel: sum and sum of
squares in float64, least, largest, and number of zeros. Per head: shares of attention and entropy. Per layer:
growth and cosine. Per target: loss and rank. Our survey also measures q and k after RoPE, scores and products
of gates, which module hooks cannot see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

NAMES = {
    "attn_norm": "input_layernorm", "attn_wq": "self_attn.q_proj", "attn_wk": "self_attn.k_proj",
    "attn_wv": "self_attn.v_proj", "attn_wo": "self_attn.o_proj", "mlp_norm": "post_attention_layernorm",
    "mlp_wgate": "mlp.gate_proj", "mlp_wup": "mlp.up_proj", "mlp_wdown": "mlp.down_proj",
}  # fmt: skip
HOOKED = (*NAMES.values(), "mlp.act_fn")


def transformers_model(ours: Any) -> LlamaForCausalLM:
    """Return the transformers model with the same weights, in float32."""
    config = ours.config
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.n_embd, intermediate_size=config.n_inner,
            num_hidden_layers=config.n_layer, num_attention_heads=config.n_head,
            num_key_value_heads=config.n_kv_head, rms_norm_eps=config.norm_eps, tie_word_embeddings=True,
            rope_theta=config.rope.theta, max_position_embeddings=config.context_length,
            attn_implementation="eager",
        )
    )  # fmt: skip
    theirs = {"wte": "model.embed_tokens.weight", "final_norm": "model.norm.weight"}
    for name in ours.config.shapes():
        layer, _, part = name.rpartition(".")
        if layer:
            theirs[name] = f"model.layers.{layer.removeprefix('layer')}.{NAMES[part]}.weight"
    weights = {theirs[name]: torch.from_numpy(ours.parameter(name).copy()) for name in theirs}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing
    assert not unexpected, unexpected
    return model.eval()


class HookedStatistics:
    """Statistics of every hooked module, of attention and of predictions."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model, self.totals = model, dict[str, list[torch.Tensor]]()
        for layer, block in enumerate(model.model.layers):
            for name in HOOKED:
                block.get_submodule(name).register_forward_hook(self._hook(f"{layer}.{name}"))

    def _hook(self, name: str) -> Any:
        def take(module: Any, inputs: Any, output: torch.Tensor) -> None:
            self.take(name, output.reshape(-1, output.shape[-1]))

        return take

    def take(self, name: str, rows: torch.Tensor) -> None:
        """Add statistics of each channel of rows [N, C]."""
        wide = rows.double()
        low, high = torch.aminmax(rows, dim=0)
        statistics = [wide.sum(0), wide.square().sum(0), low, high, (rows == 0).sum(0)]
        if name not in self.totals:
            self.totals[name] = statistics
            return
        total = self.totals[name]
        for at in (0, 1, 4):
            total[at] += statistics[at]
        total[2], total[3] = torch.minimum(total[2], low), torch.maximum(total[3], high)

    @torch.inference_mode()
    def run(self, batches: Sequence[Sequence[Sequence[int]]], measure: bool = True) -> float:
        """Return the mean loss of all tokens. The texts of a batch have one length."""
        losses: list[torch.Tensor] = []
        for texts in batches:
            ids = torch.tensor(texts)
            out = self.model(ids, output_attentions=measure, output_hidden_states=measure)
            if not measure:
                continue
            logits, targets = out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
            losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none").double())
            self.take_ranks(logits, targets)
            for layer, weights in enumerate(out.attentions):
                self.take_attention(f"{layer}.weights", weights, ids)
            streams = zip(out.hidden_states, out.hidden_states[1:], strict=False)
            for layer, (before, after) in enumerate(streams):
                self.take(f"{layer}.stream", after.flatten(0, 1))
                self.take_stream(f"{layer}.turn", before.double(), after.double())
        return float(torch.cat(losses).mean()) if losses else 0.0

    def take_ranks(self, logits: torch.Tensor, targets: torch.Tensor) -> None:
        ranks = 1 + (logits > logits.gather(1, targets[:, None])).sum(1)
        self.totals.setdefault("ranks", []).append(ranks)

    def take_attention(self, name: str, weights: torch.Tensor, tokens: torch.Tensor) -> None:
        """Add entropy and attention to self, previous, position 0 and repeats, from weights [B, H, T, T]."""
        length = weights.shape[-1]
        below = torch.tril(torch.ones(length, length, dtype=torch.bool))
        self.take(f"{name}.values", weights[:, :, below].transpose(1, 2).flatten(0, 1))
        wide = weights.double()
        earlier = (tokens[:, :, None] == tokens[:, None]) & below & ~torch.eye(length, dtype=torch.bool)
        itself, previous = wide.diagonal(dim1=2, dim2=3)[..., 1:].sum(2), wide.diagonal(-1, 2, 3).sum(2)
        shares = [
            itself, previous, wide[:, :, 1:, 0].sum(2),
            (wide * earlier[:, None]).sum((2, 3)), torch.special.entr(wide).sum((2, 3)),
        ]  # fmt: skip
        self.totals.setdefault(name, []).append(torch.stack(shares))

    def take_stream(self, name: str, before: torch.Tensor, after: torch.Tensor) -> None:
        """Add the cosine, growth and largest value of each text, from residual streams [B, T, C]."""
        cosine = torch.nn.functional.cosine_similarity(before, after, dim=2).sum(1)
        growth = torch.log(after.norm(dim=2) / before.norm(dim=2)).sum(1)
        sizes = after.abs().flatten(1)
        largest = sizes.amax(1) / sizes.median(1).values
        self.totals.setdefault(name, []).append(torch.stack([cosine, growth, largest]))
