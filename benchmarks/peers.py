"""Peers: independent implementations of microGPT's training in other libraries.

They share the formulas with the package, but no code. RMSNorm has no gain (eps 1e-5) and also follows the
embedding. Attention is causal, the MLP uses ReLU, the output matrix is untied, and there are no biases. The
loss is the mean over names of the mean cross-entropy over the positions of a name. Adam (0.85, 0.99, 1e-8,
bias-corrected) has a rate that falls linearly to zero. Each peer is written as users of its library would, in
the form that was measured as the fastest. Shape letters follow microgpt_trace/microgpt/operations.py.
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
    """An implementation, built from a config, initial values, the number of steps and the first rate."""

    def prepare(self, batches: Sequence[np.ndarray]) -> Any:
        """Convert the batches to the form that `train` takes. This time is not measured.

        A batch holds the ids of B names with both BOS, padded with -1: [B, block_size + 1]
        """

    def begin(self) -> None:
        """Go back to the initial values."""

    def train(self, prepared: Any) -> list[float]:
        """Take one step per batch and return the losses, each computed before its update."""

    def values(self) -> Values:
        """Return the current parameters."""


# Module, class and required packages of each column of the tables
PEERS = {
    "numba": ("peer_numba", "NumbaPeer", ("numba", "scipy")),
    "JAX lax.scan": ("peer_jax", "JaxScanPeer", ("jax",)),
    "JAX jit": ("peer_jax", "JaxPeer", ("jax",)),
    "torch.compile": ("peer_torch", "CompiledTorchPeer", ("torch",)),
    "PyTorch eager": ("peer_torch", "TorchPeer", ("torch",)),
    "plain Python": ("peer_scalar", "ScalarPeer", ()),
}


def installed(*names: str) -> dict[str, type[Any]]:
    """Return the peers whose packages are installed, and print which are skipped."""
    result = {}
    for name in names:
        module, peer_class, packages = PEERS[name]
        missing = [package for package in packages if not find_spec(package)]
        if missing:
            print(f"Skipped {name}: it needs `pip install {' '.join(missing)}`")
        else:
            result[name] = getattr(import_module(module), peer_class)
    return result


def cut(rows: np.ndarray) -> np.ndarray:
    """Remove the padding that all names of a batch share: [B, longest + 1]"""
    return rows[:, : (rows >= 0).sum(1).max()]
