"""Record the tensors that llama.cpp computes, under llama.cpp's names, through llama-cpp-python.

llama.cpp's graph uses some names several times. The last tensor keeps the name. The tensor that RoPE reads is
called "Qcur-0 (reshaped)", as llama.cpp called it until 2025. Any other gets its operation in brackets.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError, RunError
from ..files import pass_files
from .stored_arrays import write_arrays

_TYPES = {0: np.float32, 1: np.float16, 26: np.int32}  # of ggml_type
_VIEWS = ("VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE")  # operations that compute no new values
_LEFT_OUT = ("node_", "cache_")  # tensors without a name, and the whole cache
_OVER_KEYS = ("kq-", "kq_")  # [H, T, keys]
Node = tuple[str, str, Array]  # a tensor of the graph: name, operation and values


class GgmlTensor(ctypes.Structure):
    """The first fields of ggml_tensor in ggml.h."""

    _fields_ = (("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("lengths", ctypes.c_int64 * 4))


def record_llama_cpp(
    gguf: str | os.PathLike[str], tokens: Sequence[int], out: str | os.PathLike[str], *, force: bool = False,
    steps: Sequence[int] | None = None, n_batch: int = 512, n_threads: int | None = None,
) -> None:  # fmt: skip
    """Run llama.cpp over `tokens`, and save the float32 values of all named tensors as safetensors.

    `diff` and `diagnose` read the file. All positions get logits. `steps` lists the lengths of passes, such
    as [5, 1, 1] for a prefill and two decoding steps. By default, each pass reads `n_batch` tokens. If there
    are several passes, `out` is a new folder with step0.safetensors and so on. For example:

        record_llama_cpp("model.gguf", [504, 3575, 282], "theirs.safetensors", n_threads=1)

    Raises InputError without llama-cpp-python, for a model that llama.cpp refuses, and if `out` exists
    (unless `force`). Raises RunError if llama.cpp fails.
    """
    ids = np.array([tokens], np.int64)
    default = np.diff([*range(0, ids.size, max(1, n_batch)), ids.size]).tolist()
    lengths = default if steps is None else list(steps)
    if min([*lengths, ids.size, n_batch]) < 1 or sum(lengths) != ids.size:
        raise InputError(f"expected steps of {ids.size} tokens, found n_batch {n_batch} and steps {lengths}")
    several = steps is not None or len(lengths) > 1
    options: dict[str, Any] = {"n_ctx": ids.size, "n_batch": max(lengths), "n_ubatch": max(lengths)}
    options |= {"n_threads": n_threads, "n_threads_batch": n_threads}
    model = {"family": "recorded", "class": "llama.cpp", "origin": os.fspath(gguf), "options": repr(options)}
    with pass_files(Path(out), several, force) as paths, _engine(gguf, options) as evaluate:
        for start, stop in pairwise([0, *np.cumsum(lengths).tolist()]):
            own = ids[0, start:stop].tolist()
            inputs = {"input_ids": ids[:, start:stop], "position_ids": np.arange(start, stop)[None]}
            write_arrays(
                next(paths), dump(evaluate(own), stop) | (inputs if several else {}), text="", tokens=own,
                positions=range(stop - start), model=model, overwrite=force,
            )  # fmt: skip


@contextmanager
def _engine(
    gguf: str | os.PathLike[str], options: dict[str, Any]
) -> Iterator[Callable[[list[int]], list[Node]]]:
    """Yield a function that evaluates the next tokens, and returns the tensors in the order of the graph."""
    try:
        import llama_cpp
        from llama_cpp._ctypes_extensions import load_shared_library
    except ImportError as error:
        raise InputError("record_llama_cpp needs llama-cpp-python: pip install llama-cpp-python") from error
    ggml = _functions(load_shared_library("ggml-base", Path(llama_cpp.__file__).parent / "lib"))
    nodes: list[Node] = []
    failed: list[Exception] = []

    def after(pointer: int, before: bool, _: Any) -> bool:
        try:
            # llama.cpp first asks whether to report the tensor
            nodes.extend([] if before else read_tensor(ggml, pointer))
        except Exception as error:  # ctypes would only print it and continue
            failed.append(error)
        return not failed

    own, default_params = llama_cpp.llama_cpp, llama_cpp.llama_context_default_params
    params = default_params()
    params.cb_eval = own.ggml_backend_sched_eval_callback(after)
    own.llama_context_default_params = lambda: params  # Llama has no argument for the callback
    try:
        engine = llama_cpp.Llama(os.fspath(gguf), logits_all=True, swa_full=True, verbose=False, **options)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{os.fspath(gguf)}: llama.cpp refuses the model: {error}") from error
    finally:
        own.llama_context_default_params = default_params

    def evaluate(tokens: list[int]) -> list[Node]:
        nodes.clear()
        try:
            engine.eval(tokens)
        except RuntimeError as error:
            raise RunError(f"{os.fspath(gguf)}: llama.cpp failed: {error}") from error
        if failed:  # llama.cpp stops the graph without an error
            raise failed[0]
        return nodes

    with closing(engine):
        yield evaluate


def _functions(ggml: Any) -> Any:
    """Declare the functions of libggml-base that read a tensor."""
    for function in (ggml.ggml_get_name, ggml.ggml_op_desc, ggml.ggml_nbytes):
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_char_p
    ggml.ggml_nbytes.restype = ctypes.c_size_t
    ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_size_t] * 2]
    return ggml


def read_tensor(ggml: Any, pointer: int) -> Iterator[Node]:
    """Yield the tensor at an address, unless it is a view, has no name, or has a quantised type. The slowest
    axis comes first. Leading axes of length 1 are dropped down to two axes. Raises RunError if the struct of
    this version of llama.cpp has another layout."""
    name, operation = ggml.ggml_get_name(pointer).decode(), ggml.ggml_op_desc(pointer).decode()
    tensor = GgmlTensor.from_address(pointer)
    if tensor.type not in _TYPES or operation in _VIEWS or name.startswith(_LEFT_OUT):
        return
    data, dtype = np.empty(ggml.ggml_nbytes(pointer), np.uint8), np.dtype(_TYPES[tensor.type])
    lengths = tuple(tensor.lengths)[::-1]
    if math.prod(lengths) * dtype.itemsize != data.size:
        raise RunError("this version of llama.cpp has another layout of ggml_tensor")
    ggml.ggml_backend_tensor_get(pointer, data.ctypes.data, 0, data.size)
    first = next((i for i in (0, 1) if lengths[i] > 1), 2)
    yield name, operation, data.view(dtype).reshape(lengths[first:]).astype(np.float32)


def dump(nodes: Sequence[Node], keys: int) -> dict[str, Array]:
    """Return the arrays of a batch under unique names. `keys` is the number of tokens so far."""
    arrays: dict[str, Array] = {}
    for i, (name, operation, values) in enumerate(nodes):
        later = [own[1] for own in nodes[i + 1 :] if own[0] == name]
        if later:
            numbered = (f"{name} ({operation}{f' {n}' if n > 1 else ''})" for n in count(1))
            unused = next(other for other in numbered if other not in arrays)
            name = f"{name} (reshaped)" if later[0] == "ROPE" else unused
        # the cache has empty places after the last token
        arrays[name] = values[..., :keys] if name.startswith(_OVER_KEYS) else values
    length = len(next(iter(arrays.values())))
    if length == 1:  # ggml drops the axis of one token
        return {name: own[None] if own.ndim == 2 and len(own) > 1 else own for name, own in arrays.items()}
    return arrays
