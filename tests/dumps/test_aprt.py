"""APRT directories: their bytes, those that we write with a manifest, and those of apr without one."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.aprt_folders import FINAL_NORM, reasons_of, write_raw_aprt
from support.tiny_models import TOKENS

from microgpt_trace import load, trace
from microgpt_trace.dumps.aprt import open_aprt
from microgpt_trace.dumps.aprt_writing import write_aprt
from microgpt_trace.dumps.layouts import LAST, fit
from microgpt_trace.errors import InputError, MicrogptError, RunError
from microgpt_trace.hooks.names import ALIASES

QKV = ("layer0.attn.q", "layer0.attn.k", "layer0.attn.v")


@pytest.fixture(scope="module")
def models(decoder_folder):
    return {case: load(decoder_folder(case)) for case in ("llama_gqa", "qwen2", "qwen3")}


def traced(model, **options):
    return trace(model, tokens=TOKENS, values=True, **options)


def with_arrays(done, **arrays):
    return replace(done, arrays={("forward", name.replace("__", ".")): a for name, a in arrays.items()})


# --- Bytes -----------------------------------------------------------------------------------


def test_the_bytes_of_a_file_are_written_and_read(models, tmp_path):
    arrays = {"final__norm": np.float32([[1.0, -2.5]]), "layer1__mlp__up": np.float32([[0.5]])}
    golden = with_arrays(traced(models["llama_gqa"]), **arrays)
    assert write_aprt(golden, tmp_path / "out") == 2
    assert (tmp_path / "out/final_norm.bin").read_bytes() == bytes.fromhex(FINAL_NORM)
    up = bytes.fromhex("41505254 01000000 01000000 0000003f")
    assert (tmp_path / "out/layer-1/ffn_up.bin").read_bytes() == up
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert found == ["out/final_norm.bin", "out/layer-1/ffn_up.bin", "out/manifest.json"]
    (tmp_path / "final_norm.bin").write_bytes(bytes.fromhex(FINAL_NORM))
    recorded = open_aprt(tmp_path).tensors["final.norm"]
    assert (recorded.source, recorded.shape) == ("final_norm.bin", (2,))
    assert recorded.read().tolist() == [1.0, -2.5]


def test_every_bit_of_a_float_is_kept(models, tmp_path):
    bits = [0x7F800001, 0xFFC0ABCD, 0x7FC00000, 0x80000000, 0x00000001, 0xFF800000]
    values = np.array([bits], np.uint32).view(np.float32)
    write_aprt(with_arrays(traced(models["llama_gqa"]), final__norm=values), tmp_path / "out")
    assert (tmp_path / "out/final_norm.bin").read_bytes()[12:] == struct.pack("<6I", *bits)
    assert open_aprt(tmp_path / "out").tensors["final.norm"].read().view(np.uint32).tolist() == [bits]


# --- Round trips -----------------------------------------------------------------------------


def agrees(done, model, folder):
    """Write and read a trace, check every array bit for bit, and return the names read and left out."""
    write_aprt(done, folder)
    recording = open_aprt(folder)
    assert recording.tokens == tuple(done.input.tokens)
    assert recording.positions == (len(recording.tokens) - 1,)
    assert recording.leftovers == ()
    names = same_arrays(recording, done, model)
    left_out = {array["name"] for array in manifest_of(folder)["left_out"]}
    assert names | left_out == {name for _, name in done.arrays}
    return names, left_out


def same_arrays(recording, done, model):
    shapes, last = model.plan.shapes(len(done.input.tokens)), len(done.input.tokens) - 1
    for name, recorded in recording.tensors.items():
        fitted = fit(name, recorded, shapes, head_dim=model.config.head_dim, positions=recording.positions)
        expected = (done[name][-1:] if name == "logits" else done[name]).astype(np.float32)
        assert fitted.array.dtype == np.float32
        assert (fitted.array.shape, fitted.array.tobytes()) == (expected.shape, expected.tobytes()), name
        assert fitted.positions == ((last,) if name == "logits" and last else None)
    return set(recording.tensors)


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("case", ["llama_gqa", "qwen2", "qwen3"])
def test_reads_back_a_decoder_with_and_without_the_manifest(models, tmp_path, case):
    done = traced(models[case])
    names, left_out = agrees(done, models[case], tmp_path / "out")
    normed = {f"layer{i}.attn.{name}" for i in (0, 1) for name in ("q_norm", "k_norm")}
    assert left_out == {"probs", "loss"} | (normed if case == "qwen3" else set())
    (tmp_path / "out/manifest.json").unlink()
    if case == "llama_gqa":
        assert same_arrays(open_aprt(tmp_path / "out"), done, models[case]) == names


def test_reads_back_a_microgpt(case, tmp_path):
    names, left_out = agrees(trace(case.model, case.text), case.model, tmp_path / "out")
    assert {"embed.tok", "embed.pos", "embed.norm", "probs", "loss", "layer0.attn.head0"} <= left_out
    assert {"embed.sum", "layer0.attn.q", "layer0.mlp.act", "logits"} <= names
    assert "float64 was rounded to float32" in manifest_of(tmp_path / "out")["notes"]


def test_writes_a_file_for_every_stage_of_apr_with_a_counterpart(models, tmp_path):
    write_aprt(traced(models["llama_gqa"]), tmp_path / "out")
    written = {path.stem for path in (tmp_path / "out").rglob("*.bin")}
    without = {"qkv_bias", "moe_router", "moe_ffn_out", "layer_output"}
    assert written == ALIASES.keys() - without
    assert (tmp_path / "out/layer-0/embedding.bin").is_file()
    assert not (tmp_path / "out/layer-1/embedding.bin").exists()
    assert (tmp_path / "out/lm_head.bin").stat().st_size == 12 + 4 * 61


@pytest.mark.parametrize(("case", "stage"), [("qwen2", "qkv_bias"), ("qwen3", "qkv_matmul")])
def test_writes_q_k_and_v_with_biases_as_qkv_bias(models, tmp_path, case, stage):
    done = traced(models[case])
    write_aprt(done, tmp_path / "out")
    (path,) = (tmp_path / "out/layer-0").glob("qkv_*.bin")
    assert path.stem == stage
    expected = np.concatenate([done[name] for name in QKV], axis=1)
    assert np.fromfile(path, "<f4", offset=12).tobytes() == expected.tobytes()
    notes = manifest_of(tmp_path / "out")["notes"]
    assert any("qkv_bias" in note for note in notes) == (stage == "qkv_bias")


# --- The manifest ----------------------------------------------------------------------------


def test_the_manifest_has_shapes_tokens_and_positions(models, tmp_path):
    dump = tmp_path / "out"
    write_aprt(traced(models["qwen2"]), dump)
    manifest = manifest_of(dump)
    assert manifest["schema"] == "microgpt.aprt/1"
    assert (manifest["tokens"], manifest["positions"]) == (list(TOKENS), [6])
    assert manifest["model"] == json.loads(json.dumps(models["qwen2"].describe()))
    files = {entry["file"]: entry for entry in manifest["files"]}
    assert files["layer-1/qkv_bias.bin"] == {
        "file": "layer-1/qkv_bias.bin", "stage": "qkv_bias", "layer": 1, "shape": [7, 64], "positions": None,
        "events": ["layer1.attn.q", "layer1.attn.k", "layer1.attn.v"], "dtype": "float32",
    }  # fmt: skip
    assert (files["lm_head.bin"]["positions"], files["lm_head.bin"]["layer"]) == ([6], None)
    assert files.keys() == {path.relative_to(dump).as_posix() for path in dump.rglob("*.bin")}


@pytest.mark.parametrize(("positions", "there"), [("last", True), ([0, 6], True), ([0, 2], False)])
def test_lm_head_has_only_the_last_position(models, tmp_path, positions, there):
    done = traced(models["qwen2"], positions=positions)
    write_aprt(done, tmp_path / "out")
    recording = open_aprt(tmp_path / "out")
    assert ("logits" in recording.tensors) == there == (recording.positions == (6,))
    reasons = {array["name"]: array["reason"] for array in manifest_of(tmp_path / "out")["left_out"]}
    if there:
        assert recording.tensors["logits"].read().tobytes() == done["logits"][-1:].tobytes()
    else:
        assert "needs the logits of the last position" in reasons["logits"]


def test_a_fused_stage_needs_all_its_events(models, tmp_path):
    done = trace(models["qwen2"], tokens=TOKENS, values=["layer0.attn.q", "layer1.mlp.up"])
    assert write_aprt(done, tmp_path / "out") == 1
    reason = "qkv_bias also needs layer0.attn.k, layer0.attn.v"
    assert manifest_of(tmp_path / "out")["left_out"] == [{"name": "layer0.attn.q", "reason": reason}]
    assert open_aprt(tmp_path / "out").notes == (f"left out: layer*.attn.q: {reason}",)


def test_notes_come_from_the_manifest(models, emma, tmp_path):
    write_aprt(traced(models["qwen3"]), tmp_path / "out")
    *notes, of_layers = open_aprt(tmp_path / "out").notes
    assert notes == ["lm_head contains only the row of the last position, as in apr"]
    assert of_layers.startswith("left out: layer*.attn.q_norm, layer*.attn.k_norm, probs and 1 more: apr has")
    write_aprt(trace(emma, "emma", backward=True), tmp_path / "emma")
    reasons = {array["name"]: array["reason"] for array in manifest_of(tmp_path / "emma")["left_out"]}
    assert reasons["backward/wte"] == "apr has only stages of the forward pass"
    assert reasons["embed.pos"] == "apr has no such stage"


def test_rejects_arrays_that_no_file_can_hold(models, tmp_path):
    with pytest.raises(InputError, match="has no array of a stage"):
        write_aprt(trace(models["qwen2"], tokens=TOKENS), tmp_path / "out")
    huge = np.broadcast_to(np.float32(0), (1 << 16, 1 << 16))
    with pytest.raises(InputError, match="expected at most 4,294,967,295 elements, found 4,294,967,296"):
        write_aprt(with_arrays(traced(models["llama_gqa"]), final__norm=huge), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_writes_to_an_empty_folder_and_rejects_a_full_one(emma, tmp_path):
    done, folder = trace(emma, "emma"), tmp_path / "out"
    folder.mkdir()
    write_aprt(done, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    with pytest.raises(InputError, match="new or an empty folder, found '"):
        write_aprt(done, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


def test_rejects_a_path_that_cannot_be_a_folder(emma, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, message in (("file", "found a file"), ("gone/out", "does not exist"), ("file/out", "file")):
        with pytest.raises(InputError, match=message):
            write_aprt(trace(emma, "emma"), tmp_path / name)
    with pytest.raises(MicrogptError):
        write_aprt(trace(emma, "emma"), tmp_path / "loop")


def test_a_full_disk_leaves_nothing(emma, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match=r"out: cannot write \(No space left on device\)"):
        write_aprt(trace(emma, "emma"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- Folders of apr --------------------------------------------------------------------------


def test_reads_a_folder_of_apr(tmp_path):
    write_raw_aprt(
        tmp_path,
        layer0__embedding=np.zeros(6), layer0__ffn_up=np.zeros(9), layer2__q_post_rope=np.zeros(6),
        layer0__qkv_matmul=np.zeros(12), layer2__attn_scores=np.zeros(8), lm_head=np.zeros(61),
    )  # fmt: skip
    recording = open_aprt(tmp_path)
    assert (recording.kind, recording.tokens, recording.positions) == ("APRT dumps", None, None)
    found = {name: (r.source, r.shape, r.layout) for name, r in recording.tensors.items()}
    assert found == {
        "embed.tok": ("layer-0/embedding.bin", (6,), ""),
        **dict.fromkeys(QKV, ("layer-0/qkv_matmul.bin", (12,), "")),
        "layer0.mlp.up": ("layer-0/ffn_up.bin", (9,), ""),
        "layer2.attn.q_rope": ("layer-2/q_post_rope.bin", (6,), ""),
        "layer2.attn.scores": ("layer-2/attn_scores.bin", (8,), ""),
        "logits": ("lm_head.bin", (61,), LAST),
    }
    assert {name for name, r in recording.tensors.items() if r.adjacent} == {*QKV[:2], "layer2.attn.q_rope"}
    assert {name: r.beside for name, r in recording.tensors.items() if r.beside} == dict.fromkeys(QKV, QKV)
    assert recording.notes == (
        "q, k and v are read from qkv_matmul, which lacks the biases if the model has any",
    )


def test_qkv_bias_goes_before_qkv_matmul(tmp_path):
    write_raw_aprt(tmp_path, layer0__qkv_matmul=[1, 2, 3], layer0__qkv_bias=[4, 5, 6], layer1__qkv_bias=[7])
    recording = open_aprt(tmp_path)
    assert recording.tensors["layer0.attn.q"].read().tolist() == [4, 5, 6]
    assert reasons_of(tmp_path) == {
        "layer-0/qkv_matmul.bin": "qkv_matmul lacks the biases; q, k and v are read from qkv_bias"
    }
    assert recording.notes == ()


def test_stages_without_an_event_become_leftovers_with_a_reason(tmp_path):
    write_raw_aprt(
        tmp_path, layer0__moe_router=[1], layer0__final_norm=[1], layer1__embedding=[1], ffn_up=[1],
        layer0__strange=[1], layer0__post_ffn_residual=[1], layer0__layer_output=[2], embedding=[1],
    )  # fmt: skip
    assert reasons_of(tmp_path) == {
        "layer-0/moe_router.bin": "none of our events corresponds to this stage",
        "layer-0/final_norm.bin": "the stage does not belong to layer 0",
        "layer-1/embedding.bin": "the stage does not belong to layer 1",
        "ffn_up.bin": "the stage does not belong to the whole model",
        "embedding.bin": "the stage does not belong to the whole model",
        "layer-0/strange.bin": "apr has no such stage",
        "layer-0/layer_output.bin": "layer0.mlp.residual is read from layer-0/post_ffn_residual.bin",
    }
    assert open_aprt(tmp_path).tensors["layer0.mlp.residual"].read().tolist() == [1]


def test_ignores_a_manifest_of_another_program(tmp_path):
    write_raw_aprt(tmp_path, final_norm=[1, 2])
    (tmp_path / "manifest.json").write_text('{"run": 7}')
    assert open_aprt(tmp_path).tokens is None
