"""StreamMeter: how layers change the residual stream, over a corpus. Knows no text.

Of every row: the logarithm of how much longer a layer leaves it, and the cosine between the stream before and
after. Of every document: how many times the median magnitude the largest one of the stream is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays.stats import NOT_FINITE, Array, row_medians
from .definitions import MASSIVE
from .meter import EXCERPT, Meter, PackLayout
from .tallies import Counts, Sums, Tally, TopList, named

STREAMS = "streams"
FARTHEST = 3  # documents in which a layer's largest magnitude is most times the median


class StreamMeter(Meter):
    """Measures the streams that enter the layers and leave the last one, which come in this order.

    Tallies have of each layer: rows that could be measured, what they add up to, documents with a massive
    activation, and those in which the largest magnitude is most times the median.
    """

    def __init__(self, streams: Sequence[str]) -> None:
        layers = len(streams) - 1
        self.names = list(streams)
        self._rows, self._documents, self._massive = Counts(layers), Counts(layers), Counts(layers)
        self._growths, self._cosines = Sums(layers), Sums(layers)
        self._farthest = TopList(layers, FARTHEST, EXCERPT)
        own: dict[str, Tally] = {
            "rows": self._rows, "growth": self._growths, "cosine": self._cosines,
            "documents": self._documents, "massive": self._massive, "farthest": self._farthest,
        }  # fmt: skip
        self.tallies = named({STREAMS: own})

    def begin(self, layout: PackLayout) -> None:
        super().begin(layout)
        self._layer = -1
        self._growth, self._cosine = list[Array](), list[Array]()
        self._before = self._lengths = np.empty(0)

    @NOT_FINITE
    def __call__(self, name: str, value: Array) -> None:
        lengths = _dots(value, value)
        if self._layer >= 0:
            turned = _dots(value, self._before)
            growth = np.log(lengths / self._lengths) / 2
            cosine = turned / np.sqrt(lengths * self._lengths)
            self._take(self._layer, growth, np.clip(cosine, -1, 1))
            self._measure_peaks(self._layer, value)
        self._before, self._lengths = value.copy(), lengths
        self._layer += 1

    def _take(self, layer: int, growth: Array, cosine: Array) -> None:
        fine = np.isfinite(growth) & np.isfinite(cosine)
        self._rows.numbers[layer] += np.count_nonzero(fine)
        self._growth.append(np.where(fine, growth, 0))
        self._cosine.append(np.where(fine, cosine, 0))

    def finish(self) -> None:
        """Sum the rows of all layers by document."""
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
            fine = fine[times[fine] >= self._farthest.bar[layer]]  # one of an earlier document may come later
            if fine.size:
                position, channel = np.divmod(place[fine], value.shape[1])
                rows = layout.starts[first + fine] + position
                layout.enter(self._farthest, np.full(len(rows), layer), rows, times[fine], channel)


def _dots(a: Array, b: Array) -> Array:
    """The scalar products of rows, in float64: [N, C], [N, C] -> [N]"""
    return np.einsum("nc,nc->n", a, b, dtype=np.float64)
