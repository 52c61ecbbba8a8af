"""Products with packed tensors have the bits of products with the stored tensors."""

import numpy as np
import pytest
from support.stored_tensors import HALVES, PARTS, stored

from microgpt_trace.arrays.encodings import ENCODINGS
from microgpt_trace.arrays.expert_tensor import ExpertTensor
from microgpt_trace.arrays.kept_weights import KeptWeights
from microgpt_trace.arrays.packed_tensor import PackedTensor, packed_size
from microgpt_trace.arrays.products import linear, linear_backward, packed

QUANTISED = [name for name in ENCODINGS if ENCODINGS[name].unpack]
FOUR_BITS = {"AprQ4", "Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q4_K"}


def same_bits(weight, copy, positions=(1, 3, 40)):
    """Compare products and gradients. 40 positions have other chunks with workers than a packed tensor."""
    rng = np.random.default_rng(0)
    for count in positions:
        x, dy = (rng.normal(size=(count, n)).astype(np.float32) for n in weight.shape[::-1])
        for workers in (1, 2):
            np.testing.assert_array_equal(linear(x, copy, workers), linear(x, weight, workers))
            found = linear_backward(dy, copy, workers)
            np.testing.assert_array_equal(found, linear_backward(dy, weight, workers))


@pytest.mark.parametrize("name", QUANTISED)
def test_products_with_packed_tensors_have_the_same_bits(name):
    weight, order = stored(name, 1601, 512), np.random.default_rng(3).permutation(1601)
    same_bits(weight, packed(weight))
    same_bits(weight.of_rows(order[:900]), packed(weight.of_rows(order[:900])))


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_a_packed_tensor_are_parts_of_the_stored_tensor(part):
    weight, copy = stored("Q4_1", 37, 64), packed(stored("Q4_1", 37, 64))
    for index in PARTS[part]:
        weight, copy = weight.of_rows(index), copy.of_rows(index)
    np.testing.assert_array_equal(copy.read(), weight.read())


@pytest.mark.parametrize("name", QUANTISED)
def test_the_size_of_a_packed_tensor_counts_every_byte(name):
    for weight in (stored(name, 1601, 512), stored(name, 1601, 512).of_rows(range(7, 900, 3))):
        copy, elements = packed(weight), weight.as_stored().shape[0] * 512
        arrays = [array for chunk in copy.chunks for array in chunk if array is not None]
        assert sum(array.nbytes for array in arrays) == packed_size(weight)
        assert all(array.base is None or array.base.nbytes == array.nbytes for array in arrays)
        assert sum(q.nbytes for q, _, _ in copy.chunks) * (1 + (name in FOUR_BITS)) == elements


def test_tensors_that_products_decode_are_not_packed():
    for weight in (stored("F16", 7, 64), stored("Q4_0", 7, 64, scale=0.5), stored("Q4_0", 7, 48)):
        for memory, fits in ((4 * weight.shape[0] * weight.shape[1] - 1, False), (1 << 20, True)):
            matrix = KeptWeights([weight], memory).matrix(weight, None)
            assert matrix.is_plain == fits
            same_bits(weight, matrix)


def test_the_smallest_elements_are_kept_first():
    plain, bytes_, nibbles = (stored(name, 32, 512) for name in ("F16", "Q6_K", "Q4_K"))
    sizes = 4 * 32 * 512, packed_size(bytes_), packed_size(nibbles)
    for memory, kept in (
        (sizes[2], [nibbles]),
        (sum(sizes[1:]), [nibbles, bytes_]),
        (sizes[0], [nibbles, bytes_]),
    ):
        weights = KeptWeights([plain, bytes_, nibbles], memory)
        assert [own for own in (nibbles, bytes_, plain) if weights.matrix(own, None) is not own] == kept


@pytest.mark.parametrize("name", ["Q4_1", "Q4_K", "Q6_K"])
def test_products_use_the_scales_of_the_copy(name):
    weight, x = stored(name, 37, 512), np.ones((1, 512), np.float32)
    copy, before = packed(weight), linear(x, weight)
    weight.data[...] = 0
    np.testing.assert_array_equal(linear(x, copy), before)
    for _, *scales in copy.chunks:
        for scale in scales:
            if scale is not None:
                scale[:, 5] *= 2
    after = linear(x, copy)
    np.testing.assert_array_equal(after[0, 5], 2 * before[0, 5])
    np.testing.assert_array_equal(np.delete(after, 5, 1), np.delete(before, 5, 1))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q6_K"])
def test_scales_that_are_not_finite_have_the_same_bits(name):
    weight = stored(name, 37, 512)
    for row, bits in ((5, 0x7E00), (9, 0xFC00)):
        at = weight.data.size // 37 * row + HALVES[name][-1]
        weight.data[at : at + 2].view(np.uint16)[...] = bits
    same_bits(weight, packed(weight))


@pytest.mark.parametrize("in_pieces", [False, True])
def test_matrices_of_experts_are_packed_one_at_a_time(in_pieces):
    tensor = stored("Q4_K", 3, 40, 256)
    if in_pieces:
        tensor = ExpertTensor.of("w", 3, tensor.of_expert)
    size = packed_size(tensor)
    for memory, fits in ((size - 1, False), (size, True)):
        kept = KeptWeights([tensor], memory)
        for expert in range(3):
            matrix = kept.matrix(tensor, expert)
            if fits:
                same_bits(tensor.of_expert(expert), matrix)
                assert matrix is kept.matrix(tensor, expert)
            assert isinstance(matrix, PackedTensor) == fits
