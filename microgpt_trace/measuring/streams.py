"""StreamMeter: measure how layers change the residual stream, over a corpus.

For every row and layer, the meter measures two numbers: the logarithm of the growth of the row's norm, and
the cosine between the row before and after the layer. For every document and layer, the meter divides the
largest magnitude of the residual stream by the median magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays.stats import NOT_FINITE, Array, row_medians
from .definitions import MASSIVE
from .meter import EXCERPT, Meter, PackLayout
from .tallies import Counts, Sums, Tally, TopList, named

STREAMS = "streams"
FARTHEST = 3  # number of documents in the list of each layer


class StreamMeter(Meter):
    """A meter of the residual stream. `streams` names the event before layer 0, then the event after each
    layer. For each layer, the tallies count the measurable rows and the documents with a massive activation,
    sum the measurements, and list the documents whose magnitude is `farthest` from the median."""

    def __init__(self, streams: Sequence[str]) -> None:
        layers = len(streams) - 1
        self.names: list[str] = list(streams)
        self._rows, self._documents, self._massive = Counts(layers), Counts(layers), Counts(layers)
        self._growths, self._cosines = Sums(layers), Sums(layers)
        self._farthest = TopList(layers, FARTHEST, EXCERPT)
        tallies: dict[str, Tally] = {
            "rows": self._rows, "growth": self._growths, "cosine": self._cosines,
            "documents": self._documents, "massive": self._massive, "farthest": self._farthest,
        }  # fmt: skip
        self.tallies = named({STREAMS: tallies})

    def begin(self, layout: PackLayout) -> None:
        super().begin(layout)
        self._growth, self._cosine = list[Array](), list[Array]()
        self._before = self._lengths = np.empty(0)

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        lengths, layer = _dots(value, value), self.names.index(name) - 1
        if layer >= 0:
            growth = np.log(lengths / self._lengths) / 2
            cosine = _dots(value, self._before) / np.sqrt(lengths * self._lengths)
            fine = np.isfinite(growth) & np.isfinite(cosine)
            self._rows.numbers[layer] += np.count_nonzero(fine)
            self._growth.append(np.where(fine, growth, 0))
            self._cosine.append(np.where(fine, np.clip(cosine, -1, 1), 0))
            self._measure_peaks(layer, value)
        self._before, self._lengths = value.copy(), lengths

    def finish(self) -> None:
        """Sum the measurements of each document's rows, for all layers."""
        for measured, tally in ((self._growth, self._growths), (self._cosine, self._cosines)):
            tally.add(self.layout.sums(self.layout.in_turn(np.stack(measured, axis=1))))

    def _measure_peaks(self, layer: int, value: Array) -> None:
        size, layout = np.abs(value), self.layout
        for group in layout.groups:
            first = int(layout.text_at[group.rows.start])  # document
            magnitudes = size[group.rows].reshape(group.texts, -1)
            place = magnitudes.argmax(axis=1)
            times = magnitudes[np.arange(group.texts), place] / row_medians(magnitudes)
            fine = np.flatnonzero(np.isfinite(times))
            self._documents.numbers[layer] += len(fine)
            self._massive.numbers[layer] += np.count_nonzero(times[fine] >= MASSIVE)
            fine = fine[times[fine] >= self._farthest.bar[layer]]  # with ties, the earlier document wins
            position, channel = np.divmod(place[fine], value.shape[1])
            rows = layout.starts[first + fine] + position
            layout.enter(self._farthest, np.full(len(rows), layer), rows, times[fine], channel)


def _dots(a: Array, b: Array) -> Array:
    """Return the scalar products of rows, in float64: [N, C], [N, C] -> [N]"""
    return np.einsum("nc,nc->n", a, b, dtype=np.float64)
