"""Training in PyTorch, in float32: eager, or with a compiled loss and backward pass.

Both use scaled_dot_product_attention and the fused Adam. In PyTorch 2.13, compiling the optimizer's step
saves no time over the fused Adam. Compiling a whole step with `torch.func.grad` fails ("Cannot access storage
of TensorWrapper").
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from peers import ADAM_EPS, BETA1, BETA2, NORM_EPS, Values, cut
from torch.nn import functional

from microgpt_trace import Config

Prepared = list[tuple[torch.Tensor, ...]]


class TorchPeer:
    """Eager training on names padded to the longest of their batch."""

    def __init__(self, config: Config, values: Values, steps: int, lr: float) -> None:
        self.config, self.initial, self.steps, self.lr = config, values, steps, lr
        self.weights = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
        self.begin()

    def begin(self) -> None:
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(torch.from_numpy(self.initial[name]))
        weights = list(self.weights.values())
        self.adam = torch.optim.Adam(weights, self.lr, (BETA1, BETA2), ADAM_EPS, fused=True)
        self.done = 0

    def prepare(self, batches: Sequence[np.ndarray]) -> Prepared:
        """Return the tokens [B, T], targets [B, T] and weights of the losses [B, 1] of each batch."""
        return [self.of_batch(cut(rows)) for rows in batches]

    def of_batch(self, rows: np.ndarray) -> tuple[torch.Tensor, ...]:
        ids = torch.from_numpy(rows).long()
        share = 1 / (len(ids) * (ids[:, 1:] >= 0).sum(1, keepdim=True))
        return ids[:, :-1].clamp(min=0).contiguous(), ids[:, 1:].contiguous(), share

    def train(self, prepared: Prepared) -> list[float]:
        return [self.step(batch) for batch in prepared]

    def step(self, batch: tuple[torch.Tensor, ...]) -> float:
        self.adam.zero_grad()
        loss = self.loss(*batch)
        loss.backward()
        self.adam.param_groups[0]["lr"] = self.lr * (1 - self.done / self.steps)
        self.adam.step()
        self.done += 1
        return loss.item()

    def loss(self, tokens: Any, targets: Any, share: Any) -> Any:
        """Return the mean loss of the names. Padding does not count."""
        logits, targets_in_row = self.logits(tokens).flatten(0, 1), targets.flatten()
        if len(tokens) == 1:
            return functional.cross_entropy(logits, targets_in_row, ignore_index=-1)
        losses = functional.cross_entropy(logits, targets_in_row, ignore_index=-1, reduction="none")
        return (losses.view(targets.shape) * share).sum()

    def logits(self, tokens: Any) -> Any:
        """Return logits [B, T, V]. Causal attention never sees the padding, which follows a name."""
        w = self.weights
        x = self.norm(functional.embedding(tokens, w["wte"]) + w["wpe"][: tokens.shape[1]])
        for i in range(self.config.n_layer):
            x = x + functional.linear(self.attention(self.norm(x), i), w[f"layer{i}.attn_wo"])
            hidden = functional.relu(functional.linear(self.norm(x), w[f"layer{i}.mlp_fc1"]))
            x = x + functional.linear(hidden, w[f"layer{i}.mlp_fc2"])
        return functional.linear(x, w["lm_head"])

    def norm(self, x: Any) -> Any:
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + NORM_EPS)

    def attention(self, x: Any, i: int) -> Any:
        """[B, T, C] -> [B, T, C]"""
        heads = (*x.shape[:2], self.config.n_head, self.config.head_dim)
        weights = (self.weights[f"layer{i}.attn_{name}"] for name in ("wq", "wk", "wv"))
        q, k, v = (functional.linear(x, weight).view(heads).transpose(1, 2) for weight in weights)
        context = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return context.transpose(1, 2).reshape(x.shape)

    def values(self) -> Values:
        return {name: weight.detach().numpy() for name, weight in self.weights.items()}


class CompiledTorchPeer(TorchPeer):
    """Training compiled once, for names padded to the block size."""

    def __init__(self, config: Config, values: Values, steps: int, lr: float) -> None:
        super().__init__(config, values, steps, lr)
        torch.compiler.reset()  # or else several models reach the limit of recompilations
        self.loss = torch.compile(self.loss, dynamic=False)  # type: ignore[method-assign]

    def prepare(self, batches: Sequence[np.ndarray]) -> Prepared:
        return [self.of_batch(rows) for rows in batches]
