"""Direct attribution: what each component writes towards a logit, every norm's scale frozen.

A logit is linear in the stream once the scale of the norm it passes is taken as computed:

    decoder    logit(v) = sum over writes w of w . (g * W_U[v] / rms),  rms of the stream at the end
    microGPT   logit(v) = sum over writes w of w . W_U[v], the embeddings divided by their norm's rms

Shape letters as in ops.py, and: n positions, 2 tokens for each. All sums are float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..architecture.model import bias_of, unembedding_of
from ..architecture.plan import kind_of, layer_of
from ..arrays.encodings import CHUNK
from ..arrays.stats import Array
from .components import Component, components_of
from .observing import Observed

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel


def direct_writes(
    model: LanguageModel, seen: Observed, tokens: Array
) -> tuple[list[Component], dict[str, Array]]:
    """What every component writes towards the logits of the tokens: [n, 2] -> by name [n, 2]

    What hooks added comes last, as components of their own, but for a head's, which is the head's.
    """
    with np.errstate(all="ignore"):
        return _Reader(model, seen, tokens).writes()


class _Reader:
    """Reads writes into the stream as the unembedding reads them."""

    def __init__(self, model: LanguageModel, seen: Observed, tokens: Array) -> None:
        self._model, self._seen, self._tokens = model, seen, tokens
        rows = model.parameter(unembedding_of(model.config), tokens.ravel()).astype(np.float64)
        self._unembedding = self._along = rows.reshape(*tokens.shape, -1)  # [n, 2, C]
        scale = rms(seen.normed, model.config.norm_eps)[:, None, None]
        if "final_norm" in model.config.shapes():  # all that is written passes it
            self._along = self._embedded = self._unembedding * model.parameter("final_norm") / scale
        else:  # only what is embedded passes a norm
            self._embedded = self._along / scale

    def writes(self) -> tuple[list[Component], dict[str, Array]]:
        found: dict[str, Array] = {}
        components = components_of(self._model)
        for component in components:
            if component.kind != "head":
                found[component.name] = self._write(component)
            elif component.head == 0:
                found |= self._heads(component.layer)
        for name in self._seen.changes:
            change = self._change(name)
            if name in found:
                found[name] = found[name] + change
            else:
                found[name] = change
                components.append(Component(name, "hook", layer_of(name)))
        return components, found

    def _heads(self, layer: int | None) -> dict[str, Array]:
        """Of a layer's heads: context . (u @ wo), head by head, without forming a head's [n, C]"""
        context = self._seen.writes[f"layer{layer}.attn.context"].astype(np.float64)
        along = self._along.reshape(-1, self._along.shape[2])  # [n*2, C]
        back = _times_wo(self._model, f"layer{layer}.attn_wo", along).reshape(*self._along.shape[:2], -1)
        products = np.split(context[:, None] * back, self._model.config.n_head, axis=2)
        return {f"layer{layer}.attn.head{h}": own.sum(axis=2) for h, own in enumerate(products)}

    def _write(self, component: Component) -> Array:
        """[n, 2] of what is no head."""
        if component.kind == "bias":
            bias = bias_of(self._model, component.name)
            assert bias is not None  # a component is there
            return self._along @ bias.astype(np.float64)
        write = self._seen.writes[component.name].astype(np.float64)
        if component.kind == "embedding":
            return _dot(self._embedded, write)
        bias = bias_of(self._model, f"layer{component.layer}.mlp_bdown")
        return _dot(self._along, write if bias is None else write - bias)

    def _change(self, name: str) -> Array:
        """[n, 2] of what hooks added to an event."""
        change = self._seen.changes[name]
        if name == "logits":
            return np.take_along_axis(change, self._tokens, axis=1)
        along = {"embed.sum": self._embedded, "final.norm": self._unembedding}.get(kind_of(name), self._along)
        return _dot(along, change)


def _times_wo(model: LanguageModel, name: str, along: Array) -> Array:
    """u @ wo: [N, C] -> [N, H*D], a few rows of a stored wo decoded at a time"""
    tensor = model.tensors.get(name)
    if tensor is None:
        return along @ model.parameter(name)
    size = max(1, CHUNK // tensor.row_length)
    parts = (
        along[:, start : start + size] @ tensor.rows(start, min(start + size, tensor.shape[0]))
        for start in range(0, tensor.shape[0], size)
    )
    return np.sum(list(parts), axis=0)


def _dot(along: Array, write: Array) -> Array:
    """[n, 2, C], [n, C] -> [n, 2]"""
    return np.einsum("nvc,nc->nv", along, write)


def rms(x: Array, eps: float) -> Array:
    """sqrt(mean(x^2) + eps) of each row: [n, C] -> [n]"""
    return np.sqrt(np.square(x.astype(np.float64)).mean(axis=1) + eps)
