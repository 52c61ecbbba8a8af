"""APRT directories that are damaged, or whose files and manifest disagree: refused in one line."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from support.aprt_folders import FINAL_NORM, bare, manifest_of, reasons_of
from support.tiny_models import TOKENS

from microgpt_trace import load, trace
from microgpt_trace.dumps.aprt import is_aprt, open_aprt
from microgpt_trace.dumps.aprt_writing import write_aprt
from microgpt_trace.dumps.layouts import LAST
from microgpt_trace.dumps.recorded import OWN
from microgpt_trace.errors import FileFormatError, MicrogptError


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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected APRT and a header of 12 bytes, found b''"),
        ("41505254 ffffffff 0200", "expected APRT and a header of 12 bytes"),
        ("41505300 ffffffff 00000000", "expected APRT and a header of 12 bytes, found b'APS"),
        (FINAL_NORM[:-2], "expected 20 bytes for 2 elements, found 19"),
        (FINAL_NORM + "00", "expected 20 bytes for 2 elements, found 21"),
        ("41505254 ffffffff ffffffff 00", "expected 17,179,869,192 bytes for 4,294,967,295 elements"),
        ("41505254 03000000 00000000", "expected a header of the whole model, found that of layer 3"),
    ],
)
def test_a_file_that_is_wrong(tmp_path, content, message):
    (tmp_path / "final_norm.bin").write_bytes(bytes.fromhex(content))
    assert message in refusal(tmp_path)


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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("file", "../dump/x.bin"), ("file", 3), ("stage", "ffn_gate"), ("layer", 1), ("events", ["logits"]),
        ("events", []), ("events", "embed.tok"), ("shape", [7, 31]), ("shape", [-7, -32]), ("shape", None),
        ("shape", [7.0, 32]), ("positions", [6]), ("dtype", "float64"),
    ],
)  # fmt: skip
def test_an_entry_that_is_wrong(copy, key, value):
    files = manifest_of(copy)["files"]
    edit_manifest(copy, files=[files[0] | {key: value}, *files[1:]])
    assert "manifest" in refusal(copy)


def test_an_event_that_two_files_claim(copy):
    shutil.copy(copy / "layer-1/post_ffn_residual.bin", copy / "layer-1/layer_output.bin")
    files = manifest_of(copy)["files"]
    twin = next(entry for entry in files if entry["file"] == "layer-1/post_ffn_residual.bin")
    alias = {"file": "layer-1/layer_output.bin", "stage": "layer_output"}
    edit_manifest(copy, files=[*files, twin | alias])
    assert "layer1.mlp.residual is in layer-1/post_ffn_residual.bin and in layer-1/" in refusal(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": None}, "tokens: expected whole numbers, found None"),
        ({"tokens": [1, -1]}, "tokens: expected whole numbers, found [1, -1]"),
        ({"tokens": [1, 2]}, "lm_head.bin: positions: expected [1], found [6]"),
        ({"files": {}}, "files: expected a list"),
        ({"notes": "x"}, "notes: expected a list of sentences, found 'x'"),
        ({"notes": [1]}, "notes: expected a list of sentences, found [1]"),
        ({"left_out": {}}, "left_out: expected a list, found {}"),
        ({"left_out": ["x"]}, "left_out: expected names and reasons, found 'x'"),
        ({"left_out": [{"name": "x"}]}, "left_out: expected names and reasons, found {'name': 'x'}"),
        ({"files": [1]}, "files: expected one entry for each file, found 1"),
        ({"schema": "microgpt.aprt/2"}, "expected the schema microgpt.aprt/1, found 'microgpt.aprt/2'"),
    ],
)
def test_a_manifest_that_is_wrong(copy, changes, message):
    edit_manifest(copy, **changes)
    assert message in refusal(copy)


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


def test_cuts_anywhere(copy):
    """Whatever end is missing of whatever file, it is refused in one line."""
    for path in [*sorted(copy.rglob("*.bin"))[::6], copy / "manifest.json"]:
        whole = path.read_bytes()
        for size in {0, 1, 4, 11, 12, 13, len(whole) // 2, len(whole) - 2}:
            path.write_bytes(whole[:size])
            assert refusal(copy, MicrogptError)
        path.write_bytes(whole)
    assert all(recorded.layout in (OWN, LAST) for recorded in open_aprt(copy).tensors.values())


def test_bytes_changed_anywhere(copy):
    path, rng = copy / "manifest.json", np.random.default_rng(3)
    whole = path.read_bytes()
    for place in rng.integers(0, len(whole), 150):
        path.write_bytes(whole[:place] + bytes([rng.integers(256)]) + whole[place + 1 :])
        with suppress(MicrogptError):
            open_aprt(copy)
