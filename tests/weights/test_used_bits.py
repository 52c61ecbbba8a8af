"""How many bits numbers use, judged by the types of gguf that the numbers went through."""

import numpy as np
import pytest
from support.exports import stored

from microgpt_trace.weights.stored_rounding import Values, measure
from microgpt_trace.weights.used_bits import bits_of_type, bits_used, narrowed, wasted_bits

NORMAL = np.random.default_rng(1).normal(size=(64, 256)).astype(np.float32)
BITS = {"F32": 64, "F16": 64, "BF16": 64, "Q8_0": 8, "Q5_0": 5, "Q5_1": 5, "Q4_0": 4, "Q4_1": 4, "MXFP4": 4}


@pytest.mark.parametrize("then", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("type", BITS)
def test_the_bits_of_a_type_are_found_in_its_numbers(type, then):
    if (type, then) == ("Q8_0", "BF16"):
        pytest.skip("BF16 has no more bits than Q8_0")
    rounded = Values.of(stored("w", stored("w", NORMAL, type).read(), then))
    found = bits_used(rounded)
    print(f"{type} in {then}: {found} bits")
    assert found == BITS[type]


@pytest.mark.parametrize("type", BITS)
def test_a_quantiser_that_uses_its_type_wastes_no_bits(type):
    plain, own = Values.of(stored("w", NORMAL, "F32")), Values.of(stored("w", NORMAL, type))
    assert (wasted_bits(own, measure(plain, own)), bits_of_type(own.type)) == (0, bits_of_type(type))


@pytest.mark.parametrize("used", [7, 6, 4, 2])
def test_the_unused_bits_of_integers_are_counted(used):
    runs = NORMAL.reshape(-1, 32)
    scale = (np.abs(runs).max(axis=1, keepdims=True) / (2 ** (used - 1))).astype(np.float16)
    blocks = np.hstack([scale.view(np.uint8), np.rint(runs / scale).astype(np.int8).view(np.uint8)])
    tensor = stored("w", NORMAL, "Q8_0")
    tensor.stored[:] = blocks.reshape(-1)
    plain, own = Values.of(stored("w", NORMAL, "F32")), Values.of(tensor)
    assert wasted_bits(own, measure(plain, own)) == 8 - used


@pytest.mark.parametrize("type", ["BF16", "F16"])
def test_numbers_that_fit_a_narrower_type_get_its_steps(type):
    plain, through = (Values.of(stored("w", a, "F32")) for a in (NORMAL, stored("w", NORMAL, type).read()))
    narrow = narrowed(through, type)
    assert narrowed(plain, type) is None
    assert not measure(plain, through).holds(0.0)
    assert measure(plain, narrow).holds(0.0)
