"""The largest values of a row, judged by a sort of the whole row."""

import numpy as np
import pytest

from microgpt_trace.arrays.logits import GROUPS, best_tokens


@pytest.mark.parametrize("size", [1, 5, GROUPS - 1, GROUPS, 3 * GROUPS + 7, 49152])
@pytest.mark.parametrize("kind", ["distinct", "ties", "equal", "excluded"])
def test_the_largest_values_in_order(size, kind):
    row = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    if kind == "ties":
        row = np.round(row)
    elif kind == "equal":
        row[:] = 0
    elif kind == "excluded":
        row[row < 1] = -np.inf
    order = sorted(range(size), key=lambda i: (-row[i], i))
    for k in (1, 2, 5, 20, GROUPS, GROUPS + 1):
        assert best_tokens(row, k) == order[:k]
