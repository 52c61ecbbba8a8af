"""What transformers computed, recorded, and how far a trace is from it."""

from pathlib import Path

import numpy as np
from support.tiny_models import TOKENS

from microgpt_trace import load, trace

WHOLE, WORST_ROW = 5e-5, 1e-4  # relative L2 distance


def reference(case):
    with np.load(Path(__file__).parents[1] / "references" / f"{case}.npz") as arrays:
        return {name: arrays[name] for name in arrays if name != "ids"}


def run(path, tokens=TOKENS):
    return trace(load(path), tokens=list(tokens), names=["*"], values=True)


def gap(found, expected):
    """Relative L2 distance as a whole, and of the worst row: a large row can hide the others."""
    off, size = (np.linalg.norm(a.astype(np.float64), axis=-1) for a in (found - expected, expected))
    return np.linalg.norm(off) / np.linalg.norm(size), (off / size).max()


def assert_agree(found, expected):
    """Every tensor within the tolerances, and the same token on top at every position."""
    assert {n: found[n].shape for n in expected} == {n: a.shape for n, a in expected.items()}
    whole, worst_row = zip(*(gap(found[name], expected[name]) for name in expected), strict=True)
    at = list(expected)[int(np.argmax(worst_row))]
    print(f"worst tensor {max(whole):.1e} of {WHOLE}, worst row {max(worst_row):.1e} of {WORST_ROW} in {at}")
    assert max(whole) < WHOLE
    assert max(worst_row) < WORST_ROW, at
    np.testing.assert_array_equal(found["logits"].argmax(-1), expected["logits"].argmax(-1))


def assert_far(found, expected):
    """Not nearly: the logits are more than a hundred tolerances away."""
    distance, _ = gap(found, expected)
    print(f"distance {distance:.1e}, a hundred tolerances are {100 * WHOLE:.1e}")
    assert distance > 100 * WHOLE
