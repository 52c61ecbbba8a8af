"""Compare stored numbers with gguf's dequantisers bit for bit, with blocks computed by hand, and with NumPy
slices."""

import tracemalloc
from dataclasses import asdict, replace
from functools import partial as bind

import numpy as np
import pytest
from support.stored_tensors import ONE_BY_ONE, PARTS, permutation, random_blocks, stored, transposed

from microgpt_trace.arrays.dequantisation import mxfp4_blocks, widen_f16
from microgpt_trace.arrays.encodings import CHUNK, ENCODINGS, StoredTensor
from microgpt_trace.arrays.stats import TensorStats
from microgpt_trace.errors import FileFormatError, InputError
from microgpt_trace.tracing.inspection import tensor_stats

IN_AN_ORDER = ("an order", "an order of a part", "a part of an order", "repeats")
GGML = [name for name in ENCODINGS if name not in ("F32", "F16", "AprQ4", "AprQ8")]


def same_bits(found, expected):
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    differ = found.view(np.uint32) != expected.view(np.uint32)
    assert not differ.any(), f"found {found[differ][:3]}, expected {expected[differ][:3]}"


def decoded(tensor):
    """Return all numbers of a tensor's bytes in the order of the file."""
    encoding = tensor.encoding
    return encoding.decode(tensor.data.reshape(-1, encoding.block_bytes)).ravel() * np.float32(tensor.scale)


def check_rows(tensor, plain):
    """Check that every way to read rows of a tensor gives the rows of `plain`."""
    plain = np.ascontiguousarray(plain)
    assert tensor.shape == plain.shape
    same_bits(tensor.read(), plain)
    same_bits(tensor.rows(1, 3), plain[1:3])
    same_bits(tensor.take([2, 0, 2]), plain[[2, 0, 2]])
    assert tensor.take([]).shape == (0, *plain.shape[1:])
    same_bits(tensor.ordered(tensor.as_stored().read()), plain)


def counting(tensor, decoded):
    """Return the tensor with an encoding that adds the number of blocks to `decoded` when it decodes."""

    def decode(blocks):
        decoded.append(blocks.size // tensor.encoding.block_bytes)
        return tensor.encoding.decode(blocks)

    return replace(tensor, encoding=replace(tensor.encoding, decode=decode))


@pytest.mark.parametrize("name", GGML)
def test_decodes_every_bit_as_gguf(name):
    gguf = pytest.importorskip("gguf")
    kind, blocks = gguf.GGMLQuantizationType[name], random_blocks(name, 33, seed=1)
    assert (ENCODINGS[name].block_size, ENCODINGS[name].block_bytes) == gguf.GGML_QUANT_SIZES[kind]
    for part in (blocks, blocks[:1]):
        same_bits(ENCODINGS[name].decode(part), gguf.dequantize(part, kind))
    raw = np.random.default_rng(2).integers(0, 256, (999, blocks.shape[1]), np.uint8)  # also infinite and NaN
    raw[:, 0] = np.arange(999) % 256  # every scale of MXFP4
    with np.errstate(over="ignore", invalid="ignore"):
        found, expected = ENCODINGS[name].decode(raw), gguf.dequantize(raw, kind)
    assert (np.isinf if name == "MXFP4" else np.isnan)(expected).any()
    np.testing.assert_array_equal(found, expected)


def test_repacks_mxfp4_of_hugging_face():
    """The judges are gguf, and transformers for all exponents except 255, which means NaN there."""
    gguf, torch = pytest.importorskip("gguf"), pytest.importorskip("torch")
    judge = pytest.importorskip("transformers.integrations.mxfp4").convert_moe_packed_tensors
    blocks = np.random.default_rng(3).integers(0, 256, (2, 51, 5, 16), np.uint8)
    scales = (np.arange(510) % 255).astype(np.uint8).reshape(2, 51, 5)
    packed = mxfp4_blocks(blocks, scales)
    found = StoredTensor("w", ENCODINGS["MXFP4"], (2, 51, 160), packed.reshape(-1)).read()
    expected = judge(torch.tensor(blocks), torch.tensor(scales), dtype=torch.float32).numpy()
    print(found[1, 0, :4], expected[1, :4, 0])
    np.testing.assert_array_equal(found.swapaxes(1, 2), expected)
    with np.errstate(over="ignore"):
        same_bits(found, gguf.dequantize(packed, gguf.GGMLQuantizationType.MXFP4).reshape(found.shape))


def test_every_float16_widens_to_its_value():
    """All numbers together, and each special number among ordinary ones."""
    odd = [0x7C00, 0xFC00, 0x7E00, 0xFE00, 0x0001, 0x8001, 0x7BFF]
    for bits in (range(65536), *([0x3C00, one, 0xC000] for one in odd)):
        array = np.array(bits, np.uint16)
        same_bits(widen_f16(array), array.view(np.float16).astype(np.float32))


def test_rows_of_f32_are_a_view_of_the_file():
    words = np.array([0x7FC00001, 0xFF800000, 0x80000000, 1], np.uint32)
    tensor = StoredTensor("w", ENCODINGS["F32"], (2, 2), words.view(np.uint8))
    assert np.shares_memory(tensor.rows(0, 2), words)
    same_bits(tensor.read(), words.view(np.float32).reshape(2, 2))


def test_apr_q4_has_even_elements_in_low_nibbles():
    block = np.zeros((1, 18), np.uint8)
    block[0, :2] = np.array([0.5], np.float16).view(np.uint8)
    block[0, 2:4] = 0x9F, 0x08
    np.testing.assert_array_equal(ENCODINGS["AprQ4"].decode(block)[0], [3.5, 0.5, 0, -4] + [-4] * 28)


@pytest.mark.parametrize(
    ("bits", "counts"), [(0x7E00, 0), (0x7C00, 0), (0xFC00, 0), (0x83FF, 0), (0x0400, 1)]
)
def test_apr_q4_scales_that_are_not_normal_become_zero(bits, counts):
    block = np.full((1, 18), 0x99, np.uint8)
    block[0, :2] = np.array([bits], np.uint16).view(np.uint8)
    np.testing.assert_array_equal(ENCODINGS["AprQ4"].decode(block), np.full((1, 32), counts * 2.0**-14))


def test_apr_q8_has_one_scale_for_the_tensor():
    tensor = StoredTensor("w", ENCODINGS["AprQ8"], (2, 2), np.array([0, 1, 127, 128], np.uint8), None, 0.25)
    np.testing.assert_array_equal(tensor.read(), [[0, 0.25], [31.75, -32]])
    np.testing.assert_array_equal(tensor.take([1]), [[31.75, -32]])


@pytest.mark.parametrize("name", ENCODINGS)
def test_rows_of_a_matrix_agree_with_numpy(name):
    matrix = stored(name, 37, 512, scale=0.5 if name == "AprQ8" else 1.0)
    for parts, indices in PARTS.items():
        tensor, plain = matrix, decoded(matrix).reshape(37, 512)
        for index in indices:
            tensor, plain = tensor.of_rows(index), plain[np.array(index)]
        assert tensor.permuted == (parts in IN_AN_ORDER), parts
        check_rows(tensor, plain)
    same_bits(matrix.of_rows(permutation(37)).in_file_order().read(), matrix.read())


ODD_ROWS = [("AprQ4", 1, 1), ("AprQ4", 31, 31), ("AprQ4", 33, 33), ("AprQ4", 300, 320), ("Q4_K", 300, 512)]


@pytest.mark.parametrize(("name", "width", "row_size"), ODD_ROWS)
def test_reads_rows_that_begin_within_a_block_or_are_padded(name, width, row_size):
    tensor, order = stored(name, 90, width, row_size=row_size), permutation(20)
    matrix = decoded(tensor)[: 90 * row_size].reshape(90, row_size)[:, :width]
    part = tensor.of_rows(np.arange(41, 61)).of_rows(order)
    check_rows(tensor, matrix)
    check_rows(part, matrix[41:61][order])
    check_rows(part.of_rows([4, 4, 0]), matrix[41:61][order][[4, 4, 0]])
    same_bits(part.in_file_order().read(), np.ascontiguousarray(matrix[41:61]))


@pytest.mark.parametrize("name", ENCODINGS)
def test_reads_vectors_in_any_order(name):
    tensor, order = stored(name, 512), permutation(512)
    for vector, plain in ((tensor, decoded(tensor)), (tensor.of_rows(order), decoded(tensor)[order])):
        same_bits(vector.read(), plain)
        same_bits(vector.rows(3, 40), plain[3:40])


@pytest.mark.parametrize(
    "order", [None, np.random.default_rng(4000).permutation(4000)], ids=["file order", "permuted"]
)
def test_reading_needs_memory_for_the_result_and_a_few_chunks(order):
    tensor = stored("Q4_K", 4000, 2048)
    tensor = tensor if order is None else tensor.of_rows(order)
    tracemalloc.start()
    result = tensor.read()
    peak = tracemalloc.get_traced_memory()[1] - result.nbytes
    tracemalloc.stop()
    print(f"{peak:,} bytes besides the result of {result.nbytes:,}; a chunk has {4 * CHUNK:,}")
    assert peak < 16 * CHUNK


@pytest.mark.parametrize("name", ["F32", "Q4_K", "AprQ4"])
def test_rows_of_a_fused_matrix_are_a_view_of_its_bytes(name):
    fused = stored(name, 24, 512)
    q, k = fused.of_rows(np.arange(16)), fused.of_rows(range(16, 24))
    assert q.order is k.order is None
    assert (len(q.data), len(k.data)) == (len(fused.data) * 2 // 3, len(fused.data) // 3)
    assert np.shares_memory(k.data, fused.data)


@pytest.mark.parametrize("name", ["Q4_K", "F16"])
def test_reading_a_few_permuted_rows_decodes_only_their_blocks(name):
    counts = []
    tensor = counting(stored(name, 100, 512), counts).of_rows(permutation(100))
    tensor.rows(10, 13)
    assert counts == [3 * 512 // ENCODINGS[name].block_size]


NO_ROWS = ([0, 7], [-1, 0], [2**63], [-(2**62)], [10**30])
NO_INDEX = ([], [0.0, 1.0], [True] * 7, [[0, 1]], 3, None, "0123456")


@pytest.mark.parametrize("index", NO_ROWS + NO_INDEX)
def test_rejects_a_wrong_index_of_rows(index):
    with pytest.raises(InputError, match="tensor 'w': expected") as caught:
        stored("Q8_0", 7, 64).of_rows(index)
    print(caught.value)


def test_rows_keep_their_order_when_the_index_changes_later():
    index, tensor = np.array([5, 1]), stored("Q8_0", 7, 64)
    part = tensor.of_rows(index)
    with pytest.raises(InputError, match="expected rows 0 to 1, found 2"):
        part.of_rows([0, 2])
    index[:] = 3
    same_bits(part.read(), tensor.read()[[5, 1]])
    assert not part.order.flags.writeable


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_transposed_matrix_agrees_with_numpy(name):
    for parts in PARTS:
        tensor, plain = transposed(name, parts)
        assert (tensor.row_length, tensor.by_columns, tensor.permuted) == (50, True, parts in IN_AN_ORDER)
        check_rows(tensor, plain)
        same_bits(tensor.column(7), plain[:, 7])
        assert asdict(tensor_stats(tensor)) == pytest.approx(asdict(TensorStats.of(plain)), rel=1e-12)


def test_a_permuted_transposed_matrix_returns_to_the_order_of_the_file():
    (tensor, _), (in_file_order, plain) = transposed("F16", "an order"), transposed("F16")
    same_bits(tensor.in_file_order().read(), plain)
    assert tensor.in_order_of(transposed("F16", "an order")[0])
    assert not tensor.in_order_of(in_file_order)


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_a_transposed_matrix_is_not_copied(name):
    matrix = stored(name, 50, 37)
    tensor, size = matrix.transposed(), ENCODINGS[name].block_bytes
    part = tensor.of_rows(range(3, 20))
    assert (tensor.data.size, part.data.size) == (matrix.data.size, 17 * 50 * size)
    assert np.shares_memory(part.data, matrix.data)
    assert np.shares_memory(part.rows(2, 5), matrix.data) == (name == "F32")
    assert f"stored=<uint8 [37, 50, {size}]>" in repr(tensor)


@pytest.mark.parametrize("name", ONE_BY_ONE)
def test_reading_a_few_transposed_rows_decodes_only_their_elements(name):
    counts = []
    tensor = counting(transposed(name)[0], counts)
    tensor.rows(10, 13)
    tensor.take([30, 2])
    tensor.column(7)
    tensor.of_rows(permutation(37)).rows(0, 4)
    tensor.of_rows(range(3, 8)).read()
    assert counts == [3 * 50, 2 * 50, 37, 4 * 50, 5 * 50]


@pytest.mark.parametrize("parts", ["the whole", "a part"])
def test_reads_padded_rows_of_a_transposed_matrix(parts):
    tensor, plain = transposed("F16", parts, row_size=40)
    assert (tensor.stride, tensor.data.size) == (50, 2 * plain.size)
    same_bits(tensor.read(), plain)


def test_every_read_of_a_transposed_matrix_checks_the_file():
    def check():
        raise FileFormatError("shorter")

    tensor = replace(stored("F32", 4, 5), check=check).transposed().of_rows([2, 3])
    for use in (tensor.read, lambda: tensor.take([1]), lambda: tensor.column(0)):
        with pytest.raises(FileFormatError, match="shorter"):
            use()


NOT_MATRICES = {
    "a vector": lambda: stored("F32", 6),
    "three axes": lambda: stored("F32", 2, 3, 4),
    "a number": lambda: StoredTensor("w", ENCODINGS["F32"], (), np.zeros(4, np.uint8)),
    "transposed": lambda: stored("F32", 2, 3).transposed(),
    "in an order": lambda: stored("F32", 2, 3).of_rows([1, 0]),
    **{name: bind(stored, name, 2, 256) for name in ENCODINGS if name not in ONE_BY_ONE},
}


@pytest.mark.parametrize("what", NOT_MATRICES)
def test_rejects_tensors_that_cannot_be_transposed(what):
    with pytest.raises(InputError, match=r"tensor 'w': .*\[in, out\]") as caught:
        NOT_MATRICES[what]().transposed()
    print(caught.value)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (1, 5), (5, 1)])
def test_transposes_matrices_with_few_rows_or_none(shape):
    matrix = stored("F32", *shape)
    same_bits(matrix.transposed().read(), np.zeros(shape[::-1], np.float32) + matrix.read().T)
