"""APRT directories that are damaged, or whose files and manifest disagree: refused in one line."""

import json
import shutil
from pathlib import Path

import pytest
from support.aprt_folders import FINAL_NORM, bare, manifest_of, reasons_of
from support.tiny_models import TOKENS

from microgpt_trace import load, trace
from microgpt_trace.dumps.aprt import is_aprt, open_aprt
from microgpt_trace.dumps.aprt_writing import write_aprt
from microgpt_trace.errors import FileFormatError


@pytest.fixture(scope="module")
def dump(decoder_folder, tmp_path_factory):
    """A folder of dumps that tests copy before they damage it."""
    folder = tmp_path_factory.mktemp("dump") / "qwen2"
    write_aprt(trace(load(decoder_folder("qwen2")), tokens=TOKENS, values=True), folder)
    return folder


def refusal(folder, error=FileFormatError):
    with pytest.raises(error) as caught:
        open_aprt(folder)
    print(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


def edit_manifest(folder, **changes):
    (folder / "manifest.json").write_text(json.dumps(manifest_of(folder) | changes))


def test_is_aprt(dump, tmp_path):
    assert is_aprt(dump)
    assert is_aprt(bare(tmp_path / "bare", layer3__ffn_up=[1]))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/weights.bin").write_bytes(b"GGUF")
    for name in ("other", "gone", "other/weights.bin"):
        assert not is_aprt(tmp_path / name)


def test_nothing_is_read_before_it_is_wanted(tmp_path):
    recorded = open_aprt(bare(tmp_path, final_norm=[1, 2])).tensors["final.norm"]
    (tmp_path / "final_norm.bin").write_bytes(bytes.fromhex(FINAL_NORM)[:16])
    with pytest.raises(FileFormatError, match="expected 2 elements, found 1"):
        recorded.read()
    (tmp_path / "final_norm.bin").unlink()
    with pytest.raises(FileFormatError, match="cannot read it"):
        recorded.read()


def test_a_folder_that_is_wrong(tmp_path):
    assert "found none" in refusal(tmp_path)
    assert "found none" in refusal(tmp_path / "gone")
    bare(tmp_path, layer3__ffn_up=[1])
    (tmp_path / "layer-3").rename(tmp_path / "layer-4")
    assert "expected a header of layer 4, found that of layer 3" in refusal(tmp_path)
    (tmp_path / "layer-4").rename(tmp_path / "layer-x")
    assert "expected layer-0, layer-1 ..., found 'layer-x'" in refusal(tmp_path)
    shutil.rmtree(tmp_path / "layer-x")
    (tmp_path / "a.bin").mkdir()
    assert "expected a file of APRT" in refusal(tmp_path)


@pytest.fixture
def copy(dump, tmp_path):
    return shutil.copytree(dump, tmp_path / "copy")


def test_files_and_manifest_that_disagree(copy):
    bare(copy, layer0__moe_router=[1])
    assert reasons_of(copy) == {"layer-0/moe_router.bin": "manifest.json does not name it"}
    bare(copy, layer1__ffn_up=[1, 2])
    assert "manifest.json: layer-1/ffn_up.bin: shape: expected 2 elements" in refusal(copy)
    (copy / "layer-1/ffn_up.bin").unlink()
    assert "'layer-1/ffn_up.bin' is missing, which manifest.json names" in refusal(copy)


def test_a_manifest_that_says_nothing_of_what_was_left_out(copy):
    kept = {key: value for key, value in manifest_of(copy).items() if key not in ("notes", "left_out")}
    (copy / "manifest.json").write_text(json.dumps(kept))
    assert open_aprt(copy).notes == ()


def test_what_a_manifest_says_stays_on_one_line(copy):
    edit_manifest(copy, notes=["a\nb"], left_out=[{"name": "\x1b[31m", "reason": "c\nd"}])
    assert all(note.isprintable() for note in open_aprt(copy).notes)
    assert open_aprt(copy).notes[0] == r"'a\nb'"


def test_a_file_that_cannot_be_read_is_named(copy, monkeypatch):
    opened = Path.open

    def guarded(path, *args, **kwargs):
        if path.name == "final_norm.bin":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", guarded)
    with pytest.raises(FileFormatError, match=r"final_norm\.bin: cannot read it \(Permission denied\)"):
        is_aprt(copy)
