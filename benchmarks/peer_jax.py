"""Training in JAX, in float32: one step compiled by jit, or many steps in one compiled scan.

Between steps, parameters and moments are one vector each, which makes a call cheaper. The gradient is
computed for a dict of arrays: for the vector, JAX would add one full-length vector per array, which takes
longer than the rest of the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.flatten_util import ravel_pytree
from peers import ADAM_EPS, BETA1, BETA2, NORM_EPS, Values, cut

from microgpt_trace import Config

State = tuple[Any, ...]  # parameters, both moments, count of steps


class JaxPeer:
    """One call per step. A single name is padded to the block size, several names to the longest of them.

    A separate shape for each length of a single name would be slower, because calls would alternate between
    many compiled programs. Losses are fetched at the end, so that no step waits for them.
    """

    def __init__(self, config: Config, values: Values, steps: int, lr: float) -> None:
        self.config, self.steps, self.lr = config, steps, lr
        initial = {name: jnp.asarray(value) for name, value in values.items()}
        self.initial, self.as_dict = ravel_pytree(initial)
        self.compiled = self.compile()
        self.begin()

    def compile(self) -> Any:
        return jax.jit(self.update, donate_argnums=0)

    def begin(self) -> None:
        zeros = jnp.zeros_like(self.initial)
        self.state = (self.initial.copy(), zeros, zeros.copy(), jnp.float32(0))

    def prepare(self, batches: Sequence[np.ndarray]) -> Any:
        return [jnp.asarray(rows if len(rows) == 1 else cut(rows)) for rows in batches]

    def train(self, prepared: Any) -> list[float]:
        losses = []
        for rows in prepared:
            self.state, loss = self.compiled(self.state, rows)
            losses.append(loss)
        return [float(np.asarray(loss)) for loss in losses]

    def values(self) -> Values:
        return {name: np.asarray(value) for name, value in self.as_dict(self.state[0]).items()}

    def update(self, state: State, rows: Any) -> tuple[State, Any]:
        """Return the state after a step, and the loss before it."""
        flat, m, v, done = state
        loss, by_name = jax.value_and_grad(self.loss)(self.as_dict(flat), rows)
        grad, _ = ravel_pytree(by_name)
        m = BETA1 * m + (1 - BETA1) * grad
        v = BETA2 * v + (1 - BETA2) * grad * grad
        m_hat, v_hat = m / (1 - BETA1 ** (done + 1)), v / (1 - BETA2 ** (done + 1))
        rate = self.lr * (1 - done / self.steps)
        return (flat - rate * m_hat / (jnp.sqrt(v_hat) + ADAM_EPS), m, v, done + 1), loss

    def loss(self, weights: dict[str, Any], rows: Any) -> Any:
        """Return the mean loss of the names [B, T + 1]."""
        if len(rows) == 1:
            return self.name_loss(weights, rows[0])
        return jax.vmap(self.name_loss, (None, 0))(weights, rows).mean()

    def name_loss(self, w: dict[str, Any], ids: Any) -> Any:
        """Return the mean loss of one name [T + 1]. Padding does not count."""
        tokens, targets = ids[:-1], ids[1:]
        x = self.norm(w["wte"][tokens] + w["wpe"][: len(tokens)])
        for i in range(self.config.n_layer):
            x = x + self.attention(self.norm(x), w, i) @ w[f"layer{i}.attn_wo"].T
            x = x + jax.nn.relu(self.norm(x) @ w[f"layer{i}.mlp_fc1"].T) @ w[f"layer{i}.mlp_fc2"].T
        log_probs = jax.nn.log_softmax(x @ w["lm_head"].T)
        of_target = jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]
        is_real = targets >= 0
        return -(of_target * is_real).sum() / is_real.sum()

    def norm(self, x: Any) -> Any:
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + NORM_EPS)

    def attention(self, x: Any, w: dict[str, Any], i: int) -> Any:
        """[T, C] -> [T, C]"""
        heads = (len(x), self.config.n_head, self.config.head_dim)
        q, k, v = ((x @ w[f"layer{i}.attn_{n}"].T).reshape(heads) for n in ("wq", "wk", "wv"))
        scores = jnp.einsum("qhd,khd->hqk", q, k) / math.sqrt(self.config.head_dim)
        weights = jax.nn.softmax(jnp.where(np.tri(len(x), dtype=bool), scores, -jnp.inf))
        return jnp.einsum("hqk,khd->qhd", weights, v).reshape(x.shape)


class JaxScanPeer(JaxPeer):
    """One call for many steps. All names have one length, and the losses return after the last step."""

    def compile(self) -> Any:
        return jax.jit(lambda state, rows: jax.lax.scan(self.update, state, rows), donate_argnums=0)

    def prepare(self, batches: Sequence[np.ndarray]) -> Any:
        stack = np.stack(batches)  # [steps, B, block_size + 1]
        return jnp.asarray(stack[..., : (stack >= 0).sum(-1).max()])

    def train(self, prepared: Any) -> list[float]:
        self.state, losses = self.compiled(self.state, prepared)
        return np.asarray(losses).tolist()
