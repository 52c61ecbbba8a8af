"""erfc is math.erfc of every element, whatever the shape."""

import math

import numpy as np
import pytest

from microgpt_trace.architecture.operations.elementwise import erfc


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (1, 3, 2), (0, 4)])
def test_as_math_has_it(shape):
    x = np.resize(np.array([0.5, -2, np.inf, -np.inf, np.nan, 28], np.float32), shape)
    found = erfc(x)
    assert (found.dtype, found.shape) == (np.float64, shape)
    np.testing.assert_array_equal(found.ravel(), [math.erfc(value) for value in x.ravel()])
