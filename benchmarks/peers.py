"""Independent implementations of one Adam training step of microGPT, to measure against.

They share no code with the package, only the formulas: RMSNorm without gain (eps 1e-5, also once
after the embedding), causal attention, ReLU, an untied head, no biases; the loss is the mean over
names of the mean cross-entropy over a name's positions; Adam (0.85, 0.99, 1e-8, bias-corrected)
with a rate that falls linearly to zero. Each is written the way that was measured to be its fastest.

A peer is made of a config, the initial values by name, and the schedule. It is handed `rows`: the
ids of B names, padded with -1 to [B, block_size + 1]. That padding is not on its bill. Shape
letters are those of microgpt_trace/ops.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from scalar import ScalarModel

from microgpt_trace import Config

BETA1, BETA2, ADAM_EPS, NORM_EPS = 0.85, 0.99, 1e-8, 1e-5

Values = Mapping[str, np.ndarray]


class Peer(Protocol):
    """One training run of a contender."""

    def step(self, rows: np.ndarray) -> float:
        """Train on the names [B, block_size + 1] and return their loss before the update."""


class ScalarPeer:
    """Plain Python: every number is an object that knows its gradient, one position after another."""

    def __init__(self, config: Config, values: Values, steps: int, lr: float) -> None:
        self.model = ScalarModel(config.n_layer, config.n_head, {k: v.tolist() for k, v in values.items()})
        self.weights = self.model.all_weights()
        self.m, self.v = [0.0] * len(self.weights), [0.0] * len(self.weights)
        self.steps, self.lr, self.done = steps, lr, 0

    def step(self, rows: np.ndarray) -> float:
        loss = self.model.loss([id for id in rows[0].tolist() if id >= 0])
        loss.backward()
        rate, self.done = self.lr * (1 - self.done / self.steps), self.done + 1
        m_share, v_share = 1 - BETA1**self.done, 1 - BETA2**self.done
        for i, w in enumerate(self.weights):
            self.m[i] = m = BETA1 * self.m[i] + (1 - BETA1) * w.grad
            self.v[i] = v = BETA2 * self.v[i] + (1 - BETA2) * w.grad**2
            w.value -= rate * (m / m_share) / ((v / v_share) ** 0.5 + ADAM_EPS)
            w.grad = 0.0
        return loss.value


class TorchPeer:
    """PyTorch eager, with scaled_dot_product_attention and the fused Adam."""

    def __init__(self, config: Config, values: Values, steps: int, lr: float) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, self.functional, self.config = torch, torch.nn.functional, config
        self.weights = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
        self.adam = torch.optim.Adam(self.weights.values(), lr, (BETA1, BETA2), ADAM_EPS, fused=True)
        self.steps, self.lr, self.done = steps, lr, 0

    def step(self, rows: np.ndarray) -> float:
        self.adam.zero_grad()
        loss = self.loss(rows)
        loss.backward()
        self.adam.param_groups[0]["lr"] = self.lr * (1 - self.done / self.steps)
        self.adam.step()
        self.done += 1
        return loss.item()

    def loss(self, rows: np.ndarray) -> Any:
        """Of names cut to the longest of them: [B, block_size + 1] -> []"""
        lengths = (rows >= 0).sum(1) - 1
        ids = self.torch.from_numpy(rows[:, : lengths.max() + 1]).long()
        tokens, wanted = ids[:, :-1], ids[:, 1:]
        if len(rows) == 1:
            return self.functional.cross_entropy(self.logits(tokens)[0], wanted[0])
        logits = self.logits(tokens.clamp(min=0)).flatten(0, 1)
        losses = self.functional.cross_entropy(logits, wanted.flatten(), ignore_index=-1, reduction="none")
        return (losses.view(wanted.shape).sum(1) / self.torch.from_numpy(lengths)).mean()

    def logits(self, tokens: Any) -> Any:
        """Attention is causal and so never looks at the padding: [B, T] -> [B, T, V]"""
        w, f = self.weights, self.functional
        x = self.norm(f.embedding(tokens, w["wte"]) + w["wpe"][: tokens.shape[1]])
        for i in range(self.config.n_layer):
            x = x + f.linear(self.attention(self.norm(x), i), w[f"layer{i}.attn_wo"])
            hidden = f.relu(f.linear(self.norm(x), w[f"layer{i}.mlp_fc1"]))
            x = x + f.linear(hidden, w[f"layer{i}.mlp_fc2"])
        return f.linear(x, w["lm_head"])

    def norm(self, x: Any) -> Any:
        return x * self.torch.rsqrt((x * x).mean(-1, keepdim=True) + NORM_EPS)

    def attention(self, x: Any, i: int) -> Any:
        """[B, T, C] -> [B, T, C]"""
        f, heads = self.functional, (*x.shape[:2], self.config.n_head, self.config.head_dim)
        wq, wk, wv = (self.weights[f"layer{i}.attn_{name}"] for name in ("wq", "wk", "wv"))
        q, k, v = (f.linear(x, weight).view(heads).transpose(1, 2) for weight in (wq, wk, wv))
        context = f.scaled_dot_product_attention(q, k, v, is_causal=True)
        return context.transpose(1, 2).reshape(x.shape)


class JaxPeer:
    """JAX, the whole step compiled by jit for names padded to the block size, the loss masked.

    Parameters and moments are one flat vector each (a call costs less with few arguments), and
    calls are not handed to another thread: both save CPU time at batch 1.
    """

    def __init__(self, config: Config, values: Values, steps: int, lr: float) -> None:
        import jax

        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        self.jax, self.jnp, self.config = jax, jax.numpy, config
        self.shapes = {name: value.shape for name, value in values.items()}
        self.steps, self.lr = steps, lr
        flat = np.concatenate([value.ravel() for value in values.values()])
        self.state = tuple(self.jnp.asarray(a) for a in (flat, 0 * flat, 0 * flat, np.float32(0)))
        self.compiled = jax.jit(self.update, donate_argnums=0)

    def step(self, rows: np.ndarray) -> float:
        self.state, loss = self.compiled(self.state, rows)
        return float(np.asarray(loss))

    def update(self, state: tuple[Any, ...], rows: Any) -> tuple[tuple[Any, ...], Any]:
        """Parameters, moments and count of steps after a step, and the loss before it."""
        flat, m, v, done = state
        loss, grad = self.jax.value_and_grad(self.loss)(flat, rows)
        m = BETA1 * m + (1 - BETA1) * grad
        v = BETA2 * v + (1 - BETA2) * grad * grad
        m_hat, v_hat = m / (1 - BETA1 ** (done + 1)), v / (1 - BETA2 ** (done + 1))
        rate = self.lr * (1 - done / self.steps)
        return (flat - rate * m_hat / (self.jnp.sqrt(v_hat) + ADAM_EPS), m, v, done + 1), loss

    def loss(self, flat: Any, rows: Any) -> Any:
        """[B, block_size + 1] -> []"""
        weights, at = {}, 0
        for name, shape in self.shapes.items():
            weights[name] = flat[at : at + math.prod(shape)].reshape(shape)
            at += math.prod(shape)
        if len(rows) == 1:
            return self.name_loss(weights, rows[0])
        return self.jax.vmap(self.name_loss, (None, 0))(weights, rows).mean()

    def name_loss(self, w: dict[str, Any], ids: Any) -> Any:
        """[block_size + 1] -> []"""
        nn, jnp, tokens, wanted = self.jax.nn, self.jnp, ids[:-1], ids[1:]
        x = self.norm(w["wte"][tokens] + w["wpe"])
        for i in range(self.config.n_layer):
            x = x + self.attention(self.norm(x), w, i) @ w[f"layer{i}.attn_wo"].T
            x = x + nn.relu(self.norm(x) @ w[f"layer{i}.mlp_fc1"].T) @ w[f"layer{i}.mlp_fc2"].T
        log_probs = nn.log_softmax(x @ w["lm_head"].T)
        of_target = jnp.take_along_axis(log_probs, wanted[:, None], axis=1)[:, 0]
        is_real = wanted >= 0
        return -(of_target * is_real).sum() / is_real.sum()

    def norm(self, x: Any) -> Any:
        return x / self.jnp.sqrt((x * x).mean(-1, keepdims=True) + NORM_EPS)

    def attention(self, x: Any, w: dict[str, Any], i: int) -> Any:
        """[T, C] -> [T, C]"""
        jnp, heads = self.jnp, (len(x), self.config.n_head, self.config.head_dim)
        q, k, v = ((x @ w[f"layer{i}.attn_{n}"].T).reshape(heads) for n in ("wq", "wk", "wv"))
        scores = jnp.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.config.head_dim)
        weights = self.jax.nn.softmax(jnp.where(np.tri(len(x), dtype=bool), scores, -jnp.inf))
        return jnp.einsum("hqk,khd->qhd", weights, v).reshape(x.shape)


PEERS: dict[str, type[Any]] = {
    "scalar autograd": ScalarPeer,
    "PyTorch eager": TorchPeer,
    "JAX jit": JaxPeer,
}
REQUIRES = {"PyTorch eager": "torch", "JAX jit": "jax"}


def installed(*names: str) -> dict[str, type[Any]]:
    """The peers of these names that can run here; those that cannot are said to be skipped."""
    found = {}
    for name in names:
        package = REQUIRES.get(name)
        if package and not find_spec(package):
            print(f"{name} is skipped: it needs `pip install {package}`")
        else:
            found[name] = PEERS[name]
    return found
