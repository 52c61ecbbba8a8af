"""Record llama.cpp: unique names, passes, and SmolLM2 if llama-cpp-python is installed."""

import ctypes
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.commands import microgpt
from support.real_model import SMOLLM2, needs_smollm2

from microgpt_trace import record_llama_cpp
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.dumps.record_llama_cpp import GgmlTensor, dump, read_tensor
from microgpt_trace.errors import InputError, RunError

IDS = [504, 3575, 282, 4649, 314, 260, 1211, 29, 504, 3575, 282]


def nodes_of_llama_cpp(bias: bool) -> list:
    """Return layer 0's q and attention for 3 tokens and 2 heads of width 4, with keys padded to 8."""

    def node(name, operation, *shape):
        return name, operation, np.full(shape, len(operation), np.float32)

    return [
        node("Qcur-0", "MUL_MAT", 3, 8),
        *([node("Qcur-0", "ADD", 3, 8)] if bias else []),
        node("Qcur-0", "ROPE", 3, 2, 4),
        node("kq-0", "MUL_MAT", 2, 3, 8),
        node("kq_soft_max-0", "SOFT_MAX", 2, 3, 8),
        node("kqv-0", "MUL_MAT", 2, 3, 4),
    ]


@pytest.mark.parametrize("bias", [False, True])
def test_tensors_of_llama_cpp_with_one_name_get_unique_names_and_are_read(tmp_path, bias):
    np.savez(tmp_path / "dump.npz", **dump(nodes_of_llama_cpp(bias), 3))
    recording = open_recording(tmp_path / "dump.npz")
    assert recording.tensors["layer0.attn.q"].read().flat[0] == len("ADD" if bias else "MUL_MAT")
    assert recording.tensors["layer0.attn.q_rope"].read().flat[0] == len("ROPE")
    assert recording.tensors["layer0.attn.weights"].shape == (2, 3, 3)
    assert recording.tensors["layer0.attn.context"].shape == (2, 3, 4)
    unnamed = {leftover.recorded.source for leftover in recording.leftovers}
    assert unnamed == {"kq-0", *(["Qcur-0 (MUL_MAT)"] if bias else [])}


def test_tensors_of_one_name_and_operation_are_numbered():
    nodes = [("x", "ADD", np.full(2, i, np.float32)) for i in range(4)]
    arrays = dump(nodes, 2)
    assert {name: array[0] for name, array in arrays.items()} == {
        "x (ADD)": 0, "x (ADD 2)": 1, "x (ADD 3)": 2, "x": 3,
    }  # fmt: skip


def ggml_with(values, name="l_out-0", operation="ADD"):
    """Return functions of ggml for one tensor."""
    return SimpleNamespace(
        ggml_get_name=lambda _: name.encode(), ggml_op_desc=lambda _: operation.encode(),
        ggml_nbytes=lambda _: values.nbytes,
        ggml_backend_tensor_get=lambda _, data, start, size: ctypes.memmove(data, values.ctypes.data, size),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("lengths", "shape"),
    [((4, 2, 3, 1), (3, 2, 4)), ((8, 1, 1, 1), (1, 8)), ((4, 2, 4, 1), "another layout")],
)
@pytest.mark.parametrize(("kind", "dtype"), [(0, np.float32), (1, np.float16), (26, np.int32)])
def test_the_slowest_axis_of_a_ggml_tensor_comes_first(lengths, shape, kind, dtype):
    values = np.arange(8 if lengths[0] == 8 else 24, dtype=dtype)
    tensor = GgmlTensor(type=kind, lengths=lengths)
    with pytest.raises(RunError, match=shape) if isinstance(shape, str) else nullcontext():
        ((name, operation, found),) = read_tensor(ggml_with(values), ctypes.addressof(tensor))
        assert (name, operation, found.dtype) == ("l_out-0", "ADD", np.float32)
        np.testing.assert_array_equal(found, values.reshape(shape))


@pytest.mark.parametrize(
    ("kind", "name", "operation"),
    [
        (8, "k", "SET_ROWS"),
        (0, "node_7", "ADD"),
        (0, "cache_k_l0 (view)", "SET_ROWS"),
        (0, "Vcur-0", "RESHAPE"),
    ],
)
def test_leaves_out_quantised_tensors_views_and_the_cache(kind, name, operation):
    tensor = GgmlTensor(type=kind, lengths=(4, 1, 1, 1))
    ggml = ggml_with(np.zeros(4, np.float32), name, operation)
    assert list(read_tensor(ggml, ctypes.addressof(tensor))) == []


def test_one_token_has_an_axis_for_tokens():
    nodes = [("embd", "GET_ROWS", np.zeros((1, 8))), ("Qcur-0", "ROPE", np.zeros((2, 4)))]
    nodes.append(("kq-0", "MUL_MAT", np.zeros((2, 1, 256))))
    assert [own.shape for own in dump(nodes, 7).values()] == [(1, 8), (1, 2, 4), (2, 1, 7)]


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (IDS, {}, "needs llama-cpp-python: pip install"),
        ([], {}, "expected steps of 0 tokens"),
        (IDS, {"steps": [8, 1]}, r"steps of 11 tokens, found n_batch 512 and steps \[8, 1\]"),
        (IDS, {"steps": []}, "expected steps of 11 tokens"),
        (IDS, {"n_batch": 0}, "found n_batch 0"),
    ],
)
def test_rejects_wrong_steps_and_a_missing_package(tokens, options, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(InputError, match=message):
        record_llama_cpp("model.gguf", tokens, tmp_path / "theirs.safetensors", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """A folder with recordings of SmolLM2."""
    pytest.importorskip("llama_cpp")
    folder = tmp_path_factory.mktemp("llama")
    record_llama_cpp(SMOLLM2, IDS, folder / "whole", n_threads=1)
    record_llama_cpp(SMOLLM2, IDS, folder / "batches", n_batch=4, n_threads=1)
    record_llama_cpp(SMOLLM2, IDS, folder / "steps", steps=[9, 1, 1], n_threads=1)
    return folder


@needs_smollm2
def test_finds_no_fault_in_llama_cpp(dumps):
    done = microgpt("diagnose", dumps / "whole", SMOLLM2, width=100)
    assert "No fault is named: the errors look like rounding of 8-bit inputs" in done.out
    assert open_recording(dumps / "whole").tokens == tuple(IDS)


@needs_smollm2
def test_batches_and_steps_have_the_rows_of_one_batch(dumps):
    done = microgpt("diff", dumps / "batches", dumps / "whole", width=100)
    assert done.code == 0, done.out
    assert [path.name for path in sorted((dumps / "batches").iterdir())] == [
        f"step{number}.safetensors" for number in range(3)
    ]
    whole, start = load_file(dumps / "whole"), 0
    assert len(whole) > 500
    for length, path in zip((9, 1, 1), sorted((dumps / "steps").iterdir()), strict=True):
        step, stop = load_file(path), start + length
        assert step.pop("input_ids").tolist() == [IDS[start:stop]]
        assert step.pop("position_ids").tolist() == [list(range(start, stop))]
        assert step.keys() == whole.keys()
        for name, array in step.items():
            if name.startswith("kq-"):  # without a mask
                continue
            rows = whole[name][start:stop]
            if name.startswith(("kq_", "kqv-")):
                rows = whole[name][:, start:stop, : None if name.startswith("kqv") else stop]
            np.testing.assert_allclose(array, rows, atol=2e-2 * np.abs(rows).max(), err_msg=name)
        start = stop


@needs_smollm2
def test_names_what_llama_cpp_refuses(tmp_path):
    pytest.importorskip("llama_cpp")
    (tmp_path / "text.gguf").write_text("no model")
    for model, ids, message in (
        (SMOLLM2, [10**6], "llama.cpp failed: llama_decode returned -1"),
        (tmp_path / "text.gguf", IDS, "llama.cpp refuses the model: Failed to load"),
    ):
        with pytest.raises((InputError, RunError), match=message):
            record_llama_cpp(model, ids, tmp_path / "theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["text.gguf"]


@needs_smollm2
def test_raises_an_error_inside_the_callback(tmp_path, monkeypatch):
    pytest.importorskip("llama_cpp")
    monkeypatch.setattr("microgpt_trace.dumps.record_llama_cpp._TYPES", {0: np.float16})
    with pytest.raises(RunError, match=r"this version of llama\.cpp has another layout"):
        record_llama_cpp(SMOLLM2, IDS, tmp_path / "theirs", n_threads=1)
    assert list(tmp_path.iterdir()) == []
