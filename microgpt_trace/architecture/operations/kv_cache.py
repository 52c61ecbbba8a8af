"""KVCache: the keys and values of the positions that a model has read so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...arrays.stats import Array


@dataclass
class KVCache:
    """The KV cache of one sequence: for each row of the plan that reads keys or values, those so far."""

    capacity: int  # positions
    length: int = 0  # positions whose pass is complete
    rows: dict[str, Array] = field(default_factory=dict)  # by the row that reads them, [G, capacity, D]

    def extend(self, name: str, new: Array) -> Array:
        """Append the keys or values of new positions [G, T, D] and return those of all: [G, S, D].

        `length` does not change: `forward` of the interpreter advances it after a pass.
        """
        if name not in self.rows:
            self.rows[name] = np.empty((new.shape[0], self.capacity, new.shape[2]), new.dtype)
        stop = self.length + new.shape[1]
        self.rows[name][:, self.length : stop] = new
        return self.rows[name][:, :stop]
