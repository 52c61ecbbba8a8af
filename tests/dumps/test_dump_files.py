"""Open hand-made dumps of every format, name their tensors and read them."""

import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from support.dump_writing import (
    name_map,
    numbers,
    reasons,
    refused,
    write_folder,
    write_npz,
    write_safetensors,
)

import microgpt_trace
from microgpt_trace.dumps.formats import is_recording, open_recording
from microgpt_trace.dumps.layouts import OWN, fit
from microgpt_trace.dumps.stored_arrays import save_arrays
from microgpt_trace.errors import InputError

WRITERS = {
    "folder": lambda base, arrays: write_folder(base / "dump", arrays),
    "npz": lambda base, arrays: write_npz(base / "dump.npz", arrays),
    "compressed": lambda base, arrays: write_npz(base / "dump.npz", arrays, np.savez_compressed),
    "safetensors": lambda base, arrays: write_safetensors(base / "dump.safetensors", arrays),
}


@pytest.fixture
def write(tmp_path):
    """A function that writes a .npz: only reading the arrays differs between formats."""
    return lambda arrays: write_npz(tmp_path / "dump.npz", arrays)


# --- All formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", WRITERS)
def test_reads_tensors_under_the_names_of_events(how, tmp_path):
    arrays = {
        "model.layers.1.mlp.up_proj": numbers(1, 3, 8, dtype=np.float64),
        "Qcur-0": numbers(3, 2, 4),
        "logits": np.array([[np.nan, np.inf, 1e-7]], np.float16),
        "loss": np.float32(1.5),
        "final.norm": numbers(0, 3),
        "t7": numbers(2),
    }
    path = WRITERS[how](tmp_path, arrays)
    recording = open_recording(path)
    assert is_recording(path)
    events = ["layer1.mlp.up", "layer0.attn.q_rope", "logits", "loss", "final.norm"]
    assert set(recording.tensors) == set(events)
    assert recording.tensors["layer0.attn.q_rope"].adjacent
    assert reasons(recording) == {"t7": "no event has that name"}
    for event, array in zip(events, arrays.values(), strict=False):
        found = recording.tensors[event].read()
        assert recording.tensors[event].shape == found.shape == array.shape
        assert found.dtype == (np.float64 if array.dtype == np.float64 else np.float32)
        np.testing.assert_array_equal(found, array.astype(found.dtype))
    np.testing.assert_array_equal(recording.leftovers[0].recorded.read(), arrays["t7"])


@pytest.mark.parametrize(
    ("how", "name", "ids"),
    [
        *((how, "tokens", np.arange(5)) for how in WRITERS),
        *(("npz", name, np.arange(5)[None]) for name in ("ids", "input_ids", "sub.token_ids")),
    ],
)
def test_reads_tokens_from_an_array_of_whole_numbers(how, name, ids, tmp_path):
    recording = open_recording(WRITERS[how](tmp_path, {name: ids, "logits": numbers(5, 3)}))
    assert (recording.tokens, recording.leftovers) == ((0, 1, 2, 3, 4), ())


NO_TOKENS = [np.ones((2, 3), np.int32), *map(np.array, ([-1, 2], [True], 3)), np.zeros(0, np.int64)]


@pytest.mark.parametrize("ids", NO_TOKENS)
def test_arrays_that_cannot_be_tokens_become_leftovers(write, ids):
    recording = open_recording(write({"tokens": ids, "logits": numbers(3, 3)}))
    assert recording.tokens is None
    assert "no event contains numbers of type" in reasons(recording)["tokens"]


def test_other_whole_numbers_become_leftovers(write):
    recording = open_recording(write({"mask": np.ones((3, 3), bool), "logits": np.arange(3, dtype=np.int32)}))
    assert set(reasons(recording)) == {"mask", "logits"}
    assert all(leftover.readable for leftover in recording.leftovers)
    assert recording.leftovers[0].recorded.read().dtype == np.float64


def test_rejects_tokens_or_names_that_disagree(write):
    path = write({"ids": np.arange(3), "tokens": np.arange(4)})
    refused(path, "[0, 1, 2]", "[0, 1, 2, 3]", kind=InputError)
    refused(path, "map.toml", names=name_map(tokens=(7,)), kind=InputError)
    path = write({"l_out-0": numbers(3, 4), "layer0.mlp.residual": numbers(3, 4)})
    refused(path, "l_out-0", "layer0.mlp.residual", "both")


def test_the_first_name_of_an_event_goes_before_a_second_one(write):
    names = ("model.layers.0.self_attn", "model.layers.0.self_attn.o_proj", "model.layers.1.input")
    recording = open_recording(write({name: numbers(3, 4) for name in names}))
    assert recording.tensors["layer0.attn.out"].source == names[1]
    assert recording.tensors["layer0.mlp.residual"].source == names[2]
    assert "by its name" in reasons(recording)[names[0]]


def test_a_fused_tensor_has_several_events_side_by_side(write):
    recording = open_recording(write({"model.layers.0.self_attn.qkv_proj": numbers(3, 16)}))
    events = ("layer0.attn.q", "layer0.attn.k", "layer0.attn.v")
    assert tuple(recording.tensors) == events
    assert all(tensor.beside == events for tensor in recording.tensors.values())


# --- With a map ------------------------------------------------------------------------------


def test_a_map_assigns_slices_of_tensors(write):
    qkv = numbers(3, 12)
    names = name_map(
        ("layer0.attn.q", "t1", (slice(None), slice(None, 8)), "TC"),
        ("layer0.attn.k", "t1", (slice(None), slice(8, 10))),
        ("layer{i}.mlp.up", "up{i}"),
        tokens=(4, 5, 6),
    )
    recording = open_recording(write({"t1": qkv, "up0": numbers(3, 4), "up12": numbers(3, 4)}), names)
    q, k = (recording.tensors[f"layer0.attn.{n}"] for n in "qk")
    assert (q.shape, q.layout, k.shape, recording.tokens) == ((3, 8), "TC", (3, 2), (4, 5, 6))
    np.testing.assert_array_equal(q.read(), qkv[:, :8])
    np.testing.assert_array_equal(k.read(), qkv[:, 8:10])
    assert {"layer0.mlp.up", "layer12.mlp.up"} <= set(recording.tensors)
    assert not recording.leftovers


def test_a_map_goes_before_names_and_keeps_the_order_of_rows(write):
    path = write({"l_out-0": numbers(3), "x": numbers(2), "Qcur-0": numbers(3, 4)})
    names = name_map(("layer0.mlp.residual", "x"), ("layer0.attn.q", "Qcur-0"))
    recording = open_recording(path, names)
    assert recording.tensors["layer0.mlp.residual"].shape == (2,)
    assert "by the map" in reasons(recording)["l_out-0"]
    assert recording.tensors["layer0.attn.q"].adjacent


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("logits", "t03"), ("t03", "t003")),
        (("logits", "t003", (slice(None), slice(None, 9))), ("[3, 4]", "index 9 is outside")),
        (("logits", "ids"), ("expected floating-point",)),
    ],
)
def test_rejects_a_map_of_missing_tensors(write, line, words):
    path = write({"t003": numbers(3, 4), "ids": np.arange(3)})
    refused(path, *words, names=name_map(line), kind=InputError)


# --- Our own files ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace(decoder_folder):
    model = microgpt_trace.load(decoder_folder("llama_gqa"))
    return microgpt_trace.trace(model, tokens=[3, 1, 4, 1], values=True, positions="last")


def test_reads_a_saved_trace(trace, tmp_path):
    save_arrays(trace, tmp_path / "a.safetensors")
    recording = open_recording(tmp_path / "a.safetensors")
    assert is_recording(tmp_path / "a.safetensors")
    assert (recording.tokens, recording.positions) == ((3, 1, 4, 1), (3,))
    assert set(recording.tensors) == {event.name for event in trace} != set()
    for name, tensor in recording.tensors.items():
        assert tensor.layout == OWN
        np.testing.assert_array_equal(tensor.read(), trace[name])


def test_reads_a_saved_trace_of_a_microgpt_with_gradients(emma, tmp_path):
    trace = microgpt_trace.trace(emma, "emma", backward=True)
    save_arrays(trace, tmp_path / "a.safetensors")
    recording = open_recording(tmp_path / "a.safetensors")
    assert set(recording.tensors) == {event.name for event in trace if event.phase == "forward"}
    assert recording.tensors["loss"].shape == recording.tensors["loss"].read().shape == ()
    assert set(reasons(recording).values()) == {"gradients and updates are not compared"}


@pytest.mark.parametrize("text", ["", "3", "[1.5]", "[-1]", "[true]", '["a"]', "[" * 100_000])
def test_rejects_a_saved_trace_with_wrong_tokens(tmp_path, text):
    metadata = {"format": "microgpt.arrays/1", "tokens": text}
    refused(write_safetensors(tmp_path / "a.safetensors", {"logits": numbers(1, 3)}, metadata), "tokens")


def test_reads_a_trace_of_an_older_version(tmp_path):
    """Such a file has no positions, and its loss is an array with one element."""
    metadata = {"format": "microgpt.arrays/1", "tokens": "[1, 2]"}
    path = write_safetensors(tmp_path / "a.safetensors", {"loss": np.full(1, 2.5, np.float32)}, metadata)
    recording = open_recording(path)
    loss = fit("loss", recording.tensors["loss"], {"loss": ()}).array
    assert (loss.shape, float(loss)) == ((), 2.5)
    assert (recording.tokens, recording.positions) == ((1, 2), None)


LEFT_OUT = [
    ({}, ()),
    ({"model": "{"}, ()),
    ({"model": "[]"}, ()),
    ({"model": "{}"}, ()),
    (
        {"model": json.dumps({"left_out": ["logits: the head did not run", "a\nb"]})},
        ("left out: logits: the head did not run", r"left out: 'a\nb'"),
    ),
    *(({"model": json.dumps({"left_out": value})}, None) for value in (3, {}, [1], None)),
]


@pytest.mark.parametrize(("model", "notes"), LEFT_OUT)
def test_notes_what_record_left_out_and_rejects_other_values(tmp_path, model, notes):
    metadata = {"format": "microgpt.arrays/1", "tokens": "[1]"} | model
    path = write_safetensors(tmp_path / "a.safetensors", {"embed.tok": numbers(1, 3)}, metadata)
    if notes is None:
        refused(path, "left_out", "expected a list of sentences")
    else:
        assert open_recording(path).notes == notes


# --- One format at a time --------------------------------------------------------------------


def test_notes_the_files_that_were_not_read(tmp_path):
    arrays = {"layer-0/ffn_up": numbers(3, 4), "deep/er/t": numbers(1), "logits": numbers(1, 3)}
    folder = WRITERS["folder"](tmp_path, arrays)
    (folder / "notes.txt").write_text("x")
    recording = open_recording(folder)
    assert (recording.kind, recording.notes) == (".npy files", ("not read: 'notes.txt'",))
    assert {t.source for t in recording.tensors.values()} == {"layer-0/ffn_up.npy", "logits.npy"}
    assert set(reasons(recording)) == {"deep/er/t"}
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(1, 3)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme", "x")
    assert open_recording(path).notes == ("not read: 'readme'",)


@pytest.mark.parametrize(("dtype", "order"), [(">f4", "C"), ("<f4", "F"), (">f8", "F"), (">f2", "C")])
def test_reads_npy_files_of_either_byte_and_axis_order(tmp_path, dtype, order):
    array = np.asarray(numbers(3, 4).astype(dtype), order=order)
    np.save(tmp_path / "logits.npy", array)
    found = open_recording(tmp_path / "logits.npy").tensors["logits"].read()
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array.astype(found.dtype))


def test_maps_a_npy_file_instead_of_reading_it(tmp_path):
    np.save(tmp_path / "logits.npy", numbers(300, 400))
    assert is_recording(tmp_path / "logits.npy")
    tracemalloc.start()
    array = open_recording(tmp_path / "logits.npy").tensors["logits"].read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < array.nbytes / 2
    assert not array.flags.writeable


@pytest.mark.parametrize(
    "array", [np.ones(3, complex), np.zeros(2, "i4,f4"), np.array(["a"]), np.ones(2, np.longdouble)]
)
def test_arrays_of_other_types_become_leftovers(tmp_path, array):
    np.save(tmp_path / "logits.npy", array)
    recording = open_recording(tmp_path / "logits.npy")
    assert str(array.dtype) in reasons(recording)["logits"]
    assert not recording.leftovers[0].readable
    with pytest.raises(InputError, match=r"numbers of type .* are not supported"):
        recording.leftovers[0].recorded.read()


def test_widens_short_floats_of_safetensors(tmp_path):
    torch, save = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch").save_file
    narrow = torch.from_numpy(numbers(3, 4)).to(torch.bfloat16)
    types = {"layer0.attn.k": torch.float8_e4m3fn, "layer0.attn.v": torch.float8_e5m2}
    arrays = {"layer0.attn.q": narrow, "logits": torch.ones(2, 3).to(torch.float8_e8m0fnu)}
    arrays |= {name: narrow.to(dtype) for name, dtype in types.items()}
    save(arrays, tmp_path / "a.safetensors")
    recording = open_recording(tmp_path / "a.safetensors")
    for name in ("layer0.attn.q", *types):
        np.testing.assert_array_equal(recording.tensors[name].read(), arrays[name].float().numpy())
    assert reasons(recording)["logits"] == "numbers of type F8_E8M0 are not supported"


def test_reads_short_floats_that_ml_dtypes_writes_as_npy(tmp_path):
    """Such files have the types V2, f1 or V1. The judge is torch."""
    torch = pytest.importorskip("torch")
    array = torch.from_numpy(numbers(3, 4))
    held = {
        "layer0.attn.q": ("<V2", array.to(torch.bfloat16)),
        "layer0.attn.k": ("<f1", array.to(torch.float8_e5m2)),
        "layer0.attn.v": ("<V1", array.to(torch.float8_e4m3fn)),
    }
    for name, (descr, tensor) in held.items():
        header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': (3, 4)}}".encode()
        data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
        (tmp_path / f"{name}.npy").write_bytes(
            b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + data
        )
    recording = open_recording(tmp_path)
    assert recording.notes == (
        "read as float8_e5m2, which the files do not name: 'layer0.attn.k.npy'",
        "read as bfloat16, which the files do not name: 'layer0.attn.q.npy'",
        "read as float8_e4m3fn, which the files do not name: 'layer0.attn.v.npy'",
    )
    for name, (_, tensor) in held.items():
        np.testing.assert_array_equal(recording.tensors[name].read(), tensor.float().numpy())


def test_reads_the_reference_arrays_of_a_test_model(tmp_path):
    keys = "attn_norm q_proj k_proj v_proj attn o_proj attn_residual ffn_norm gate_proj up_proj silu_mul "
    keys += "ffn_down out"
    arrays = {f"L{i}__{key}": numbers(3, 4) for i in range(2) for key in keys.split()}
    arrays |= {name: numbers(3, 4) for name in ("embed", "final_norm", "logits")}
    path = write_npz(tmp_path / "a.npz", arrays | {"ids": np.arange(3), "hidden_states": numbers(3, 3, 4)})
    recording = open_recording(path)
    assert len(recording.tensors) == len(arrays)
    assert list(reasons(recording)) == ["hidden_states"]


def test_reads_a_directory_of_aprt_dumps(tmp_path):
    """The file of apr trace has a magic, layer 0, the number of elements, and the elements."""
    folder, values = tmp_path / "d", numbers(12)
    (folder / "layer-0").mkdir(parents=True)
    (folder / "layer-0/ffn_up.bin").write_bytes(b"APRT" + struct.pack("<II", 0, 12) + values.tobytes())
    assert is_recording(folder)
    recording = open_recording(folder, name_map(tokens=(1, 2, 3)))
    assert (list(recording.tensors), recording.tokens) == (["layer0.mlp.up"], (1, 2, 3))
    np.testing.assert_array_equal(recording.tensors["layer0.mlp.up"].read().ravel(), values)
    refused(folder, "expected only tokens", names=name_map(("logits", "x")), kind=InputError)


@pytest.mark.parametrize("event", ["layer0.attn.q", "model.layers.0.mlp.up_proj", "l_out-0"])
@pytest.mark.parametrize("parameter", ["model.norm.weight", "wte", "lm_head", "layer0.attn_wq"])
def test_parameters_among_events_become_leftovers(tmp_path, event, parameter):
    path = write_safetensors(tmp_path / "a.safetensors", {event: numbers(3, 4), parameter: numbers(4, 4)})
    recording = open_recording(path)
    assert is_recording(path)
    assert len(recording.tensors) == 1 + (parameter == "lm_head")  # which is also a module of transformers
    assert reasons(recording).keys() == {parameter} - {"lm_head"}
    assert "" not in reasons(recording).values()
