"""Safetensors files and their index: read as the safetensors package reads them, or refused in one line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hostile import fuzzing, json_values, refuses, survives
from support.tiny_models import tiny_model, write_folder

from microgpt_trace.errors import FileFormatError
from microgpt_trace.readers.safetensors import read_safetensors


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", *tiny_model("llama_gqa"))


@pytest.fixture
def whole(folder):
    return (folder / "model.safetensors").read_bytes()


def packed(header, data=bytes(16)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def one(**changes):
    return {"t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}


HOSTILE = {
    "empty": (b"", "the file is empty"),
    "seven bytes": (bytes(7), "found a header past its end"),
    "header of 2^63": ((2**63).to_bytes(8, "little") + b"{}", "found a header past its end"),
    "header by one": ((3).to_bytes(8, "little") + b"{}", "found a header past its end"),
    "no JSON": (packed(b"{"), "expected the header of a safetensors file (Expecting property name"),
    "a list": (packed([1]), "expected the header of a safetensors file, found [1]"),
    "UTF-16": (packed('{"t":1}'.encode("utf-16")), "expected the header of a safetensors file ('utf-8'"),
    "deep": (packed(b"[" * 10**5), "values nested more than 64 deep"),
    "a name twice": (packed(b'{"t":1,"t":2}'), "'t' is there twice"),
    "entry of a number": (packed({"t": 1}), "tensor 't': expected two data_offsets, found None"),
    "three offsets": (packed(one(data_offsets=[0, 8, 16])), "two data_offsets, found [0, 8, 16]"),
    "one offset": (packed(one(data_offsets=[0])), "two data_offsets, found [0]"),
    "negative offset": (packed(one(data_offsets=[-16, 0])), "two data_offsets, found [-16, 0]"),
    "true offset": (packed(one(data_offsets=[True, 16])), "two data_offsets, found [True, 16]"),
    "real offset": (packed(one(data_offsets=[0, 16.0])), "two data_offsets, found [0, 16.0]"),
    "huge offset": (packed(one(data_offsets=[0, 10**60])), "two data_offsets, found [0, 1000"),
    "offsets swapped": (packed(one(data_offsets=[16, 0])), "tensor 't' lies at 16 to 0"),
    "backwards": (
        packed(one() | {"u": {"dtype": "F32", "shape": [0], "data_offsets": [16, 8]}}),
        "tensor 'u' lies at 16 to 8",
    ),
    "past the end": (
        packed(one(shape=[5], data_offsets=[0, 20])),
        "ends at 20 of 16 bytes: the file is cut short",
    ),
    "a hole": (packed(one(shape=[3], data_offsets=[4, 16])), "lies at 4 to 16; expected a start at 0"),
    "bytes at the end": (
        packed(one(shape=[3], data_offsets=[0, 12])),
        "4 bytes at the end belong to no tensor",
    ),
    "overlap": (
        packed(one() | {"u": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}}),
        "tensor 'u' lies at 8 to 16; expected a start at 16",
    ),
    "shape": (packed(one(shape=[5])), "tensor 't': F32 of shape [5] does not take 16 bytes"),
    "product": (packed(one(shape=[2**62] * 8)), "does not take 16 bytes"),
    "many dims": (packed(one(shape=[4, *[1] * 99])), "does not take 16 bytes"),
    "shape of a text": (packed(one(shape="4")), "shape '4' does not take"),
    "shape of true": (packed(one(shape=[True, 4])), "shape [True, 4] does not take"),
    "no shape": (packed({"t": {"dtype": "F32", "data_offsets": [0, 16]}}), "shape None does not take"),
    "dtype": (packed(one(dtype="F16")), "F16 of shape [4] does not take 16 bytes"),
    "F64": (
        packed(one(dtype="F64", shape=[2])),
        "'t' has type 'F64', which is not supported; these are: F32",
    ),
    "F8": (packed(one(dtype="F8_E4M3", shape=[16])), "'t' has type 'F8_E4M3', which is not supported"),
    "dtype of a list": (packed(one(dtype=["F32"])), "'t' has type ['F32'], which is not supported"),
    "control characters": (packed({"a\nb\x1b": one(dtype="I8")["t"]}), r"tensor 'a\nb\x1b' has type 'I8'"),
}


@pytest.mark.parametrize(("content", "word"), HOSTILE.values(), ids=HOSTILE)
def test_headers_that_lie(content, word, folder):
    (folder / "model.safetensors").write_bytes(content)
    assert word in survives(folder)


def judged(path):
    """What the safetensors package reads, None where it refuses."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        return None


def found(path):
    try:
        return {tensor.name: list(tensor.shape) for tensor in read_safetensors(path)}
    except FileFormatError:
        return None


small = st.integers(0, 24)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16"]),
        "shape": st.lists(st.integers(0, 4), max_size=3),
        "data_offsets": st.lists(small | st.integers(0, 2**64), min_size=2, max_size=2),
    }
)


@fuzzing
@given(st.dictionaries(st.sampled_from("abc"), entries, max_size=2), small)
def test_what_the_safetensors_package_refuses_is_refused(tmp_path, header, size):
    """And what it reads is read."""
    path = tmp_path / "any.safetensors"
    path.write_bytes(packed(header, bytes(size)))
    assert found(path) == judged(path)


@fuzzing
@given(st.data())
def test_a_right_file_with_some_bytes_changed(folder, whole, data):
    path = folder / "model.safetensors"
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    survives(folder)


def test_a_file_cut_short_anywhere_is_refused(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 499), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert survives(folder), size


# --- Shards and their index -------------------------------------------------------------------


@pytest.fixture
def sharded(tmp_path):
    return write_folder(tmp_path, *tiny_model("llama_gqa"), shards=3)


def shard(number):
    return f"model-{number:05}-of-00003.safetensors"


def reindex(folder, change):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps(change(index["weight_map"]) or index))
    return folder


PLACES = [
    "../model.safetensors",
    "/model.safetensors",
    "a/b.safetensors",
    "",
    ".",
    "x.bin",
    "a\nb.safetensors",
    "config.json",
]


@pytest.mark.parametrize("place", PLACES)
def test_an_index_that_names_what_is_no_file_of_the_folder(place, sharded):
    message = refuses(reindex(sharded, lambda placed: placed.update({"lm_head.weight": place})))
    assert f"{place!r} is not a safetensors file of this folder" in message


@pytest.mark.parametrize("place", ["none.safetensors", "n" * 300 + ".safetensors"])
def test_an_index_that_names_a_missing_shard(place, sharded):
    message = refuses(reindex(sharded, lambda placed: placed.update({"lm_head.weight": place})))
    assert message.startswith(f"{sharded / place}: ")


def test_a_missing_shard(sharded):
    (sharded / shard(2)).unlink()
    assert f"{shard(2)}: no such file" in refuses(sharded)


def test_a_tensor_in_two_shards(sharded):
    (sharded / shard(2)).write_bytes((sharded / shard(1)).read_bytes())
    assert f"of {shard(2)} is not placed there" in refuses(sharded)


def test_shards_in_a_circle(sharded):
    (sharded / shard(2)).unlink()
    (sharded / shard(2)).symlink_to(shard(2))
    assert shard(2) in refuses(sharded)


def test_a_tensor_of_the_index_that_is_nowhere(sharded):
    message = refuses(reindex(sharded, lambda placed: placed.update(more=shard(3))))
    assert f"{shard(3)}: tensor 'more' of the index is not there" in message


def test_a_tensor_that_the_index_does_not_know(sharded):
    message = refuses(reindex(sharded, lambda placed: placed.pop("lm_head.weight") and None))
    assert "tensor 'lm_head.weight' of" in message


def test_a_tensor_that_is_in_another_shard_than_the_index_says(sharded):
    assert "is not placed there" in refuses(
        reindex(sharded, lambda placed: placed.update({"lm_head.weight": shard(1)}))
    )


@pytest.mark.parametrize("index", [{}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": None}])
def test_an_index_without_a_map(index, sharded):
    assert "expected a weight_map from tensors to files" in refuses(
        reindex(sharded, lambda placed: index or {"x": 1})
    )


@fuzzing
@given(json_values)
def test_any_index(sharded, value):
    for index in (value, {"weight_map": value}, {"weight_map": {"lm_head.weight": value}}):
        (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
        assert survives(sharded)


def test_a_folder_without_weights_says_what_it_holds(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refuses(folder)
    assert (
        "expected model.safetensors or model.safetensors.index.json, found 'config.json', 'pytorch_model.bin'"
        in message
    )
