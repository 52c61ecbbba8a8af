"""The .apr container: golden files, encodings told apart by size, flags, checksums and order."""

import json
import struct
import zlib

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
    refused,
    refuses,
    refuses_bytes,
    tiny_model,
)

from microgpt_trace.arrays.encodings import ENCODINGS
from microgpt_trace.readers.apr import is_apr, read_apr, read_apr_header

GOLDEN = {
    "bias": f32([0.125]),
    "weights": f32([1, 2, 0.5, -0.5, 4, -2, 0.25, 8]),
}
GOLDEN_METADATA = {
    "model_type": "linear_regression",
    "name": "golden-v2",
    "license": None,
    "data_source": None,
    "data_license": None,
    "version": "0.0.0-golden",
    "created_at": "1700000000",
    "total_size": 0,
    "param_count": 8,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.apr"


def stored(path, dtype, shape, content):
    """The one tensor of a file."""
    path.write_bytes(apr_bytes({}, {"t": (dtype, shape, content)}))
    file = read_apr_header(path)
    return file.tensors[0], file.notes


@pytest.mark.parametrize(("nulls", "size"), [(0, 516), (1, 1092)])
def test_the_writer_gives_the_sizes_of_the_golden_files(nulls, size, path):
    names = (
        "description author license data_source source original_format quantization sharding chat_template"
    )
    names += (
        " chat_format special_tokens architecture hidden_size num_layers num_heads num_kv_heads vocab_size"
    )
    names += " intermediate_size max_position_embeddings rope_theta rope_type rms_norm_eps"
    metadata = GOLDEN_METADATA | (dict.fromkeys(names.split()) if nulls else {})
    text = json.dumps(metadata, separators=(",", ":")).encode()
    text = text.ljust(715) if nulls else text  # the older one has 29 nulls, not all of them known
    path.write_bytes(apr_bytes(None, GOLDEN, text=text))
    file = read_apr_header(path)
    print(path.stat().st_size, size)
    assert path.stat().st_size == size
    assert {tensor.name: tensor.read().tolist() for tensor in file.tensors} == {
        "bias": [0.125],
        "weights": [1, 2, 0.5, -0.5, 4, -2, 0.25, 8],
    }
    assert file.notes == ()
    assert file.metadata == metadata


def test_the_checksum_is_the_usual_one():
    assert zlib.crc32(b"123456789") == 0xCBF43926


def test_files_are_known_by_their_first_bytes():
    assert [is_apr(head) for head in (b"APR\0\2\0", b"APR2", b"APR1", b"APRN")] == [True] * 4
    assert [is_apr(head) for head in (b"", b"APR", b"APRT", b"GGUF")] == [False] * 4


def test_plain_numbers_are_read(path):
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
    rng = np.random.default_rng(0)
    count = int(np.prod(shape))
    scales = [np.float16(x) for x in (0.5, -0.25, 3)][: -(-count // 32)]
    nibbles = rng.integers(0, 16, 32 * len(scales))
    content = b""
    for block, scale in enumerate(scales):
        own = nibbles[32 * block : 32 * block + 32]
        packed = [own[2 * i] | own[2 * i + 1] << 4 for i in range(16)]
        content += scale.tobytes() + bytes(packed)
    expected = [(int(nibbles[i]) - 8) * float(scales[i // 32]) for i in range(count)]
    tensor, notes = stored(path, dtype, shape, content)
    print(tensor.read().ravel()[:4], expected[:4])
    assert (tensor.encoding.name, notes) == ("AprQ4", ())
    assert tensor.read().ravel().tolist() == expected
    assert tensor.rows(1, 2).ravel().tolist() == expected[count // shape[0] :][: count // shape[0]]


@pytest.mark.parametrize("bits", [0x7E00, 0x7C00, 0xFC00, 0x0001, 0x83FF], ids=hex)
def test_apr_q4_takes_impossible_scales_as_zero(bits, path):
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


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_scale_that_is_no_number_is_refused(scale, path):
    content = apr_bytes({}, {"t": (129, (3,), struct.pack("<f", scale) + bytes(3))})
    assert "tensor 't': the scale is" in refuses_bytes(path, content)


GGML = {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K"}
GGML |= {12: "Q4_K", 13: "Q5_K", 14: "Q6_K"}


def ggml_blocks(name, count, seed=5):
    """Random blocks whose scales are finite, as bytes and as another program decodes them."""
    gguf = pytest.importorskip("gguf")
    kind = gguf.GGMLQuantizationType[name]
    size, width = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(seed).integers(0, 256, (count, width)).astype(np.uint8)
    for at in {"Q2_K": (81, 83), "Q3_K": (109,), "Q6_K": (209,)}.get(name, (1, 3)):
        blocks[:, at] &= 0x3B
    return blocks.tobytes(), gguf.quants.dequantize(blocks, kind).reshape(count, size)


@pytest.mark.parametrize(("dtype", "name"), GGML.items(), ids=GGML.values())
def test_types_of_ggml_are_read_by_their_size(dtype, name, path):
    content, expected = ggml_blocks(name, 6)
    shape = (3, 2 * expected.shape[1])
    tensor, notes = stored(path, dtype, shape, content)
    print(name, tensor.read()[0, :3], expected[0, :3])
    assert (tensor.encoding.name, notes) == (name, ())
    assert np.array_equal(tensor.read(), expected.reshape(shape), equal_nan=True)


@pytest.mark.parametrize("dtype", [12, 14], ids=["Q4_K", "Q6_K"])
def test_rows_may_be_padded_to_whole_blocks(dtype, path):
    content, expected = ggml_blocks(GGML[dtype], 5 * 2)
    tensor, notes = stored(path, dtype, (5, 300), content)
    assert (tensor.row_size, notes) == (512, ())
    assert np.array_equal(tensor.read(), expected.reshape(5, 512)[:, :300])
    assert np.array_equal(tensor.rows(3, 5), expected.reshape(5, 512)[3:, :300])


def test_rows_may_run_on_without_padding(path):
    content, expected = ggml_blocks("Q4_K", 6)
    tensor, notes = stored(path, 12, (5, 300), content)
    assert (tensor.row_size, notes) == (None, ())
    assert np.array_equal(tensor.read(), expected.ravel()[:1500].reshape(5, 300))


def test_a_size_that_leaves_it_open_is_noted(path):
    content, expected = ggml_blocks("Q4_K", 2)
    tensor, notes = stored(path, 12, (2, 200), content)
    assert np.array_equal(tensor.read(), expected[:, :200])
    assert notes == ("tensor 't' is taken as Q4_K in padded rows; by its size it could be Q4_K",)
    tensor, notes = stored(path, 9, (32,), struct.pack("<f", 2) + bytes(range(32)))
    assert tensor.read().tolist() == [2 * i for i in range(32)]
    assert notes == ("tensor 't' is taken as AprQ8; by its size it could be Q8_1",)


UNREAD = {"F64": (3, 8), "I32": (4, 4), "I64": (5, 8), "I8": (6, 1), "U8": (7, 1)}


@pytest.mark.parametrize(("name", "how"), UNREAD.items(), ids=UNREAD)
def test_types_that_are_not_read_are_named(name, how, path):
    dtype, width = how
    message = refuses_bytes(path, apr_bytes({}, {"t": (dtype, (64,), bytes(64 * width))}))
    assert f"tensor 't' is stored as {name}, which is not read" in message
    assert set(message.partition("these are: ")[2].split(", ")) == set(ENCODINGS)


def test_unknown_types_and_wrong_sizes_are_refused(path):
    assert "dtype 77" in refuses_bytes(path, apr_bytes({}, {"t": (77, (4,), bytes(16))}))
    message = refuses_bytes(path, apr_bytes({}, {"t": (12, (2, 300), bytes(288))}))
    assert "expected 576 (Q4_K) or 432 (Q4_K) bytes, found 288" in message


def test_old_and_foreign_files_are_refused(path):
    assert "version 1 (APR1)" in refuses_bytes(path, b"APR1" + bytes(100))
    assert "version 1 (APRN)" in refuses_bytes(path, b"APRN")
    assert "one tensor that apr trace saved" in refuses_bytes(path, b"APRT" + bytes(20))
    assert "found b'GGUF'" in refuses_bytes(path, b"GGUF" + bytes(100))
    assert "the file is empty" in refuses_bytes(path, b"")
    assert "cut short" in refuses_bytes(path, b"APR\0" + bytes(20))
    assert "found 3.1" in refuses_bytes(path, apr_bytes({}, {}, version=(3, 1)))
    assert "found a folder" in refused(path.parent, lambda: read_apr(path.parent))
    gone = path.with_name("gone.apr")
    assert "no such file" in refused(gone, lambda: read_apr(gone))


def test_the_other_magic_is_accepted(path):
    assert read(path, magic=b"APR2").config == read(path).config


@pytest.mark.parametrize(("flag", "word"), [(0x4, "encrypted"), (0x800, "column-major"), (0x10, "shard")])
def test_flags_that_forbid_reading(flag, word, path):
    assert word in refuses(path, flags=flag | 0x400)


def test_a_shard_is_known_by_its_metadata_too(path):
    sharding = {"shard_count": 3, "shard_index": 0, "total_size": 9, "pattern": "model-{}"}
    assert "one shard of 3" in refuses(path, METADATA | {"sharding": sharding})
    assert read(path, METADATA | {"sharding": sharding | {"shard_count": 1}}).notes == QUIET


@pytest.mark.parametrize("flags", [0, 0x20, 0x200, 0x400, 0x400 | 0x20 | 0x200 | 0x100 | 0x80 | 0x40])
def test_flags_that_say_nothing_reliable_are_not_relied_upon(flags, path):
    assert read(path, flags=flags).notes == QUIET


def test_flags_that_deserve_a_note(path):
    assert read(path, flags=8).notes[0] == "the file is signed; the signature was not verified"
    assert read(path, flags=0x8000).notes[0] == "flags 0x8000 are unknown and were not heeded"
    assert read(path, version=(2, 7)).notes[0] == "the file says version 2.7; it is read as 2.0"


@pytest.mark.parametrize(("flag", "kind"), [(1, "LZ4"), (2, "Zstd")])
def test_a_compressed_file_is_refused_but_not_one_that_only_says_so(flag, kind, path):
    assert read(path, flags=flag).notes[0] == "the file is flagged as compressed, but is not"
    assert f"needs {kind}" in refuses(path, flags=flag, text=b"\x04\x22\x4d\x18 blob")
    assert f"needs {kind}" in refuses_bytes(
        path, header(flags=flag, count=3, metadata=(64, 999), index=9999, data=99999) + b"blob"
    )


def test_missing_checksums_are_noted_and_wrong_ones_refused(path):
    assert read(path, checksum=0).notes[0] == "the header has no checksum"
    assert read(path, footer=0).notes[0] == "the file has no checksum at its end"
    assert "the header's checksum says 0x00000001" in refuses(path, checksum=1)
    assert "the file's checksum says 0x00000001" in refuses(path, footer=1)
    whole = apr_bytes(METADATA, tiny_model()[0])
    path.write_bytes(whole[:-4])
    assert read_apr(path).notes[0] == "the file has no checksum at its end"


def test_a_last_tensor_at_the_very_end_is_no_checksum(path):
    tensors = {"t": f32(np.arange(1, 17))}
    path.write_bytes(apr_bytes({}, tensors)[:-4])
    file = read_apr_header(path)
    assert file.tensors[0].read()[-1] == 16
    assert file.notes == ("the file has no checksum at its end",)


def test_the_index_may_be_in_any_order(path):
    file = read(path, order=lambda names: sorted(names, reverse=True))
    assert file.notes == ("the tensor index is not sorted by name", *QUIET)
    assert np.array_equal(file.tensors["wte"].read(), tiny_model()[1]["wte"])


def test_data_may_be_in_another_order_than_the_index(path):
    index = entry("a", 0, (1,), 64, 4) + entry("b", 0, (1,), 0, 4)
    head = header(count=2, metadata=(64, 2), index=128, data=192, checksum=0)
    data = struct.pack("<f60xf", 2, 1)
    path.write_bytes(head + b"{}".ljust(64) + index.ljust(64, b"\0") + data)
    assert [tensor.read().tolist() for tensor in read_apr_header(path).tensors] == [[1], [2]]


def test_of_keys_that_are_there_twice_the_last_one_counts(path):
    text = json.dumps(METADATA)[:-1] + ', "num_layers": null, "rope_theta": 500.0}'
    file = read(path, text=text.encode())
    assert file.config.rope.theta == 500
    assert file.notes[1:] == ("num_layers 2, from the numbering of the tensors",)


DEEP = b"[" * 100_000


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"3", b'{"a": \xff}', DEEP, b'{"a":' + DEEP, b"9" * 9999])
def test_metadata_that_are_no_object_are_refused(text, path):
    assert "the metadata" in refuses(path, text=text)
