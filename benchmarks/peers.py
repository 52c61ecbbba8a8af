"""What a peer owes, and which there are: independent implementations of training microGPT.

They share no code with the package, only the formulas: RMSNorm without gain (eps 1e-5, also once
after the embedding), causal attention, ReLU, an untied head, no biases; the loss is the mean over
names of the mean cross-entropy over a name's positions; Adam (0.85, 0.99, 1e-8, bias-corrected)
with a rate that falls linearly to zero. Each is written as its own users would, in the form that was
measured to be its fastest. Shape letters are those of microgpt_trace/microgpt/operations.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

BETA1, BETA2, ADAM_EPS, NORM_EPS = 0.85, 0.99, 1e-8, 1e-5

Values = Mapping[str, np.ndarray]


class Peer(Protocol):
    """A contender, made of a config, the initial values by name, the schedule's steps and its first rate."""

    def prepare(self, batches: Sequence[np.ndarray]) -> Any:
        """The names of every step in the form that `train` takes. This is on nobody's bill but ours.

        A batch are the ids of B names, both BOS included, padded with -1: [B, block_size + 1]
        """

    def begin(self) -> None:
        """Go back to the initial values."""

    def train(self, prepared: Any) -> list[float]:
        """Take a step for each batch and return the losses, each from before its update."""

    def values(self) -> Values:
        """The parameters as they are now."""


# By the names that the tables have: the module, the class, and what has to be installed.
PEERS = {
    "numba": ("peer_numba", "NumbaPeer", ("numba", "scipy")),
    "JAX lax.scan": ("peer_jax", "JaxScanPeer", ("jax",)),
    "JAX jit": ("peer_jax", "JaxPeer", ("jax",)),
    "torch.compile": ("peer_torch", "CompiledTorchPeer", ("torch",)),
    "PyTorch eager": ("peer_torch", "TorchPeer", ("torch",)),
    "plain Python": ("peer_scalar", "ScalarPeer", ()),
}


def installed(*names: str) -> dict[str, type[Any]]:
    """The peers of these names that can run here; those that cannot are said to be skipped."""
    found = {}
    for name in names:
        module, peer_class, packages = PEERS[name]
        missing = [package for package in packages if not find_spec(package)]
        if missing:
            print(f"{name} is skipped: it needs `pip install {' '.join(missing)}`")
        else:
            found[name] = getattr(import_module(module), peer_class)
    return found


def cut(rows: np.ndarray) -> np.ndarray:
    """A batch without the padding that all its names have: [B, longest + 1]"""
    return rows[:, : (rows >= 0).sum(1).max()]
