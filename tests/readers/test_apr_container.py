"""The .apr container: golden files, encodings recognised by size, flags, checksums and order."""

import json
import struct

import numpy as np
import pytest
from support.apr_files import (
    METADATA,
    QUIET,
    apr_bytes,
    entry,
    f32,
    header,
    read,
    refusal,
    tiny_model,
)

from microgpt_trace.arrays.encodings import ENCODINGS
from microgpt_trace.readers.apr import read_apr, read_apr_header

GOLDEN = {"bias": f32([0.125]), "weights": f32([1, 2, 0.5, -0.5, 4, -2, 0.25, 8])}
GOLDEN_METADATA = {
    "model_type": "linear_regression", "name": "golden-v2", "license": None, "data_source": None,
    "data_license": None, "version": "0.0.0-golden", "created_at": "1700000000", "total_size": 0,
    "param_count": 8,
}  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.apr"


def stored(path, dtype, shape, content):
    """Write a file with one tensor, and return the tensor and the notes."""
    path.write_bytes(apr_bytes({}, {"t": (dtype, shape, content)}))
    file = read_apr_header(path)
    return file.tensors[0], file.notes


def header_refusal(path, content):
    path.write_bytes(content)
    return refusal(path, lambda: read_apr_header(path))


@pytest.mark.parametrize(("nulls", "size"), [(False, 516), (True, 1092)])
def test_our_writer_makes_files_of_the_golden_sizes(nulls, size, path):
    metadata = GOLDEN_METADATA | (dict.fromkeys(METADATA) if nulls else {})
    text = json.dumps(metadata, separators=(",", ":")).encode()
    text = text.ljust(715) if nulls else text  # the older one has 29 nulls, not all of them known
    path.write_bytes(apr_bytes(None, GOLDEN, text=text))
    file = read_apr_header(path)
    print(path.stat().st_size, size)
    assert path.stat().st_size == size
    arrays = {tensor.name: tensor.read().tolist() for tensor in file.tensors}
    assert arrays == {"bias": [0.125], "weights": [1, 2, 0.5, -0.5, 4, -2, 0.25, 8]}
    assert (file.notes, file.metadata) == ((), metadata)


def test_reads_unquantised_numbers(path):
    values = np.array([[1.5, -2, 3e4], [0, 1e-5, -0.125]], np.float32)
    assert np.array_equal(stored(path, *f32(values))[0].read(), values)
    half = values.astype(np.float16)
    assert np.array_equal(stored(path, 1, (2, 3), half.tobytes())[0].read(), half.astype(np.float32))
    upper = (values.view(np.uint32) >> 16).astype("<u2")
    expected = (upper.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(stored(path, 30, (2, 3), upper.tobytes())[0].read(), expected)


@pytest.mark.parametrize("dtype", [128, 8], ids=["AprQ4", "legacy"])
@pytest.mark.parametrize("shape", [(32,), (3, 32), (5, 7), (2, 20), (70,)], ids=str)
def test_apr_q4_has_even_elements_in_low_nibbles(dtype, shape, path):
    count = int(np.prod(shape))
    scales = [np.float16(x) for x in (0.5, -0.25, 3)][: -(-count // 32)]
    nibbles = np.random.default_rng(0).integers(0, 16, (len(scales), 32))
    packed = (nibbles[:, ::2] | nibbles[:, 1::2] << 4).astype(np.uint8)
    content = b"".join(scale.tobytes() + row.tobytes() for scale, row in zip(scales, packed, strict=True))
    expected = [(int(nibbles.flat[i]) - 8) * float(scales[i // 32]) for i in range(count)]
    tensor, notes = stored(path, dtype, shape, content)
    print(tensor.read().ravel()[:4], expected[:4])
    assert (tensor.encoding.name, notes) == ("AprQ4", ())
    assert tensor.read().ravel().tolist() == expected
    assert tensor.rows(1, 2).ravel().tolist() == expected[count // shape[0] :][: count // shape[0]]


def test_apr_q4_reads_impossible_scales_as_zero(path):
    for bits in (0x7E00, 0x7C00, 0xFC00, 0x0001, 0x83FF):
        tensor, _ = stored(path, 128, (32,), struct.pack("<H", bits) + bytes(range(16)))
        assert not tensor.read().any()


@pytest.mark.parametrize("dtype", [129, 9], ids=["AprQ8", "legacy"])
def test_apr_q8_has_one_scale(dtype, path):
    q = np.random.default_rng(1).integers(-128, 128, (5, 7)).astype(np.int8)
    tensor, notes = stored(path, dtype, (5, 7), struct.pack("<f", 0.37) + q.tobytes())
    expected = q.astype(np.float32) * np.float32(0.37)
    assert (tensor.encoding.name, notes) == ("AprQ8", ())
    assert np.array_equal(tensor.read(), expected)
    assert np.array_equal(tensor.rows(2, 4), expected[2:4])


GGML = {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K"}
GGML |= {12: "Q4_K", 13: "Q5_K", 14: "Q6_K"}


def ggml_blocks(name, count, seed=5):
    """Return random blocks with finite scales, as bytes and as the gguf package decodes them."""
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[name]
    size, width = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(seed).integers(0, 256, (count, width)).astype(np.uint8)
    for at in {"Q2_K": (81, 83), "Q3_K": (109,), "Q6_K": (209,)}.get(name, (1, 3)):
        blocks[:, at] &= 0x3B
    return blocks.tobytes(), gguf.quants.dequantize(blocks, kind).reshape(count, size)


@pytest.mark.parametrize(("dtype", "name"), GGML.items(), ids=GGML.values())
def test_recognises_types_of_ggml_by_their_size(dtype, name, path):
    content, expected = ggml_blocks(name, 6)
    shape = (3, 2 * expected.shape[1])
    tensor, notes = stored(path, dtype, shape, content)
    print(name, tensor.read()[0, :3], expected[0, :3])
    assert (tensor.encoding.name, notes) == (name, ())
    assert np.array_equal(tensor.read(), expected.reshape(shape), equal_nan=True)


@pytest.mark.parametrize("dtype", [12, 14], ids=["Q4_K", "Q6_K"])
def test_reads_rows_that_are_padded_to_whole_blocks_or_run_on(dtype, path):
    content, expected = ggml_blocks(GGML[dtype], 5 * 2)
    tensor, notes = stored(path, dtype, (5, 300), content)
    assert (tensor.row_size, notes) == (512, ())
    assert np.array_equal(tensor.read(), expected.reshape(5, 512)[:, :300])
    assert np.array_equal(tensor.rows(3, 5), expected.reshape(5, 512)[3:, :300])
    content, expected = ggml_blocks(GGML[dtype], 6)
    tensor, notes = stored(path, dtype, (5, 300), content)
    assert (tensor.row_size, notes) == (None, ())
    assert np.array_equal(tensor.read(), expected.ravel()[:1500].reshape(5, 300))


def test_notes_a_size_that_fits_several_encodings(path):
    content, expected = ggml_blocks("Q4_K", 2)
    tensor, notes = stored(path, 12, (2, 200), content)
    assert np.array_equal(tensor.read(), expected[:, :200])
    assert notes == ("tensor 't' is read as Q4_K in padded rows; its size also fits Q4_K",)
    tensor, notes = stored(path, 9, (32,), struct.pack("<f", 2) + bytes(range(32)))
    assert tensor.read().tolist() == [2 * i for i in range(32)]
    assert notes == ("tensor 't' is read as AprQ8; its size also fits Q8_1",)


def test_lists_the_supported_types(path):
    message = header_refusal(path, apr_bytes({}, {"t": (3, (64,), bytes(512))}))
    in_gguf_only = {"IQ4_NL", "IQ4_XS", "MXFP4"}
    assert set(message.partition("supported: ")[2].split(", ")) == set(ENCODINGS) - in_gguf_only


def test_rejects_an_empty_file_a_folder_and_a_missing_file(path):
    assert "the file is empty" in header_refusal(path, b"")
    assert "found a folder" in refusal(path.parent, lambda: read_apr(path.parent))
    gone = path.with_name("gone.apr")
    assert "no such file" in refusal(gone, lambda: read_apr(gone))


NOTED = [
    ({"magic": b"APR2"}, None),
    *(({"flags": flags}, None) for flags in (0, 0x20, 0x200, 0x400, 0x7E0)),  # these are not reliable
    ({"flags": 8}, "the file is signed; the signature was not verified"),
    ({"flags": 0x8000}, "flags 0x8000 are unknown and were ignored"),
    ({"flags": 1}, "the file is flagged as compressed, but it is not"),
    ({"flags": 2}, "the file is flagged as compressed, but it is not"),
    ({"version": (2, 7)}, "the file has version 2.7; it is read as version 2.0"),
    ({"checksum": 0}, "the header has no checksum"),
    ({"footer": 0}, "the file has no checksum at its end"),
]


@pytest.mark.parametrize(("fields", "note"), NOTED)
def test_notes_what_is_unusual_in_the_header(fields, note, path):
    file = read(path, **fields)
    assert file.config == read(path).config
    assert file.assumed == (*([note] if note else []), *QUIET)


def test_reads_a_model_in_one_shard(path):
    assert read(path, METADATA | {"sharding": {"shard_count": 1, "shard_index": 0}}).assumed == QUIET


def test_checksums_detect_every_change_and_a_file_cut_short(path):
    whole, rng = apr_bytes(METADATA, tiny_model()[0]), np.random.default_rng(0)
    for at in rng.integers(0, len(whole) - 4, 100):
        changed = bytes([whole[at] ^ int(rng.integers(1, 256))])
        assert header_refusal(path, whole[:at] + changed + whole[at + 1 :])
    for size in [*range(0, len(whole) - 37, 397), len(whole) - 37]:
        path.write_bytes(whole[:size])
        assert refusal(path, lambda: read_apr(path))
    for size in (len(whole) - 36, len(whole) - 5, len(whole) - 4):
        path.write_bytes(whole[:size])
        assert read_apr(path).assumed[0] == "the file has no checksum at its end"


def test_does_not_read_the_last_tensor_as_a_checksum(path):
    tensors = {"t": f32(np.arange(1, 17))}
    path.write_bytes(apr_bytes({}, tensors)[:-4])
    file = read_apr_header(path)
    assert file.tensors[0].read()[-1] == 16
    assert file.notes == ("the file has no checksum at its end",)


def test_reads_an_index_in_any_order(path):
    file = read(path, order=lambda names: sorted(names, reverse=True))
    assert file.assumed == ("the tensor index is not sorted by name", *QUIET)
    assert np.array_equal(file.tensors["wte"].read(), tiny_model()[1]["wte"])


def test_reads_data_in_another_order_than_the_index(path):
    index = entry("a", 0, (1,), 64, 4) + entry("b", 0, (1,), 0, 4)
    head = header(count=2, metadata=(64, 2), index=128, data=192, checksum=0)
    data = struct.pack("<f60xf", 2, 1)
    path.write_bytes(head + b"{}".ljust(64) + index.ljust(64, b"\0") + data)
    assert [tensor.read().tolist() for tensor in read_apr_header(path).tensors] == [[1], [2]]


def test_the_last_of_repeated_keys_counts(path):
    text = json.dumps(METADATA)[:-1] + ', "num_layers": null, "rope_theta": 500.0}'
    file = read(path, text=text.encode())
    assert file.config.rope.theta == 500
    assert file.assumed[1:] == ("num_layers 2, from the names of the tensors",)
