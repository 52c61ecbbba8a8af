"""Stored numbers against gguf's dequantisers bit for bit, blocks worked by hand, and slices of the whole."""

import tracemalloc

import numpy as np
import pytest

from microgpt_trace.encodings import CHUNK, ENCODINGS, StoredTensor
from microgpt_trace.unpacking import widen_f16

GGML = [name for name in ENCODINGS if name not in ("F32", "F16", "AprQ4", "AprQ8")]
# Where a block has its float16: random bytes there could be NaN or infinite.
HALVES = {
    **dict.fromkeys(("AprQ4", "Q4_0", "Q5_0", "Q8_0"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}


def random_blocks(name, count, seed=0):
    """[count, block_bytes] with any integers, and scales and numbers that are finite."""
    rng, encoding = np.random.default_rng(seed), ENCODINGS[name]
    blocks = rng.integers(0, 256, (count, encoding.block_bytes), np.uint8)
    normal = rng.normal(size=(count, 1)).astype(np.float32)
    for at in HALVES.get(name, ()):
        blocks[:, at : at + 2] = rng.normal(size=(count, 1)).astype(np.float16).view(np.uint8)
    plain = {"F32": normal, "F16": normal.astype(np.float16), "BF16": normal.view(np.uint16)[:, 1:]}
    return np.ascontiguousarray(plain[name]).view(np.uint8) if name in plain else blocks


def stored(name, *shape, row_size=None, scale=1.0, seed=0):
    """A tensor of random blocks."""
    elements = shape[0] * (row_size or int(np.prod(shape[1:])))
    blocks = random_blocks(name, -(-elements // ENCODINGS[name].block_size), seed)
    return StoredTensor("w", ENCODINGS[name], shape, blocks.reshape(-1), row_size, scale)


def same_bits(found, expected):
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    differ = found.view(np.uint32) != expected.view(np.uint32)
    assert not differ.any(), f"found {found[differ][:3]}, the judge says {expected[differ][:3]}"


@pytest.mark.parametrize("count", [1, 2, 7, 33])
@pytest.mark.parametrize("name", GGML)
def test_every_bit_is_that_of_gguf(name, count):
    gguf = pytest.importorskip("gguf")
    blocks = random_blocks(name, count, seed=count)
    same_bits(ENCODINGS[name].decode(blocks), gguf.dequantize(blocks, gguf.GGMLQuantizationType[name]))


@pytest.mark.parametrize("name", GGML)
def test_sizes_of_blocks_are_those_of_gguf(name):
    gguf = pytest.importorskip("gguf")
    size, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    assert (ENCODINGS[name].block_size, ENCODINGS[name].block_bytes) == (size, block_bytes)


def test_every_float16_widens_to_its_value():
    bits = np.arange(65536, dtype=np.uint16)
    same_bits(widen_f16(bits), bits.view(np.float16).astype(np.float32))


@pytest.mark.parametrize("bits", [0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x0001, 0x8001, 0x7BFF])
def test_one_odd_float16_among_ordinary_ones(bits):
    array = np.array([0x3C00, bits, 0xC000], np.uint16)
    same_bits(widen_f16(array), array.view(np.float16).astype(np.float32))


def test_f32_is_a_view_of_the_file_and_keeps_every_bit():
    words = np.array([0x7FC00001, 0xFF800000, 0x80000000, 1], np.uint32)
    tensor = StoredTensor("w", ENCODINGS["F32"], (2, 2), words.view(np.uint8))
    assert np.shares_memory(tensor.rows(0, 2), words)
    same_bits(tensor.read(), words.view(np.float32).reshape(2, 2))


def test_apr_q4_worked_by_hand_even_elements_in_low_nibbles():
    block = np.zeros((1, 18), np.uint8)
    block[0, :2] = np.array([0.5], np.float16).view(np.uint8)
    block[0, 2:4] = 0x9F, 0x08
    found = ENCODINGS["AprQ4"].decode(block)[0]
    np.testing.assert_array_equal(found, [3.5, 0.5, 0, -4] + [-4] * 28)


@pytest.mark.parametrize(
    ("bits", "counts"), [(0x7E00, 0), (0x7C00, 0), (0xFC00, 0), (0x83FF, 0), (0x0400, 1)]
)
def test_apr_q4_scales_that_are_not_normal_count_as_zero(bits, counts):
    block = np.full((1, 18), 0x99, np.uint8)
    block[0, :2] = np.array([bits], np.uint16).view(np.uint8)
    np.testing.assert_array_equal(ENCODINGS["AprQ4"].decode(block), np.full((1, 32), counts * 2.0**-14))


def test_apr_q8_has_one_scale_for_the_tensor():
    tensor = StoredTensor("w", ENCODINGS["AprQ8"], (2, 2), np.array([0, 1, 127, 128], np.uint8), None, 0.25)
    np.testing.assert_array_equal(tensor.read(), [[0, 0.25], [31.75, -32]])
    np.testing.assert_array_equal(tensor.take([1]), [[31.75, -32]])


@pytest.mark.parametrize("name", ENCODINGS)
def test_rows_and_take_are_slices_of_the_whole(name):
    tensor = stored(name, 7, 512)
    whole = ENCODINGS[name].decode(tensor.data.reshape(-1, ENCODINGS[name].block_bytes)).reshape(7, 512)
    same_bits(tensor.read(), whole)
    same_bits(tensor.rows(2, 5), whole[2:5])
    same_bits(tensor.take([6, 0, 6]), whole[[6, 0, 6]])
    assert tensor.take([]).shape == (0, 512)


@pytest.mark.parametrize("width", [1, 31, 33, 100])
def test_rows_that_begin_within_a_block(width):
    tensor = stored("AprQ4", 9, width)
    flat = ENCODINGS["AprQ4"].decode(tensor.data.reshape(-1, 18)).reshape(-1)
    whole = flat[: 9 * width].reshape(9, width)
    same_bits(tensor.read(), whole)
    same_bits(tensor.rows(3, 8), whole[3:8])
    same_bits(tensor.take([8, 1, 1]), whole[[8, 1, 1]])


@pytest.mark.parametrize("name", ["Q4_K", "Q6_K", "AprQ4"])
def test_rows_padded_to_whole_blocks(name):
    tensor = stored(name, 5, 300, row_size=512)
    whole = ENCODINGS[name].decode(tensor.data.reshape(-1, ENCODINGS[name].block_bytes)).reshape(5, 512)
    same_bits(tensor.read(), np.ascontiguousarray(whole[:, :300]))
    same_bits(tensor.rows(1, 3), np.ascontiguousarray(whole[1:3, :300]))
    same_bits(tensor.take([4, 2]), whole[[4, 2], :300])


@pytest.mark.parametrize("name", ENCODINGS)
def test_vectors_are_rows_of_one_element(name):
    tensor = stored(name, 512)
    whole = ENCODINGS[name].decode(tensor.data.reshape(-1, ENCODINGS[name].block_bytes)).reshape(-1)
    same_bits(tensor.read(), whole)
    same_bits(tensor.rows(3, 40), whole[3:40])


def test_reading_takes_the_result_and_a_few_chunks():
    tensor = stored("Q4_K", 4000, 2048)
    tracemalloc.start()
    result = tensor.read()
    peak = tracemalloc.get_traced_memory()[1] - result.nbytes
    tracemalloc.stop()
    print(f"{peak:,} bytes besides the result of {result.nbytes:,}; a chunk has {4 * CHUNK:,}")
    assert peak < 16 * CHUNK
