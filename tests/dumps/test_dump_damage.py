"""Files that are not dumps, dumps that are damaged while they are read, and archives that expand too much."""

import gc
import os
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from attacks.formats.dumps import NO_MODELS, aprt, npy
from attacks.formats.format import GONE
from support.aprt_folders import FINAL_NORM, reasons_of, write_raw_aprt
from support.dump_writing import numbers, refused, write_folder, write_npz, write_safetensors
from support.hostile import rejection

import microgpt_trace
from microgpt_trace.dumps.aprt import is_aprt, open_aprt
from microgpt_trace.dumps.formats import is_recording, open_recording
from microgpt_trace.dumps.stored_arrays import npz_arrays
from microgpt_trace.errors import FileFormatError

# --- Arrays -----------------------------------------------------------------------------------


def test_rejects_an_archive_that_expands_too_much(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, {"logits": np.zeros(20_000_000, np.float32)}, np.savez_compressed)
    refused(path, "logits", "80,000,128")


def test_rejects_an_archive_that_contains_an_array_twice(tmp_path):
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(1, 3)})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("logits.npy", "x")
    refused(path, "twice")


def test_closes_an_archive_when_its_arrays_are_gone(tmp_path, monkeypatch):
    """ZipFile.__del__ may run too late in a reference cycle, so the test switches it off."""
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(1, 3)})
    gc.freeze()  # ignore objects of earlier tests
    monkeypatch.setattr(zipfile.ZipFile, "__del__", lambda archive: None)
    arrays, _ = npz_arrays(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del arrays
        gc.collect()
    gc.unfreeze()
    assert caught == []


def test_rejects_an_array_that_was_damaged_after_its_archive_was_opened(tmp_path):
    # larger than the buffer of the open file
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(100, 300)})
    tensor = open_recording(path).tensors["logits"]
    content = bytearray(path.read_bytes())
    content[content.index(numbers(100, 300).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="logits"):
        tensor.read()


def test_reads_a_header_of_python_2(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 1L), }"
    (tmp_path / "x.npy").write_bytes(npy(header))
    assert open_recording(tmp_path / "x.npy").leftovers[0].recorded.shape == (3, 1)


# --- Files that are not dumps -----------------------------------------------------------------


def test_models_are_not_dumps(decoder_folder, emma, tmp_path):
    folder = decoder_folder("llama_gqa")
    microgpt_trace.save(emma, tmp_path / "run.safetensors")
    bare_weights = write_safetensors(tmp_path / "bare.safetensors", dict(emma.params.items()))
    weights = sorted(folder.glob("*.safetensors"))
    assert weights
    for path in (folder, *weights, tmp_path / "run.safetensors", bare_weights):
        assert not is_recording(path), path
    write_folder(folder, {"logits": numbers(1, 3)})
    assert not is_recording(folder)  # a model with dumps beside its weights


def test_other_files_and_missing_files_are_not_dumps(tmp_path):
    for content in NO_MODELS:
        (tmp_path / "x").write_bytes(content)
        assert not is_recording(tmp_path / "x")
        refused(tmp_path / "x")
    (tmp_path / "empty").mkdir()
    assert is_recording(tmp_path / "empty")  # but opening it fails
    refused(tmp_path / "empty", "config.json", ".npy", "APRT", "found an empty folder")
    assert not is_recording(tmp_path / "missing")
    refused(tmp_path / "missing", "no such file")


def test_names_a_subfolder_that_cannot_be_read(tmp_path, monkeypatch):
    write_folder(tmp_path / "d", {"logits": numbers(1, 3), "locked/x": numbers(1)})
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert is_recording(tmp_path / "d")
    refused(tmp_path / "d", "locked: cannot read it (Permission denied)")


# --- APRT -------------------------------------------------------------------------------------


def test_recognises_a_folder_of_aprt(tmp_path):
    assert is_aprt(aprt().damaged(tmp_path))
    assert is_aprt(write_raw_aprt(tmp_path / "bare", layer3__ffn_up=[1]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/weights.bin").write_bytes(b"GGUF")
    for name in ("other", "gone", "other/weights.bin"):
        assert not is_aprt(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for name in ("empty", "gone"):
        assert "found none" in rejection(tmp_path / name, open_aprt)


def test_reads_a_file_only_when_it_is_used(tmp_path):
    recorded = open_aprt(write_raw_aprt(tmp_path, final_norm=[1, 2])).tensors["final.norm"]
    (tmp_path / "final_norm.bin").write_bytes(bytes.fromhex(FINAL_NORM)[:16])
    with pytest.raises(FileFormatError, match="expected 2 elements, found 1"):
        recorded.read()
    (tmp_path / "final_norm.bin").unlink()
    with pytest.raises(FileFormatError, match="cannot read it"):
        recorded.read()


def test_a_manifest_may_lack_notes_and_files(tmp_path):
    folder = aprt().damaged(tmp_path, {"notes": GONE, "left_out": GONE})
    assert open_aprt(folder).notes == ()
    write_raw_aprt(folder, layer0__moe_router=[1])
    assert reasons_of(folder) == {"layer-0/moe_router.bin": "manifest.json does not list it"}
    changes = {"notes": ["a\nb"], "left_out": [{"name": "\x1b[31m", "reason": "c\nd"}]}
    notes = open_aprt(aprt().damaged(tmp_path, changes)).notes
    assert notes[0] == r"'a\nb'"
    assert all(note.isprintable() for note in notes)


def test_names_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    folder, opened = aprt().damaged(tmp_path), Path.open

    def guarded(path, *args, **kwargs):
        if path.name == "final_norm.bin":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", guarded)
    with pytest.raises(FileFormatError, match=r"final_norm\.bin: cannot read it \(Permission denied\)"):
        is_aprt(folder)
