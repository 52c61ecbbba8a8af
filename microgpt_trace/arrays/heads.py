"""Attention's heads: side by side in the channels of rows, or one after another. Knows no model."""

from __future__ import annotations

from .stats import Array


def in_heads(x: Array, n: int, head_dim: int) -> Array:
    """The heads of n sequences: [n*T, H*D] -> [n*H, T, D]"""
    heads = x.reshape(n, len(x) // n, -1, head_dim).swapaxes(1, 2)
    return heads.reshape(-1, *heads.shape[2:])


def out_of_heads(x: Array, n: int) -> Array:
    """The way back: [n*H, T, D] -> [n*T, H*D]"""
    heads = x.reshape(n, -1, *x.shape[1:]).swapaxes(1, 2)
    return heads.reshape(n * x.shape[1], -1)


def shares(heads: int, workers: int) -> list[slice]:
    """The heads that each worker has."""
    return [slice(heads * n // workers, heads * (n + 1) // workers) for n in range(workers)]
