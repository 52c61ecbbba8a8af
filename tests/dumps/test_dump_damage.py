"""What is no dump, and dumps that are damaged or made to harm: refused in one line."""

import gc
import os
import struct
import warnings
import zipfile

import numpy as np
import pytest
from support.dump_writing import (
    numbers,
    refused,
    write_compressed,
    write_folder,
    write_npz,
    write_safetensors,
)

import microgpt_trace
from microgpt_trace.dumps.formats import is_recording, open_recording
from microgpt_trace.dumps.stored_arrays import npz_arrays
from microgpt_trace.errors import FileFormatError

# --- Damaged arrays --------------------------------------------------------------------------


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


def npy_file(header):
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(12)


def test_a_header_of_python_2(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 1L), }"
    (tmp_path / "x.npy").write_bytes(npy_file(header))
    assert open_recording(tmp_path / "x.npy").leftovers[0].recorded.shape == (3, 1)


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


# --- Any damage ------------------------------------------------------------------------------
