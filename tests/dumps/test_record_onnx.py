"""Record ONNX Runtime: values equal those of NumPy, and half precision is converted exactly."""

import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from microgpt_trace import record_onnx
from microgpt_trace.dumps.formats import open_recording
from microgpt_trace.errors import InputError


@pytest.fixture
def graph():
    """A function that makes a model from nodes (operation, inputs, outputs, attributes)."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, types = onnx.helper, onnx.TensorProto

    def make(nodes, table):
        inputs = [helper.make_tensor_value_info("input_ids", types.INT64, [1, "T"])]
        outputs = [helper.make_tensor_value_info("logits", types.FLOAT, None)]
        nodes = [helper.make_node(kind, ins, outs, **more) for kind, ins, outs, more in nodes]
        made = helper.make_graph(nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(table, "table")])
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)

    return make


NODES = [
    ("Gather", ["table", "input_ids"], ["embedding"], {}),
    ("Cast", ["embedding"], ["narrow"], {"to": 16}),  # bfloat16
    ("Cast", ["narrow"], ["wide"], {"to": 1}),
    ("Cast", ["wide"], ["half"], {"to": 10}),
    ("Shape", ["wide"], ["shape"], {}),
    ("Mul", ["wide", "wide"], ["logits"], {}),
]
IDS = np.array([[3, 0, 2]])


def test_records_every_floating_value(graph, tmp_path):
    table, target = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32), tmp_path / "theirs"
    model = graph(NODES, table)
    before = model.SerializeToString()
    notes = record_onnx(model, {"input_ids": IDS}, target)
    assert notes == ["left out, because the type is not floating-point: shape"]
    assert model.SerializeToString() == before
    arrays = load_file(target)
    rows = table[IDS]
    bits = rows.view(np.uint32)
    nearest = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    expected = {"embedding": rows, "narrow": nearest, "wide": nearest, "half": nearest.astype(np.float16),
                "logits": nearest * nearest, "input_ids": IDS}  # fmt: skip
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)
        assert arrays[name].dtype == array.dtype
    assert open_recording(target).tokens == (3, 0, 2)


def test_reads_files_whose_weights_are_beside_them(graph, tmp_path):
    import onnx

    table = np.arange(2000, dtype=np.float32).reshape(500, 4)
    path = tmp_path / "model.onnx"
    onnx.save(graph(NODES, table), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (tmp_path / "weights.bin").stat().st_size == table.nbytes
    record_onnx(path, {"input_ids": IDS}, tmp_path / "theirs")
    np.testing.assert_array_equal(load_file(tmp_path / "theirs")["embedding"], table[IDS])
    with pytest.raises(InputError, match="exists already; force=True overwrites it"):
        record_onnx(path, {"input_ids": IDS}, tmp_path / "theirs")
    for model, feeds in ((path, {}), (tmp_path / "none.onnx", {}), (tmp_path / "weights.bin", {})):
        with pytest.raises(InputError, match="ONNX Runtime refuses the model or the feeds: "):
            record_onnx(model, feeds, tmp_path / "other")


def test_names_the_missing_packages(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match="needs two packages: pip install onnx onnxruntime"):
        record_onnx("model.onnx", {}, tmp_path / "theirs")
