"""Config: the dimensions of a microGPT. Parameters: its parameters, as views of one flat vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np

from ..arrays.stats import NOT_FINITE, Array, DType
from ..errors import InputError
from ..plans.blocks import Dimensions
from ..plans.config_checks import check_whole_number
from ..text.brief import one_line
from ..text.frozen import frozen
from . import operations

INIT_STD = 0.08
CACHE_LINE = 64  # bytes
LAYER_PARAMETERS = ("attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_fc1", "mlp_fc2")


@frozen(slots=False)
class Config(Dimensions):
    """The dimensions of a microGPT. `n_inner` is the width of the MLP, where 0 means 4 * n_embd."""

    norm_eps = operations.RMSNORM_EPS
    activation = "ReLU"
    vocab_size: int = 27
    n_embd: int = 16
    n_head: int = 4
    n_layer: int = 1
    block_size: int = 16
    n_inner: int = 0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_whole_number(name, value, {"vocab_size": 2, "n_inner": 0}.get(name, 1))
        if self.n_embd % self.n_head:
            raise InputError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")
        # Each head has separate keys and values.
        derived = {"head_dim": self.n_embd // self.n_head, "n_kv_head": self.n_head}
        vars(self).update(derived, context_length=self.block_size, n_inner=self.n_inner or 4 * self.n_embd)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return the shape [out, in] of every parameter by its name, in the order of microgpt.py."""
        width, inner = self.n_embd, self.n_inner
        tables = {"wte": self.vocab_size, "wpe": self.block_size, "lm_head": self.vocab_size}
        layer_shapes = (*[(width, width)] * 4, (inner, width), (width, inner))
        return {name: (rows, width) for name, rows in tables.items()} | {
            f"layer{i}.{name}": shape
            for i in range(self.n_layer)
            for name, shape in zip(LAYER_PARAMETERS, layer_shapes, strict=True)
        }

    @property
    def parameter_count(self) -> int:
        width, layer_rows = self.n_embd, 4 * self.n_embd + 2 * self.n_inner
        return width * (2 * self.vocab_size + self.block_size + self.n_layer * layer_rows)


@frozen
class LayerWeights:
    """The parameters of a layer as views. wqkv is one view of the adjacent matrices of q, k and v."""

    wqkv: Array  # [3C, C]
    wo: Array  # [C, C]
    fc1: Array  # [F, C]
    fc2: Array  # [C, F]
    wq_t: Array  # transposed matrices, for the forward pass
    wk_t: Array
    wv_t: Array
    wo_t: Array
    fc1_t: Array
    fc2_t: Array


def aligned(values: Array) -> Array:
    """Copy an array to the start of a cache line, which saves up to 2 us per Adam step."""
    raw = np.empty(values.nbytes + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    copy = raw[start : start + values.nbytes].view(values.dtype)
    copy[...] = values
    return copy


class Parameters:
    """All parameters of a model by name, or all gradients, as [out, in] views of one flat vector."""

    def __init__(self, config: Config, flat: Array) -> None:
        self.config, self.flat = config, flat
        self.dtype = cast(DType, flat.dtype.type)
        self._views: dict[str, Array] = {}
        at = 0
        for name, (rows, cols) in config.shapes().items():
            self._views[name] = flat[at : at + rows * cols].reshape(rows, cols)
            at += rows * cols
        self.wte, self.wpe, self.lm_head = (self[name] for name in ("wte", "wpe", "lm_head"))
        self.lm_head_t = self.lm_head.T
        self.layers = tuple(self._layer(i) for i in range(config.n_layer))
        self.norm = operations.NormConstants.of(config.n_embd, self.dtype)
        self.zero = np.zeros((), self.dtype)
        size = config.vocab_size
        self.ones = np.ones((size, size), self.dtype)  # a product with this matrix sums rows

    @classmethod
    def random(cls, config: Config, seed: int = 42, dtype: DType = np.float32) -> Parameters:
        """Draw parameters from N(0, 0.08). A seed gives equal numbers on every machine and in both dtypes."""
        numbers = np.random.default_rng(seed).normal(0, INIT_STD, config.parameter_count)
        return cls(config, aligned(numbers.astype(np.float32).astype(dtype)))

    def _layer(self, i: int) -> LayerWeights:
        width = self.config.n_embd
        sizes = [self[f"layer{i}.{name}"].size for name in LAYER_PARAMETERS]
        start = self.wte.size + self.wpe.size + self.lm_head.size + i * sum(sizes)
        wqkv = self.flat[start : start + sum(sizes[:3])].reshape(3 * width, width)
        views = [self[f"layer{i}.{name}"] for name in LAYER_PARAMETERS]
        return LayerWeights(wqkv, *views[3:], *(view.T for view in views))

    def heads(self, length: int) -> operations.HeadConstants:
        """Return the arrays of attention that depend only on the length of a name, such as the mask."""
        return operations.HeadConstants.of(length, self.config.n_head, self.config.n_embd, self.dtype)

    def __repr__(self) -> str:
        return one_line(self, config=self.config, flat=self.flat)

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def items(self) -> Iterator[tuple[str, Array]]:
        return iter(self._views.items())

    @NOT_FINITE
    def copy(self, dtype: DType | None = None) -> Parameters:
        """Copy the parameters, as `dtype` if it is set."""
        return Parameters(self.config, aligned(self.flat.astype(dtype or self.dtype)))
