"""Cache: keys and values of the positions that a model has seen. Knows no model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ...arrays.stats import Array


@dataclass
class Cache:
    """What the rows of a plan have read of the positions so far, by the name of the row that reads it."""

    capacity: int
    length: int = 0
    rows: dict[str, Array] = field(default_factory=dict)  # [G, capacity, D] each

    def extend(self, name: str, new: Array) -> Array:
        """Append [G, T, D]; what all positions have: [G, S, D]. `length` moves on after a pass."""
        if name not in self.rows:
            self.rows[name] = np.empty((new.shape[0], self.capacity, new.shape[2]), new.dtype)
        stop = self.length + new.shape[1]
        self.rows[name][:, self.length : stop] = new
        return self.rows[name][:, :stop]
