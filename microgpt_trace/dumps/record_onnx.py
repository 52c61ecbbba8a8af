"""Record every value that ONNX Runtime computes, under the names of the ONNX graph."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..files import check_target, write_atomically
from ..text.wording import abridged

_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


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
    given = {name: np.asarray(own, order="C") for name, own in feeds.items()}
    try:
        values, others = _run(onnx, onnxruntime, model, given)
    except Exception as error:  # onnx and ONNX Runtime raise classes of their own
        raise InputError(f"ONNX Runtime refuses the model or the feeds: {error}") from error
    whole = {name: own for name, own in given.items() if own.dtype.kind in "iu"}
    write_atomically(Path(out), save(whole | values), force)
    return [f"left out, because the type is not floating-point: {abridged(others)}"] if others else []


def _run(
    onnx: Any, runtime: Any, model: Any, feeds: Mapping[str, Array]
) -> tuple[dict[str, Array], list[str]]:
    """Return the floating-point values by name, and the names of all other values."""
    options, proto = runtime.SessionOptions(), onnx.ModelProto()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors only: ONNX Runtime warns about outputs without a type
    if not hasattr(model, "graph"):
        folder = str(Path(model).resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        model = onnx.load(model, load_external_data=False)
    proto.CopyFrom(model)

    def session(added: Iterable[str]) -> Any:
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)  # the type is inferred
        return runtime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])

    known = {"", *(own.name for own in proto.graph.output)}
    running = session(name for node in proto.graph.node for name in node.output if name not in known)
    kinds = {own.name: own.type for own in running.get_outputs()}
    wide = {name: f"{name} as float32" for name, kind in kinds.items() if kind == "tensor(bfloat16)"}
    if wide:  # NumPy has no bfloat16
        casts = (onnx.helper.make_node("Cast", [own], [wide[own]], to=onnx.TensorProto.FLOAT) for own in wide)
        proto.graph.node.extend(casts)
        running = session(wide.values())
    fetched = wide | {name: name for name, kind in kinds.items() if kind in _FLOATS}
    values = running.run([*fetched.values()], feeds)
    arrays = {name: np.asarray(own, order="C") for name, own in zip(fetched, values, strict=True)}
    return arrays, [name for name in kinds if name not in fetched]
