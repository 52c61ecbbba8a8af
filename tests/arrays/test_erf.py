"""erfc against math.erfc, to the last digits of float64."""

import math

import numpy as np
import pytest

from microgpt_trace.arrays.erf import erfc


@pytest.mark.parametrize(("low", "high"), [(-7, -0.4), (-0.5, 0.5), (0.4, 4.1), (4, 26.5)])
def test_as_math_has_it(low, high):
    x = np.linspace(low, high, 20001)
    expected = np.array([math.erfc(value) for value in x])
    off = np.abs(erfc(x) - expected) / expected
    print(off.max(), x[off.argmax()])
    assert off.max() < 2e-15


def test_at_the_ends_and_of_no_number():
    found = erfc(np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 28.0]))
    np.testing.assert_array_equal(found, [1, 1, 0, 2, np.nan, 0])
