"""What is no dump, and dumps that are damaged or made to harm: refused in one line."""

import gc
import json
import os
import struct
import time
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dump_writing import (
    WRITERS,
    numbers,
    refused,
    write_compressed,
    write_folder,
    write_npz,
    write_safetensors,
)
from support.hostile import fuzzing

import microgpt_trace
from microgpt_trace.dumps.formats import is_recording, open_recording
from microgpt_trace.dumps.stored_arrays import npz_arrays
from microgpt_trace.errors import FileFormatError, MicrogptError

# --- Damaged arrays --------------------------------------------------------------------------


@pytest.mark.parametrize("array", [np.array([{}, 1], object), np.array([(1, 2.0)], "i4,O")])
def test_python_objects_are_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    refused(tmp_path / "x.npy", "Python objects")
    np.savez(tmp_path / "x.npz", x=array)
    refused(tmp_path / "x.npz", "Python objects")


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    path = write_compressed(tmp_path / "a.npz", {"logits": np.zeros(20_000_000, np.float32)})
    refused(path, "logits", "80,000,128")


def test_an_archive_with_an_array_twice_is_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(1, 3)})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("logits.npy", "x")
    refused(path, "twice")


def test_an_archive_that_nobody_has_any_more_is_closed(tmp_path, monkeypatch):
    """Whether or not it comes to that by itself, which in a circle it may be too late for."""
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(1, 3)})
    monkeypatch.setattr(zipfile.ZipFile, "__del__", lambda archive: None)
    arrays, _ = npz_arrays(path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        del arrays
        gc.collect()
    assert said == []


def test_an_archive_whose_array_is_spoiled_is_refused_when_it_is_read(tmp_path):
    # more than what is kept of the file in memory
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(100, 300)})
    tensor = open_recording(path).tensors["logits"]
    content = bytearray(path.read_bytes())
    content[content.index(numbers(100, 300).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="logits"):
        tensor.read()


@pytest.mark.parametrize("more", [b"x", b"x" * 48])
def test_an_npy_file_with_more_behind_its_array_is_refused(tmp_path, more):
    np.save(tmp_path / "logits.npy", numbers(3, 4))
    with (tmp_path / "logits.npy").open("ab") as file:
        file.write(more)
    refused(tmp_path / "logits.npy", "takes 176 bytes", f"found {176 + len(more)}")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000, 1000000000000000000)}",
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**150}, {10**150})}}",
        "{'descr': '<f9', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': [('a', ('b',))], 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '<f4', 'shape': (3,)}",
        "[" * 300,
        "print(1)",
        "\0",
    ],
)
def test_npy_headers_that_are_wrong(tmp_path, header):
    text = header.encode().ljust(400) + b"\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + bytes(12))
    refused(tmp_path / "x.npy")


def npy_file(header):
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(12)


@pytest.mark.parametrize("header", [b" " * 9000 + b"\0", b"{" + b" " * 60_000 + b"}"], ids=["NUL", "long"])
def test_a_header_takes_no_time(tmp_path, header):
    """NumPy's own reader looks for Python 2 in it, for 15 s."""
    began = time.perf_counter()
    (tmp_path / "x.npy").write_bytes(npy_file(header))
    refused(tmp_path / "x.npy", "expected a .npy array")
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", npy_file(header))
    refused(tmp_path / "x.npz", "expected a .npy array")
    assert time.perf_counter() - began < 2


def test_a_header_of_python_2(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 1L), }"
    (tmp_path / "x.npy").write_bytes(npy_file(header))
    assert open_recording(tmp_path / "x.npy").leftovers[0].recorded.shape == (3, 1)


@pytest.mark.parametrize("write", [write_npz, write_safetensors])
def test_a_name_that_no_tensor_has(tmp_path, write):
    """Names are held to all events, and to each other."""
    path = write(tmp_path / "x.npz", {"1." * 20_000: numbers(1, 3)})
    refused(path, "a name of 40,000 characters; at most 512")


# --- What is no recording --------------------------------------------------------------------


def test_models_are_no_recordings(decoder_folder, emma, tmp_path):
    folder = decoder_folder("llama_gqa")
    microgpt_trace.save(emma, tmp_path / "run.safetensors")
    bare = write_safetensors(tmp_path / "bare.safetensors", dict(emma.params.items()))
    weights = sorted(folder.glob("*.safetensors"))
    assert weights
    for path in (folder, *weights, tmp_path / "run.safetensors", bare):
        assert not is_recording(path), path


def test_a_model_folder_with_dumps_beside_its_weights_is_a_model(tmp_path):
    write_folder(tmp_path, {"logits": numbers(1, 3)})
    (tmp_path / "config.json").write_text("{}")
    assert not is_recording(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"GGUF\3\0\0\0", b"APR\0", b"{}", b'{"schema": "other/1"}', b"x" * 9, b"\x10\0\0\0\0\0\0\0{}"],
)
def test_other_files_are_no_recordings(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert not is_recording(tmp_path / "x")
    refused(tmp_path / "x")


def test_nothing_and_folders_of_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    assert is_recording(tmp_path / "empty")  # which opening it denies
    assert not is_recording(tmp_path / "missing")
    refused(tmp_path / "empty", "config.json", ".npy", "APRT", "found an empty folder")
    (tmp_path / "empty" / "a\nb").touch()
    refused(tmp_path / "empty", "config.json", ".npy", "APRT", r"found a folder of 'a\nb'")
    refused(tmp_path / "missing", "nothing")
    (tmp_path / "cut.npy").write_bytes(b"")
    refused(tmp_path / "cut.npy", "empty file")


def test_a_subfolder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    write_folder(tmp_path / "d", {"logits": numbers(1, 3), "locked/x": numbers(1)})
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert is_recording(tmp_path / "d")
    refused(tmp_path / "d", "locked: cannot read it (Permission denied)")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path):
    write_folder(tmp_path / "d", {"logits": numbers(1, 3)})
    os.mkfifo(tmp_path / "d" / "x.npy")
    os.mkfifo(tmp_path / "y.npy")
    assert not is_recording(tmp_path / "y.npy")
    refused(tmp_path / "d", "x.npy: expected a .npy file, found a pipe")
    refused(tmp_path / "y.npy", "found a pipe")


def test_a_link_to_nothing_is_named(tmp_path):
    write_folder(tmp_path / "d", {"logits": numbers(1, 3)})
    try:
        (tmp_path / "d" / "x.npy").symlink_to("nowhere")
    except OSError:
        pytest.skip("no links here")
    refused(tmp_path / "d", "x.npy: no such file")


# --- Any damage ------------------------------------------------------------------------------


def _small(kind, base):
    arrays = {"layer0.attn.q": numbers(2, 4), "ids": np.arange(2), "Qcur-0": numbers(2, 4, dtype=np.float16)}
    if kind == "npy":
        np.save(base / "logits.npy", numbers(2, 4))
        return base / "logits.npy"
    if kind == "saved":
        metadata = {"format": "microgpt.arrays/1", "tokens": "[1, 2]", "positions": "[0, 1]"}
        return write_safetensors(base / "s.safetensors", {"logits": numbers(2, 4)}, metadata)
    if kind == "document":
        (base / "a.json").write_text(json.dumps(DOCUMENT))
        return base / "a.json"
    return WRITERS[kind](base, arrays)


STATISTICS = {"count": 2, "mean": 1.5, "std": 0, "l2_norm": 1.5, "min": 1.5, "max": 1.5, "max_abs": 1.5}


DOCUMENT = {
    "schema": "microgpt.trace/1",
    "input": {"tokens": [1, 2]},
    "events": [
        {
            **{"seq": 0, "phase": "forward", "stage": "head", "layer": None, "name": "logits", "expr": "x"},
            **{"shape": [1, 2], "dtype": "float32", "values": [[1.5, "NaN"]]},
            "stats": STATISTICS | {"zero_count": 0, "nan_count": 1, "inf_count": 0},
        }
    ],
    "predictions": [{"position": 0}, {"position": 1}],
}


def test_the_document_that_is_damaged_below_is_one(tmp_path):
    assert list(open_recording(_small("document", tmp_path)).tensors) == ["logits"]


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed", "safetensors", "saved", "document"])
@fuzzing
@given(data=st.data())
def test_damaged_files_open_or_say_why_in_one_line(tmp_path, kind, data):
    path = _small(kind, tmp_path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    kept = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    path.write_bytes(content[:kept])
    message = ""
    try:
        is_recording(path)
        recording = open_recording(path)
        for tensor in [*recording.tensors.values(), *(leftover.recorded for leftover in recording.leftovers)]:
            assert tensor.read().shape == tensor.shape
    except MicrogptError as error:
        message = str(error)
    assert message.isprintable(), message
    assert len(message) < 1000
