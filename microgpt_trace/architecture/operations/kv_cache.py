"""KVCache: the keys and values of the positions that a model has processed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...arrays.stats import Array


@dataclass
class KVCache:
    """The KV cache of one sequence. `rows` stores keys by the name of the scores, and values by the name of
    the context."""

    capacity: int  # positions
    length: int = 0  # the number of positions whose pass is complete
    text_length: int = 0  # in longrope, the length of the text if more positions follow
    rows: dict[str, Array] = field(default_factory=dict)  # the name of the row -> [G, capacity, D]

    def extend(self, name: str, new: Array) -> Array:
        """Append keys or values [G, T, D] of new positions. Return the array [G, S, D] of all positions.

        `length` does not change here. The interpreter's `forward` increases `length` after the pass.
        """
        if name not in self.rows:
            self.rows[name] = np.empty((new.shape[0], self.capacity, new.shape[2]), new.dtype)
        stop = self.length + new.shape[1]
        self.rows[name][:, self.length : stop] = new
        return self.rows[name][:, :stop]
