"""A decoder's layers at a glance: a hook that measures what the overview, the insights and the rules
need, as the values pass. Keeps a few numbers a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .events import TraceEvent
from .stats import Array, median
from .traces import LayerRow

NAMES = (
    "embed.tok", "*.norm", "layer*.attn.weights", "layer*.attn.out", "layer*.attn.residual",
    "layer*.mlp.act", "layer*.mlp.down", "layer*.mlp.residual",
)  # fmt: skip
SAMPLE = 1024  # elements
NEAR_ZERO = 0.01  # an activation within +-0.01 passes on at most a hundredth of what it gates


class Survey:
    """Subscribe it to NAMES with statistics; then `rows`.

    `gain` gives the gain [C] of a norm event and `eps` its epsilon; `keep` are positions whose
    residual stream after every layer stays in `kept`.
    """

    def __init__(self, gain: Callable[[str], Array], eps: float, keep: Sequence[int] = ()) -> None:
        self.kept: list[Array] = []  # [n, C] for each layer
        self.norms: dict[str, float] = {}  # how far the rows of a norm's output lie from RMS 1
        self._gain, self._eps = gain, eps
        self._keep = np.array(keep, dtype=np.intp)
        self._entered = self._stream = np.empty((0, 0))  # the stream before the layer, and as it is now
        self._measured: dict[str, Any] = {}
        self._rows: list[dict[str, Any]] = []

    def __call__(self, event: TraceEvent, value: Array) -> None:
        kind = event.name.rpartition(".")[2]
        if event.name == "embed.tok":
            self._entered = self._stream = value.copy()
        elif kind == "norm":
            self.norms[event.name] = self._from_rms_1(event.name, value)
        elif kind == "weights":
            self._measured["sink"] = float(value[:, 1:, 0].mean()) if value.shape[1] > 1 else None
        elif kind == "out":
            self._measure_write("attention", value)
        elif kind == "act":
            near = np.count_nonzero(np.abs(value) <= NEAR_ZERO) / value.size
            self._measured |= {"near_zero": near, "near_zero_threshold": NEAR_ZERO}
        elif kind == "down":
            self._measure_write("mlp", value)
        elif event.name.endswith("mlp.residual"):
            self._finish(event, value)
        else:
            self._stream = value.copy()

    def _from_rms_1(self, name: str, value: Array) -> float:
        """The largest deviation of a row's RMS from what RMSNorm gives, its gain divided out.

        With x the row that went in, mean((y / g)^2) = mean(x^2) / (mean(x^2) + eps).
        """
        gain, stream = self._gain(name), self._stream
        square = np.square(stream).mean(axis=1, keepdims=True) + self._eps
        if not gain.all():  # nothing can be divided out of channels without gain
            used = gain != 0
            value, stream, gain = value[:, used], stream[:, used], gain[used]
        if not gain.size:
            return 0.0
        rms = np.sqrt(np.square(value / gain).mean(axis=1))
        expected = np.sqrt(np.square(stream).mean(axis=1) / square[:, 0])
        return float(np.abs(rms - expected).max(initial=0.0))

    def _measure_write(self, branch: str, write: Array) -> None:
        """What it writes: the median over the positions of |write| / |stream|, and a typical element."""
        self._measured[f"{branch}_typical"] = typical(write)
        self._measured[f"{branch}_share"] = median(row_norms(write) / row_norms(self._stream))

    def _finish(self, event: TraceEvent, value: Array) -> None:
        place = int(np.abs(value).argmax())
        norms = row_norms(value)
        cosines = np.einsum("tc,tc->t", value, self._entered) / (norms * row_norms(self._entered))
        row = self._measured | {
            "layer": event.layer,
            "stream": event.stats,
            "row_norm": median(norms),
            "typical": typical(value),
            "turn": median(cosines),
            "peak": float(value.flat[place]),
            "peak_position": place // value.shape[1],
            "peak_channel": place % value.shape[1],
        }
        self._rows.append(row)
        self._entered = self._stream = value.copy()
        self._measured = {}
        if self._keep.size:
            self.kept.append(value[self._keep])

    def rows(self, events: Iterable[TraceEvent]) -> tuple[LayerRow, ...]:
        """A row per layer, with what is not finite in any of the events."""
        bad: dict[int | None, list[int]] = {}
        for event in events:
            assert event.stats is not None
            counts = bad.setdefault(event.layer, [0, 0])
            counts[0] += event.stats.nan_count
            counts[1] += event.stats.inf_count
        return tuple(
            LayerRow(**row, nan_count=bad[row["layer"]][0], inf_count=bad[row["layer"]][1])
            for row in self._rows
        )


def row_norms(x: Array) -> Array:
    """The L2 norm of every row: [T, C] -> [T]"""
    norms = np.sqrt(np.einsum("tc,tc->t", x, x))
    if np.isinf(norms).any():  # squares that leave float32
        norms = np.sqrt(np.einsum("tc,tc->t", x, x, dtype=np.float64))
    return norms


def typical(x: Array) -> float:
    """The median magnitude of the elements, or of a thousand of them spread evenly. The few massive
    ones that sound models have do not move it."""
    flat = x.ravel()
    return median(np.abs(flat[:: (flat.size // SAMPLE) | 1]))
