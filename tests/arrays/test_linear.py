"""Compare products with stored weights with float64 products of the same weights, dequantised."""

import os
import signal
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest
from support.stored_tensors import HALVES, ONE_BY_ONE, PARTS, stored, transposed

from microgpt_trace.arrays import products
from microgpt_trace.arrays.encodings import CHUNK, ENCODINGS
from microgpt_trace.arrays.products import linear, linear_backward

QUANTISED = [name for name in ENCODINGS if ENCODINGS[name].unpack]
WITH_MINIMA = [name for name in ENCODINGS if ENCODINGS[name].minima]


def activations(positions, width, seed=1):
    return np.random.default_rng(seed).normal(size=(positions, width)).astype(np.float32)


def agree(found, x, weight, limit=1e-6):
    """Check that the relative L2 error of every row is below `limit`, measured from the float64 product."""
    expected = x.astype(np.float64) @ weight.read().T.astype(np.float64)
    assert found.dtype == np.float32
    error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    print(f"{weight.encoding.name} {weight.shape}: worst row {error.max():.1e}, allowed {limit:.0e}")
    assert found.shape == expected.shape
    assert (error < limit).all()


@pytest.mark.parametrize("name", ENCODINGS)
def test_products_agree_with_float64(name):
    """The shapes have one chunk or several; products scale results, scale weights, or decode rows."""
    for positions, shape in ((1, (17, 256)), (3, (37, 512)), (40, (37, 512)), (3, (1601, 256))):
        weight, x = stored(name, *shape), activations(positions, shape[1])
        agree(linear(x, weight), x, weight)


ODD_ROWS = [
    ("F32", 33, None),
    ("AprQ4", 1, None),
    ("AprQ4", 33, None),
    ("AprQ4", 300, 512),
    ("Q4_K", 300, 512),
]


@pytest.mark.parametrize(("name", "width", "row_size"), ODD_ROWS)
def test_products_of_rows_that_begin_within_a_block_or_are_padded(name, width, row_size):
    weight, x = stored(name, 90, width, row_size=row_size), activations(3, width)
    for index in (range(90), range(10, 50), np.arange(50)[::-1] + 40, range(0, 90, 3)):
        part = weight.of_rows(np.array(index))
        agree(linear(x, part), x, part)


@pytest.mark.parametrize("name", ["Q4_0", "AprQ8"])
def test_the_scale_of_a_tensor_multiplies_its_blocks(name):
    weight, x = stored(name, 35, 64, scale=0.5), activations(3, 64)
    agree(linear(x, weight), x, weight)
    np.testing.assert_array_equal(weight.read() * 2, stored(name, 35, 64).read())


def around_zero(name, *shape):
    """Return weights like those of models, with minima that cancel the mean of q * d."""
    weight = stored(name, *shape)
    blocks = weight.data.reshape(-1, weight.encoding.block_bytes)
    d, m = HALVES[name]
    middle = {"Q4_1": -7.5, "Q5_1": -15.5, "Q2_K": 1.5, "Q4_K": 7.5, "Q5_K": 15.5}[name]
    blocks[:, m : m + 2] = (blocks[:, d : d + 2].copy().view(np.float16) * np.float16(middle)).view(np.uint8)
    if name == "Q2_K":  # set the minima t to the scales s
        blocks[:, :16] = blocks[:, :16] & 15 | blocks[:, :16] << 4
    if name in ("Q4_K", "Q5_K"):
        blocks[:, 8:12] = blocks[:, 4:8]
        blocks[:, 12:16] = blocks[:, 12:16] & 15 | blocks[:, 12:16] << 4
    return weight


@pytest.mark.parametrize("name", WITH_MINIMA)
def test_minima_lose_no_digits_to_cancellation(name):
    weight, x = around_zero(name, 64, 1536), np.abs(activations(3, 1536)) + 3
    mean = weight.read().mean()
    assert abs(mean) < 0.1 * weight.read().std(), mean
    agree(linear(x, weight), x, weight, limit=3e-6)


@pytest.mark.parametrize("name", ENCODINGS)
def test_permuted_rows_give_permuted_columns_to_the_last_bit(name):
    order = np.random.default_rng(3).permutation(1601)
    for positions, workers in ((1, 1), (40, 2)):
        weight, x = stored(name, 1601, 256), activations(positions, 256)
        result = linear(x, weight.of_rows(order), workers)
        np.testing.assert_array_equal(result, linear(x, weight)[:, order])
        agree(result, x, weight.of_rows(order))
        assert result.flags.c_contiguous


def check_damage(weight, x, part, value, axis, at):
    """Write a value into a part of the weight or of x, and check that only one row or column changes."""
    before = linear(x, weight)
    part[...] = value
    after = linear(x, weight)
    assert not np.isfinite(np.take(after, at, axis)).any()
    np.testing.assert_array_equal(np.delete(after, at, axis), np.delete(before, at, axis))


@pytest.mark.parametrize("name", ENCODINGS)
def test_an_input_that_is_not_finite_affects_only_its_position(name):
    for value, positions in ((np.nan, 3), (np.inf, 40)):
        x = activations(positions, 512)
        check_damage(stored(name, 37, 512), x, x[1, 77:78], value, axis=0, at=1)


@pytest.mark.parametrize("name", [name for name in QUANTISED if name not in ("AprQ4", "MXFP4")])
def test_a_scale_that_is_not_finite_affects_only_its_output(name):
    for bits, positions in ((0x7E00, 3), (0x7C00, 40)):
        weight = stored(name, 37, 512)
        at = weight.data.size // 37 * 5 + HALVES[name][-1]
        scale = weight.data[at : at + 2].view(np.uint16)
        check_damage(weight, activations(positions, 512), scale, bits, axis=1, at=5)


def test_an_empty_input_gives_an_empty_result():
    for name in QUANTISED:
        assert linear(np.empty((0, 512), np.float32), stored(name, 37, 512)).shape == (0, 37)


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_products_with_a_transposed_matrix_agree_with_float64(name):
    for parts, positions in product(PARTS, (1, 40)):
        (weight, plain), x = transposed(name, parts), activations(positions, 50)
        np.testing.assert_array_equal(weight.read(), plain)
        agree(linear(x, weight), x, weight, limit=3e-6)


WEIGHTS = {
    **{name: lambda name=name: stored(name, 1000, 1024) for name in ("F32", "F16", "Q4_1", "Q6_K")},
    "transposed": lambda: stored("F16", 256, 3000).transposed().of_rows(range(200, 2900)),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_any_number_of_workers_gives_the_same_bits(what):
    weight = WEIGHTS[what]()
    x = activations(40, weight.shape[1])
    expected = linear(x, weight)
    agree(expected, x, weight)
    for workers in (2, 3):
        np.testing.assert_array_equal(linear(x, weight, workers=workers), expected)


def agree_backward(weight, positions, workers=1, limit=1e-6):
    """Check dy @ W against float64. Sums over more chunks have larger errors."""
    dy = activations(positions, weight.shape[0])
    found, expected = linear_backward(dy, weight, workers), dy.astype(np.float64) @ weight.read()
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    print(f"{weight.encoding.name} {weight.shape}: {error:.1e}, allowed {limit:.0e}")
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    assert error < limit
    return found


@pytest.mark.parametrize("name", ENCODINGS)
def test_gradients_of_inputs_agree_with_float64(name):
    order = np.random.default_rng(3).permutation(1601)
    for positions in (1, 3, 40):
        agree_backward(stored(name, 37, 512), positions)
        agree_backward(stored(name, 1601, 256).of_rows(order[:900]), positions)  # a part, in another order


@pytest.mark.parametrize("what", WEIGHTS)
def test_gradients_have_the_same_bits_for_any_number_of_workers(what):
    weight = WEIGHTS[what]()
    expected = agree_backward(weight, 40)
    for workers in (2, 3):
        np.testing.assert_array_equal(agree_backward(weight, 40, workers), expected)


def large_transposed(name):
    return stored(name, 1024, 4100).transposed().of_rows(range(50, 4050))


LARGE = {  # a function that makes a weight, the number of arrays like the result, and the other bytes at most
    **{name: (lambda name=name: stored(name, 4000, 1024), 1, 10 * CHUNK) for name in ("F16", "Q4_1", "Q6_K")},
    "in an order": (lambda: stored("Q4_1", 4000, 1024).of_rows(np.arange(4000)[::-1]), 2, 10 * CHUNK),
    "F32 transposed": (lambda: large_transposed("F32"), 1, 1 << 16),
    "F16 transposed": (lambda: large_transposed("F16"), 1, 10 * CHUNK),
}


@pytest.mark.parametrize("what", LARGE)
def test_a_product_does_not_copy_the_matrix(what):
    make_weight, results, most = LARGE[what]
    weight = make_weight()
    for positions in (1, 40):
        x = activations(positions, 1024)
        products._workspace.buffers.clear()
        tracemalloc.start()
        result = linear(x, weight)
        peak = tracemalloc.get_traced_memory()[1] - results * result.nbytes
        tracemalloc.stop()
        print(f"{peak:,} bytes besides the result; the matrix would have {4 * weight.shape[0] * 1024:,}")
        assert peak < most


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # Python warns of such forks
def test_a_forked_child_starts_its_own_workers():
    weight, x = stored("Q6_K", 1000, 1024), activations(40, 1024)
    expected = linear(x, weight, workers=2)
    child = os.fork()
    if child == 0:
        same = False
        try:
            same = np.array_equal(linear(x, weight, workers=2), expected)
        finally:
            os._exit(not same)
    start, ended = time.monotonic(), (0, 0)
    while ended[0] == 0 and time.monotonic() < start + 20:
        ended = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_threads_do_not_share_a_workspace():
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(products._workspace.take, "q", (4, 4), np.float32).result()
    assert not np.shares_memory(other, products._workspace.take("q", (4, 4), np.float32))


@pytest.mark.parametrize(("out", "chunks"), [(192, 2), (768, 2), (1600, 4)])
def test_chunks_for_workers_have_equal_size(out, chunks):
    slices = products._chunks(stored("Q8_0", out, 64), 40)
    assert [rows.stop - rows.start for rows in slices] == [out // chunks] * chunks
