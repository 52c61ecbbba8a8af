"""Direct attribution: what each component writes towards a logit, every norm's scale frozen.

A logit is linear in the stream once the scales of the norms that it passes are taken as computed:

    decoder    logit(v) = sum over writes w of w . (g * W_U[v] / rms),  rms of the stream at the end
    microGPT   logit(v) = sum over writes w of w . W_U[v], the embeddings divided by their norm's rms

Which norms a write passes follows from the plan; observed_writes.py has the walk.

Shape letters as in microgpt/operations.py, and: n positions, 2 tokens for each. All sums are float64.
"""

from __future__ import annotations

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.operations import norm
from ..architecture.plans.kinds import Linear, Norm
from ..architecture.plans.plan import Operation, layer_of
from ..arrays.encodings import CHUNK
from ..arrays.stats import Array
from .observed_writes import Component, Observed, components_of, passes_on


def direct_writes(
    model: LanguageModel, seen: Observed, tokens: Array
) -> tuple[list[Component], dict[str, Array]]:
    """What every component writes towards the logits of the tokens: [n, 2] -> by name [n, 2]

    What hooks added comes last, as components of their own, but for a head's, which is the head's.
    """
    with np.errstate(all="ignore"):
        return _Reader(model, seen, tokens).writes()


class _Reader:
    """Reads writes into the stream as the unembedding reads them: each along the direction in which a change
    of its event moves the logits."""

    def __init__(self, model: LanguageModel, seen: Observed, tokens: Array) -> None:
        self._model, self._seen, self._tokens = model, seen, tokens
        self._along = self._directions()

    def _directions(self) -> dict[str, Array]:
        """By event [n, 2, C], from the logits back to what writes."""
        head = self._model.plan["logits"]
        assert isinstance(head.kind, Linear)
        rows = self._model.parameter(head.kind.weight, self._tokens.ravel()).astype(np.float64)
        found = {head.inputs[0]: rows.reshape(*self._tokens.shape, -1)}
        for row in reversed(self._seen.way):
            if row.name == "logits":
                continue
            along = found[row.name]
            found |= dict.fromkeys(row.parts, along)
            if not passes_on(row):
                continue
            if isinstance(row.kind, Norm):
                gain = None if row.kind.gain is None else self._model.parameter(row.kind.gain)
                along = norm.frozen(row.kind, along, self._seen.normed[row.inputs[0]], gain)
            for source in row.inputs:
                found[source] = found[source] + along if source in found else along
        return found

    def writes(self) -> tuple[list[Component], dict[str, Array]]:
        found: dict[str, Array] = {}
        components = components_of(self._model)
        for component in components:
            if component.kind != "head":
                found[component.name] = self._write(component)
            elif component.head == 0:
                found |= self._heads(component.row)
        for name in self._seen.changes:
            change = self._change(name)
            if name in found:
                found[name] = found[name] + change
            else:
                found[name] = change
                components.append(Component(name, "hook", self._model.plan[name], layer_of(name)))
        return components, found

    def _heads(self, row: Operation) -> dict[str, Array]:
        """Of the heads of a row: what it reads . (u @ W), head by head, without forming a head's [n, C]"""
        assert isinstance(row.kind, Linear)
        read = self._seen.writes[row.inputs[0]].astype(np.float64)
        along = self._along[row.name]
        flat = along.reshape(-1, along.shape[2])  # [n*2, C]
        back = _times(self._model, row.kind.weight, flat).reshape(*along.shape[:2], -1)
        products, found = read[:, None] * back, {}
        for name in row.parts:
            head = self._model.plan[name].kind
            assert isinstance(head, Linear)
            found[name] = products[:, :, slice(*head.columns or (None,))].sum(axis=2)
        return found

    def _write(self, component: Component) -> Array:
        """[n, 2] of what is no head."""
        name = component.row.bias
        bias = None if name is None else self._model.parameter(name)
        if component.kind == "bias":
            assert bias is not None  # a component is there
            if component.row.name == "logits":
                return bias.astype(np.float64)[self._tokens]
            return self._along[component.row.name] @ bias.astype(np.float64)
        write = self._seen.writes[component.name].astype(np.float64)
        return _dot(self._along[component.name], write if bias is None else write - bias)

    def _change(self, name: str) -> Array:
        """[n, 2] of what hooks added to an event."""
        change = self._seen.changes[name]
        if name == "logits":
            return np.take_along_axis(change, self._tokens, axis=1)
        return _dot(self._along[name], change)


def _times(model: LanguageModel, name: str, along: Array) -> Array:
    """u @ W: [N, C] -> [N, in], a few rows of a stored W decoded at a time"""
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
