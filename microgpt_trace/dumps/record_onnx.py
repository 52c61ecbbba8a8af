"""Record every value that ONNX Runtime computes, under the names of the ONNX graph."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import check_target, write_atomically
from ..text.wording import abridged

_HALF, _FLOATS = "tensor(bfloat16)", ("tensor(float)", "tensor(float16)", "tensor(double)")


def record_onnx(
    model: Any, feeds: Mapping[str, Any], out: str | os.PathLike[str], *, force: bool = False
) -> list[str]:
    """Run an ONNX model, a file or a ModelProto, and save its floating-point values as safetensors, without
    the optimisations that fuse or remove nodes. Return a note for values of other types, which are left out.

    `feeds` contains an array for each input. Arrays of whole numbers such as input_ids are saved too.
    bfloat16 is converted to float32 exactly. A map assigns the names of the graph to events. For example:

        record_onnx("model.onnx", {"input_ids": np.array([[504, 3575]])}, "theirs.safetensors")

    Raises InputError without onnx and onnxruntime, for a model or feeds that ONNX Runtime refuses, and if
    `out` exists (unless `force`).
    """
    check_target(Path(out), force, "force=True overwrites it")
    try:
        import onnx
        import onnxruntime
        from safetensors.numpy import save
    except ImportError as error:
        raise InputError("record_onnx needs two packages: pip install onnx onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors only: ONNX Runtime warns about outputs without a type
    is_file = not hasattr(model, "graph")
    if is_file:
        weights = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(weights, str(Path(model).resolve().parent))
    try:
        proto = onnx.ModelProto()
        proto.CopyFrom(onnx.load(model, load_external_data=False) if is_file else model)
        known = {own.name for own in proto.graph.output}
        names = [name for node in proto.graph.node for name in node.output if name and name not in known]
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)  # the type is inferred

        def session() -> Any:
            return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])

        running = session()
        kinds = {own.name: own.type for own in running.get_outputs()}
        fetched = {name: name for name, kind in kinds.items() if kind in _FLOATS}
        halves = {name: f"{name} as float32" for name, kind in kinds.items() if kind == _HALF}
        if halves:  # NumPy has no bfloat16
            for name, wide in halves.items():
                proto.graph.node.append(
                    onnx.helper.make_node("Cast", [name], [wide], to=onnx.TensorProto.FLOAT)
                )
                proto.graph.output.append(onnx.ValueInfoProto(name=wide))
            running = session()
        fetched |= halves
        values = running.run([*fetched.values()], {name: np.asarray(own) for name, own in feeds.items()})
    except Exception as error:  # onnx and ONNX Runtime raise classes of their own
        raise InputError(f"ONNX Runtime refuses the model or the feeds: {error}") from error
    arrays = {name: np.asarray(own, order="C") for name, own in zip(fetched, values, strict=True)}
    whole = {name: np.asarray(own, order="C") for name, own in feeds.items()}
    arrays |= {name: own for name, own in whole.items() if own.dtype.kind in "iu" and name not in arrays}
    write_atomically(Path(out), save(arrays), force)
    others = [name for name in kinds if name not in fetched]
    return [f"left out, because the type is not floating-point: {abridged(others)}"] if others else []
