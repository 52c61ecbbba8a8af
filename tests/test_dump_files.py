"""Dumps of every kind, made by hand: opened, named, read, and refused in one line."""

import json
import struct
import zipfile

import numpy as np
import pytest
from hostile import fuzzing
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import microgpt_trace
from microgpt_trace.dumps.arrays_file import save_arrays
from microgpt_trace.dumps.files import is_recording, open_recording
from microgpt_trace.dumps.mapping import Entry, NameMap
from microgpt_trace.dumps.recording import OWN
from microgpt_trace.errors import FileFormatError, InputError, MicrogptError
from microgpt_trace.render.document import to_json, to_json_lines


def numbers(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def write_folder(folder, arrays):
    for name, array in arrays.items():
        path = folder / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return folder


def write_npz(path, arrays):
    np.savez(path, **arrays)
    return path


def write_compressed(path, arrays):
    np.savez_compressed(path, **arrays)
    return path


def write_safetensors(path, arrays, metadata=None):
    save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path, metadata)
    return path


def write_bf16(path, bits, name="layer0.attn.q"):
    """A safetensors file of one bfloat16 matrix, from its uint16 bits."""
    entry = {"dtype": "BF16", "shape": list(bits.shape), "data_offsets": [0, bits.nbytes]}
    header = json.dumps({name: entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bits.tobytes())
    return path


WRITERS = {
    "folder": lambda base, arrays: write_folder(base / "dump", arrays),
    "npz": lambda base, arrays: write_npz(base / "dump.npz", arrays),
    "compressed": lambda base, arrays: write_compressed(base / "dump.npz", arrays),
    "safetensors": lambda base, arrays: write_safetensors(base / "dump.safetensors", arrays),
}


@pytest.fixture(params=WRITERS)
def write(request, tmp_path):
    """Writes a dump in each of the formats."""
    return lambda arrays: WRITERS[request.param](tmp_path, arrays)


def left(recording):
    return {
        leftover.recorded.source.removesuffix(".npy"): leftover.reason for leftover in recording.leftovers
    }


def refused(path, *words, names=None, kind=FileFormatError):
    with pytest.raises(kind) as caught:
        open_recording(path, names)
    print(caught.value)
    assert str(caught.value).isprintable()
    assert all(word in str(caught.value) for word in (path.name, *words))


# --- What every format has in common ---------------------------------------------------------


def test_tensors_have_the_names_of_events(write):
    arrays = {"model.layers.1.mlp.up_proj": numbers(1, 3, 8), "Qcur-0": numbers(3, 2, 4), "t7": numbers(2)}
    path = write(arrays)
    recording = open_recording(path)
    assert is_recording(path)
    assert set(recording.tensors) == {"layer1.mlp.up", "layer0.attn.q_rope"}
    assert recording.tensors["layer1.mlp.up"].shape == (1, 3, 8)
    assert recording.tensors["layer0.attn.q_rope"].adjacent
    assert left(recording) == {"t7": "no event has that name"}
    np.testing.assert_array_equal(recording.tensors["layer0.attn.q_rope"].read(), arrays["Qcur-0"])
    np.testing.assert_array_equal(recording.leftovers[0].recorded.read(), arrays["t7"])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_floating_point_numbers_come_as_float32_or_float64(write, dtype):
    array = numbers(3, 4, dtype=dtype)
    array[0, :3] = np.nan, np.inf, 1e-7
    found = open_recording(write({"logits": array})).tensors["logits"].read()
    assert found.dtype == (np.float64 if dtype == "float64" else np.float32)
    np.testing.assert_array_equal(found, array.astype(found.dtype))


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 1, 1)])
def test_arrays_of_few_numbers(write, shape):
    found = open_recording(write({"loss": numbers(*shape) if shape else np.float32(1.5)})).tensors["loss"]
    assert (found.shape, found.read().shape) == (shape, shape)


@pytest.mark.parametrize("name", ["tokens", "ids", "input_ids", "sub.token_ids"])
@pytest.mark.parametrize("batch", [(), (1,)])
def test_whole_numbers_of_that_name_are_the_tokens(write, name, batch):
    ids = np.arange(5, dtype=np.int64).reshape(*batch, 5)
    recording = open_recording(write({name: ids, "logits": numbers(5, 3)}))
    assert recording.tokens == (0, 1, 2, 3, 4)
    assert not recording.leftovers


@pytest.mark.parametrize(
    "ids",
    [np.ones((2, 3), np.int32), np.array([-1, 2]), np.array([True]), np.array(3), np.zeros(0, np.int64)],
)
def test_what_cannot_be_tokens_is_left_over(write, ids):
    recording = open_recording(write({"tokens": ids, "logits": numbers(3, 3)}))
    assert recording.tokens is None
    assert "which no event has" in left(recording)["tokens"]


def test_other_whole_numbers_are_left_over_with_the_reason(write):
    recording = open_recording(write({"mask": np.ones((3, 3), bool), "logits": np.arange(3, dtype=np.int32)}))
    assert set(left(recording)) == {"mask", "logits"}
    assert recording.leftovers[0].recorded.read().dtype == np.float64


def test_tokens_that_disagree_are_an_error(write):
    path = write({"ids": np.arange(3), "tokens": np.arange(4)})
    refused(path, "[0, 1, 2]", "[0, 1, 2, 3]", kind=InputError)


def test_two_tensors_of_one_event_are_an_error_naming_both(write):
    path = write({"l_out-0": numbers(3, 4), "layer0.mlp.residual": numbers(3, 4)})
    refused(path, "l_out-0", "layer0.mlp.residual", "both")


def test_a_second_name_gives_way(write):
    names = ("model.layers.0.self_attn", "model.layers.0.self_attn.o_proj", "model.layers.1.input")
    recording = open_recording(write({name: numbers(3, 4) for name in names}))
    assert recording.tensors["layer0.attn.out"].source.startswith(names[1])
    assert recording.tensors["layer0.mlp.residual"].source.startswith(names[2])
    assert "already" in left(recording)[names[0]]


def test_fused_rows_stand_beside_one_another(write):
    recording = open_recording(write({"model.layers.0.self_attn.qkv_proj": numbers(3, 16)}))
    events = ("layer0.attn.q", "layer0.attn.k", "layer0.attn.v")
    assert tuple(recording.tensors) == events
    assert all(tensor.beside == events for tensor in recording.tensors.values())


# --- With a map ------------------------------------------------------------------------------


def names_of(*entries, tokens=None):
    return NameMap("map.toml", tuple(Entry(*entry) for entry in entries), tokens)


def test_a_map_names_parts_of_tensors(write):
    qkv = numbers(3, 12)
    names = names_of(
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


def test_a_map_goes_before_names(write):
    recording = open_recording(
        write({"l_out-0": numbers(3), "x": numbers(2)}), names_of(("layer0.mlp.residual", "x"))
    )
    assert recording.tensors["layer0.mlp.residual"].shape == (2,)
    assert "by the map" in left(recording)["l_out-0"]


def test_a_map_keeps_what_the_source_says_of_its_rows(write):
    names = names_of(("layer0.attn.q", "Qcur-0"))
    assert open_recording(write({"Qcur-0": numbers(3, 4)}), names).tensors["layer0.attn.q"].adjacent


def test_a_map_of_tensors_that_are_not_there(write):
    refused(write({"t003": numbers(3)}), "t03", "t003", names=names_of(("logits", "t03")), kind=InputError)


def test_a_map_of_parts_that_are_not_there(write):
    names = names_of(("logits", "t", (slice(None), slice(None, 9))))
    refused(write({"t": numbers(3, 4)}), "[3, 4]", "9 is outside", names=names, kind=InputError)


def test_a_map_of_whole_numbers(write):
    names = names_of(("logits", "ids"))
    refused(write({"ids": np.arange(3)}), "expected floating-point", names=names, kind=InputError)


def test_a_map_whose_tokens_are_others(write):
    path = write({"ids": np.arange(3), "logits": numbers(3, 4)})
    refused(path, "map.toml", names=names_of(tokens=(7,)), kind=InputError)


# --- Our own files ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trace(decoder_folder):
    model = microgpt_trace.load(decoder_folder("llama_gqa"))
    return microgpt_trace.trace(model, tokens=[3, 1, 4, 1], values=True, positions="last")


def test_a_saved_trace(trace, tmp_path):
    save_arrays(trace, tmp_path / "a.safetensors")
    recording = open_recording(tmp_path / "a.safetensors")
    assert is_recording(tmp_path / "a.safetensors")
    assert (recording.tokens, recording.positions) == ((3, 1, 4, 1), (3,))
    assert set(recording.tensors) == {event.name for event in trace} != set()
    for name, tensor in recording.tensors.items():
        assert tensor.layout == OWN
        np.testing.assert_array_equal(tensor.read(), trace[name])


def test_a_saved_trace_of_a_microgpt_with_gradients(emma, tmp_path):
    trace = microgpt_trace.trace(emma, "emma", backward=True)
    save_arrays(trace, tmp_path / "a.safetensors")
    recording = open_recording(tmp_path / "a.safetensors")
    assert set(recording.tensors) == {event.name for event in trace if event.phase == "forward"}
    assert recording.tensors["loss"].shape == recording.tensors["loss"].read().shape == ()
    assert set(left(recording).values()) == {"gradients and updates are not compared"}


def test_a_saved_trace_from_before_positions_were_saved(tmp_path):
    metadata = {"format": "microgpt.arrays/1", "tokens": "[1, 2]", "text": "a"}
    path = write_safetensors(tmp_path / "a.safetensors", {"logits": numbers(1, 3)}, metadata)
    recording = open_recording(path)
    assert (recording.tokens, recording.positions) == ((1, 2), None)


@pytest.mark.parametrize("text", ["", "{", "3", "[1.5]", "[-1]", "[true]", '["a"]', "[" * 100_000])
def test_a_saved_trace_with_tokens_that_are_none(tmp_path, text):
    metadata = {"format": "microgpt.arrays/1", "tokens": text}
    refused(write_safetensors(tmp_path / "a.safetensors", {"logits": numbers(1, 3)}, metadata), "tokens")


def test_a_document_has_statistics(trace, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(to_json(trace))
    recording = open_recording(path)
    assert is_recording(path)
    assert not recording.tensors
    assert (recording.tokens, recording.positions) == ((3, 1, 4, 1), (3,))
    assert recording.statistics == {event.name: event for event in trace}


def test_a_document_with_values_has_arrays(trace, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(to_json(trace, values=True))
    recording = open_recording(path)
    assert set(recording.tensors) == set(recording.statistics)
    for name, tensor in recording.tensors.items():
        found = tensor.read()
        assert found.dtype == trace[name].dtype
        np.testing.assert_array_equal(found, trace[name])


def test_numbers_that_json_lacks_come_back(emma, tmp_path):
    def spoil(event, value):
        changed = value.copy()
        changed[0, :3] = np.nan, np.inf, -np.inf
        return changed

    with np.errstate(all="ignore"), emma.hooks.subscribe(spoil, "layer0.attn.out"):
        trace = microgpt_trace.trace(emma, "emma")
    (tmp_path / "a.json").write_text(to_json(trace, values=True))
    recording = open_recording(tmp_path / "a.json")
    np.testing.assert_array_equal(recording.tensors["layer0.attn.out"].read(), trace["layer0.attn.out"])
    assert recording.statistics["layer0.attn.out"].stats.nan_count == 1


def test_a_document_of_lines_is_refused_by_name(trace, tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(to_json_lines(trace)))
    assert is_recording(tmp_path / "a.jsonl")
    refused(tmp_path / "a.jsonl", "--json", "--jsonl")


def test_a_map_is_not_for_a_document(trace, tmp_path):
    (tmp_path / "a.json").write_text(to_json(trace))
    refused(tmp_path / "a.json", "no map", names=names_of(("logits", "x")), kind=InputError)
    refused(tmp_path / "a.json", "tokens", names=names_of(tokens=(1,)), kind=InputError)
    assert open_recording(tmp_path / "a.json", names_of(tokens=(3, 1, 4, 1))).tokens == (3, 1, 4, 1)


CHANGES = [
    ("schema", lambda d: d.update(schema="microgpt.trace/9")),
    ("events", lambda d: d.update(events=3)),
    ("input", lambda d: d.update(input=[])),
    ("predictions", lambda d: d["predictions"][0].update(position="x")),
    ("event 0", lambda d: d["events"].__setitem__(0, None)),
    ("twice", lambda d: d["events"].append(d["events"][0])),
    *(
        (key, lambda d, key=key: d["events"][1].pop(key))
        for key in ("seq", "phase", "stage", "name", "shape", "dtype")
    ),
    ("layer", lambda d: d["events"][1].update(layer=True)),
    ("shape", lambda d: d["events"][1].update(shape=[-1])),
    ("count", lambda d: d["events"][1]["stats"].update(count="NaN")),
    ("mean", lambda d: d["events"][1]["stats"].update(mean="0.5")),
    ("statistics", lambda d: d["events"][1]["stats"].pop("mean")),
    ("numbers", lambda d: d["events"][1].update(values=[[1.0], [1.0, 2.0]])),
    ("numbers", lambda d: d["events"][1].update(values={})),
    ("values [", lambda d: d["events"][1].update(values=[1.0])),
    ("float99", lambda d: d["events"][1].update(dtype="float99", values=[])),
]


@pytest.mark.parametrize(
    ("word", "change"), CHANGES, ids=[f"{i}-{word}" for i, (word, _) in enumerate(CHANGES)]
)
def test_a_document_that_is_wrong_is_refused(trace, tmp_path, word, change):
    document = json.loads(to_json(trace))
    change(document)
    (tmp_path / "a.json").write_text(json.dumps(document))
    refused(tmp_path / "a.json", word)


# --- One format at a time --------------------------------------------------------------------


def test_a_folder_has_subfolders_and_tells_what_it_did_not_read(tmp_path):
    write_folder(
        tmp_path / "d", {"layer-0/ffn_up": numbers(3, 4), "deep/er/t": numbers(1), "logits": numbers(1, 3)}
    )
    (tmp_path / "d" / "notes.txt").write_text("x")
    recording = open_recording(tmp_path / "d")
    assert recording.kind == ".npy files"
    assert {t.source for t in recording.tensors.values()} == {"layer-0/ffn_up.npy", "logits.npy"}
    assert set(left(recording)) == {"deep/er/t"}
    assert recording.notes == ("not read: 'notes.txt'",)


def test_one_npy_file_is_a_dump(tmp_path):
    np.save(tmp_path / "logits.npy", numbers(3, 4))
    assert is_recording(tmp_path / "logits.npy")
    assert list(open_recording(tmp_path / "logits.npy").tensors) == ["logits"]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [">f4", "<f4", ">f8", ">f2"])
def test_npy_files_of_either_byte_and_axis_order(tmp_path, dtype, order):
    array = np.asarray(numbers(3, 4).astype(dtype), order=order)
    np.save(tmp_path / "logits.npy", array)
    found = open_recording(tmp_path / "logits.npy").tensors["logits"].read()
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, array.astype(found.dtype))


def test_an_npy_file_is_mapped_not_read(tmp_path):
    np.save(tmp_path / "logits.npy", numbers(3, 4))
    array = open_recording(tmp_path / "logits.npy").tensors["logits"].read()
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable


@pytest.mark.parametrize("array", [np.array([{}, 1], object), np.array([(1, 2.0)], "i4,O")])
def test_python_objects_are_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    refused(tmp_path / "x.npy", "Python objects")
    np.savez(tmp_path / "x.npz", x=array)
    refused(tmp_path / "x.npz", "Python objects")


@pytest.mark.parametrize(
    "array", [np.ones(3, complex), np.zeros(2, "i4,f4"), np.array(["a"]), np.ones(2, np.longdouble)]
)
def test_types_that_no_event_has_are_left_over(tmp_path, array):
    np.save(tmp_path / "logits.npy", array)
    recording = open_recording(tmp_path / "logits.npy")
    assert str(array.dtype) in left(recording)["logits"]
    with pytest.raises(FileFormatError, match="not read"):
        recording.leftovers[0].recorded.read()


def test_bfloat16_is_widened(tmp_path):
    torch = pytest.importorskip("torch")
    expected = torch.from_numpy(numbers(3, 4)).to(torch.bfloat16)
    path = write_bf16(tmp_path / "a.safetensors", expected.view(torch.uint16).numpy())
    found = open_recording(path).tensors["layer0.attn.q"].read()
    np.testing.assert_array_equal(found, expected.float().numpy())


def test_an_eight_bit_float_is_left_over(tmp_path):
    torch, save = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch").save_file
    save(
        {"logits": torch.ones(2, 3).to(torch.float8_e4m3fn), "probs": torch.ones(2, 3)},
        tmp_path / "a.safetensors",
    )
    assert "F8_E4M3" in left(open_recording(tmp_path / "a.safetensors"))["logits"]


def test_an_archive_tells_what_it_did_not_read(tmp_path):
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(1, 3)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme", "x")
    assert open_recording(path).notes == ("not read: 'readme'",)


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path):
    path = write_compressed(tmp_path / "a.npz", {"logits": np.zeros(20_000_000, np.float32)})
    refused(path, "logits", "80,000,128")


def test_an_archive_with_an_array_twice_is_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(1, 3)})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("logits.npy", "x")
    refused(path, "twice")


def test_an_archive_whose_array_is_spoiled_is_refused_when_it_is_read(tmp_path):
    path = write_npz(tmp_path / "a.npz", {"logits": numbers(1, 3)})
    tensor = open_recording(path).tensors["logits"]
    content = bytearray(path.read_bytes())
    content[content.index(numbers(1, 3).tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="logits"):
        tensor.read()


def test_the_reference_arrays_of_a_test_model(tmp_path):
    keys = "attn_norm q_proj k_proj v_proj attn o_proj attn_residual ffn_norm gate_proj up_proj silu_mul "
    keys += "ffn_down out"
    arrays = {f"L{i}__{key}": numbers(3, 4) for i in range(2) for key in keys.split()}
    arrays |= {name: numbers(3, 4) for name in ("embed", "final_norm", "logits")}
    path = write_npz(tmp_path / "a.npz", arrays | {"ids": np.arange(3), "hidden_states": numbers(3, 3, 4)})
    recording = open_recording(path)
    assert len(recording.tensors) == len(arrays)
    assert list(left(recording)) == ["hidden_states"]


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
    assert not is_recording(tmp_path / "empty")
    assert not is_recording(tmp_path / "missing")
    refused(tmp_path / "empty", "APRT")
    refused(tmp_path / "missing", "nothing")
    (tmp_path / "cut.npy").write_bytes(b"")
    refused(tmp_path / "cut.npy", "empty file")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000, 1000000000000000000)}",
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


STATISTICS = {"count": 2, "mean": 0.5, "std": None, "l2_norm": "NaN", "min": -1, "max": 2.0, "max_abs": 2.0}
DOCUMENT = {
    "schema": "microgpt.trace/1",
    "input": {"tokens": [1, 2]},
    "events": [
        {
            **{"seq": 0, "phase": "forward", "stage": "head", "layer": None, "name": "logits", "expr": "x"},
            **{"shape": [1, 2], "dtype": "float32", "values": [[1.5, "NaN"]]},
            "stats": STATISTICS | dict.fromkeys(("zero_count", "nan_count", "inf_count"), 0),
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


def write_aprt_file(folder, stage, values):
    """A dump as apr trace writes it: magic, layer 0, how many numbers, the numbers."""
    path = folder / "layer-0" / f"{stage}.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"APRT" + struct.pack("<II", 0, values.size) + values.astype("<f4").tobytes())


def test_a_directory_of_aprt_dumps(tmp_path):
    write_aprt_file(tmp_path / "d", "ffn_up", numbers(3, 4))
    assert is_recording(tmp_path / "d")
    recording = open_recording(tmp_path / "d", names_of(tokens=(1, 2, 3)))
    assert (list(recording.tensors), recording.tokens) == (["layer0.mlp.up"], (1, 2, 3))
    np.testing.assert_array_equal(recording.tensors["layer0.mlp.up"].read().ravel(), numbers(3, 4).ravel())
    refused(tmp_path / "d", "no map", names=names_of(("logits", "x")), kind=InputError)


@pytest.mark.parametrize("more", [b"x", b"x" * 48])
def test_an_npy_file_with_more_behind_its_array_is_refused(tmp_path, more):
    np.save(tmp_path / "logits.npy", numbers(3, 4))
    with (tmp_path / "logits.npy").open("ab") as file:
        file.write(more)
    refused(tmp_path / "logits.npy", "takes 176 bytes", f"found {176 + len(more)}")


def test_gradients_of_a_document_are_left_out(emma, tmp_path):
    trace = microgpt_trace.trace(emma, "emma", backward=True)
    (tmp_path / "a.json").write_text(to_json(trace, values=True))
    recording = open_recording(tmp_path / "a.json")
    forward = {event.name: event for event in trace if event.phase == "forward"}
    assert recording.statistics == forward
    assert set(recording.tensors) == set(forward)


def test_a_loss_that_an_older_trace_saved_as_an_array_of_one(tmp_path):
    metadata = {"format": "microgpt.arrays/1", "tokens": "[1, 2]"}
    path = write_safetensors(tmp_path / "a.safetensors", {"loss": np.full(1, 2.5, np.float32)}, metadata)
    loss = open_recording(path).tensors["loss"]
    assert (loss.shape, loss.read().shape, float(loss.read())) == ((), (), 2.5)
