"""Training in plain Python, in float64: each number is an object with its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from peers import ADAM_EPS, BETA1, BETA2, Values
from scalar import ScalarModel

from microgpt_trace import Config


class ScalarPeer:
    """One name per step."""

    def __init__(self, config: Config, values: Values, steps: int, lr: float) -> None:
        self.config, self.initial, self.steps, self.lr = config, values, steps, lr
        self.begin()

    def begin(self) -> None:
        lists = {name: value.tolist() for name, value in self.initial.items()}
        self.model = ScalarModel(self.config.n_layer, self.config.n_head, lists)
        self.weights = self.model.all_weights()
        self.m, self.v, self.done = [0.0] * len(self.weights), [0.0] * len(self.weights), 0

    def prepare(self, batches: Sequence[np.ndarray]) -> list[list[int]]:
        return [[id for id in rows[0].tolist() if id >= 0] for rows in batches]

    def train(self, prepared: list[list[int]]) -> list[float]:
        return [self.step(ids) for ids in prepared]

    def step(self, ids: list[int]) -> float:
        loss = self.model.loss(ids)
        loss.backward()
        rate, self.done = self.lr * (1 - self.done / self.steps), self.done + 1
        m_share, v_share = 1 - BETA1**self.done, 1 - BETA2**self.done
        for i, w in enumerate(self.weights):
            self.m[i] = m = BETA1 * self.m[i] + (1 - BETA1) * w.grad
            self.v[i] = v = BETA2 * self.v[i] + (1 - BETA2) * w.grad**2
            w.value -= rate * (m / m_share) / ((v / v_share) ** 0.5 + ADAM_EPS)
            w.grad = 0.0
        return loss.value

    def values(self) -> Values:
        items = self.model.w.items()
        return {name: np.array([[weight.value for weight in row] for row in rows]) for name, rows in items}
