"""Record the values that llama.cpp computes: python benchmarks/record_llama.py MODEL FOLDER NAME=TEXT ...

Writes MODEL in several types (requantise.py) to FOLDER/TYPE.gguf. For each type and each text, it writes
every named float32 tensor of llama.cpp's graph to FOLDER/TYPE-NAME.npz, which `microgpt diff` and `microgpt
diagnose` read. Flash attention is off, so that kq and its softmax exist. All positions get logits, so that
the last layer has all rows.

The graph uses some names several times. The last tensor keeps the name. The tensor that RoPE reads is called
"Qcur-0 (reshaped)", as llama.cpp called it until 2025. Any other gets its operation in brackets. kq and its
softmax are stored without the padding of the cache after the last token.
"""

from __future__ import annotations

import argparse
import ctypes
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from requantise import TYPES, requantise

F32 = 0  # ggml_type
VIEWS = ("VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE")  # operations that compute no new values
UNNAMED = "node_"


class Node(NamedTuple):
    """A tensor of the graph."""

    name: str
    operation: str
    values: np.ndarray


class Tensor(ctypes.Structure):
    """The first fields of ggml_tensor in ggml.h. `layout` checks them with functions of ggml."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("lengths", ctypes.c_int64 * 4),
        ("strides", ctypes.c_size_t * 4),
    ]


def record(model: Path, ids: Sequence[int], threads: int) -> list[Node]:
    """Return the float32 tensors of one evaluation of a prompt, in order of computation."""
    import llama_cpp

    nodes: list[Node] = []
    failed: list[Exception] = []
    read = reader()

    def after(pointer: int, before: bool, _: Any) -> bool:
        if before:  # llama.cpp asks whether to report the next tensor
            return True
        try:
            if (node := read(pointer)) is not None:
                nodes.append(node)
        except Exception as error:  # ctypes would only print it and continue
            failed.append(error)
        return not failed

    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = len(ids)
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cb_eval = callback = llama_cpp.llama_cpp.ggml_backend_sched_eval_callback(after)
    evaluate(model, params, ids)
    del callback
    if failed:
        raise failed[0]
    return nodes


def evaluate(model: Path, params: Any, ids: Sequence[int]) -> None:
    """Decode a prompt as one batch, with logits at every position."""
    import llama_cpp

    loaded = load(model)
    context = llama_cpp.llama_init_from_model(loaded, params)
    if not context:
        raise RuntimeError(f"{model}: llama.cpp could not create a context of {len(ids)} tokens")
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for i, token in enumerate(ids):
        batch.token[i], batch.pos[i], batch.logits[i] = token, i, True
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
    status = llama_cpp.llama_decode(context, batch)
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(loaded)
    if status:
        raise RuntimeError(f"{model}: llama_decode returned {status}")


def load(model: Path, vocab_only: bool = False) -> Any:
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers, params.vocab_only = 0, vocab_only
    loaded = llama_cpp.llama_model_load_from_file(os.fsencode(model), params)
    if not loaded:
        raise RuntimeError(f"{model}: llama.cpp could not load the model")
    return loaded


def tokens(model: Path, text: str) -> list[int]:
    """Return the token ids of a text, with the special tokens that the model adds."""
    import llama_cpp

    loaded, data = load(model, vocab_only=True), text.encode()
    room = (llama_cpp.llama_token * (len(data) + 8))()
    vocabulary = llama_cpp.llama_model_get_vocab(loaded)
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), room, len(room), True, True)
    llama_cpp.llama_model_free(loaded)
    return list(room[:count])


def reader() -> Callable[[int], Node | None]:
    """Return a function that reads the tensor at an address, or returns None if it is not to be recorded."""
    ggml = libraries()

    def read(pointer: int) -> Node | None:
        name, operation = ggml.ggml_get_name(pointer).decode(), ggml.ggml_op_desc(pointer).decode()
        shape, strides, kind = layout(ggml, pointer)
        if kind != F32 or operation in VIEWS or name.startswith(UNNAMED):
            return None
        size = ggml.ggml_nbytes(pointer)
        data = ctypes.create_string_buffer(size)
        ggml.ggml_backend_tensor_get(pointer, data, 0, size)
        values = np.ndarray(shape, np.float32, data, strides=strides).copy()
        return Node(name, operation, values)

    return read


def libraries() -> Any:
    """Load libggml-base and declare the functions that read a tensor."""
    import llama_cpp
    from llama_cpp._ctypes_extensions import load_shared_library

    ggml = load_shared_library("ggml-base", Path(llama_cpp.__file__).parent / "lib")
    for name, result in {
        "ggml_get_name": ctypes.c_char_p,
        "ggml_op_desc": ctypes.c_char_p,
        "ggml_nbytes": ctypes.c_size_t,
        "ggml_nelements": ctypes.c_int64,
        "ggml_element_size": ctypes.c_size_t,
    }.items():
        function = getattr(ggml, name)
        function.argtypes, function.restype = [ctypes.c_void_p], result
    ggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_size_t] * 2]
    ggml.ggml_backend_tensor_get.restype = None
    return ggml


def layout(ggml: Any, pointer: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Return the shape, the strides in bytes and the type of a tensor, with the slowest axis first.

    Leading axes of length 1 are dropped down to two axes. Raises RuntimeError if the struct of this version
    of llama.cpp has another layout.
    """
    tensor = Tensor.from_address(pointer)
    lengths, strides = tuple(tensor.lengths), tuple(tensor.strides)
    if int(np.prod(lengths)) != ggml.ggml_nelements(pointer) or strides[0] != ggml.ggml_element_size(pointer):
        raise RuntimeError("This version of llama.cpp has another layout of ggml_tensor")
    axes = max([2, *(i + 1 for i in range(4) if lengths[i] > 1)])
    return lengths[axes - 1 :: -1], strides[axes - 1 :: -1], tensor.type


def dump(nodes: Sequence[Node], length: int) -> dict[str, np.ndarray]:
    """Return the arrays under unique names. `length` is the number of tokens of the prompt."""
    arrays: dict[str, np.ndarray] = {}
    by_name: dict[str, list[Node]] = {}
    for node in nodes:
        by_name.setdefault(node.name, []).append(node)
    for name, same in by_name.items():
        for i, node in enumerate(same):
            following = same[i + 1].operation if i + 1 < len(same) else None
            arrays[unique_name(name, node.operation, following, arrays)] = without_padding(node, length)
    return arrays


def unique_name(name: str, operation: str, following: str | None, names: Collection[str]) -> str:
    """Return the name in the dump. `following` is the operation of the next tensor of the same name."""
    if following is None:
        return name
    if following == "ROPE":
        return f"{name} (reshaped)"
    number = sum(key.startswith(f"{name} ({operation}") for key in names)
    return f"{name} ({operation}{f' {number + 1}' if number else ''})"


def without_padding(node: Node, length: int) -> np.ndarray:
    """Cut attention scores and weights [H, T, padded] to [H, T, T]."""
    return node.values[..., :length] if node.name.startswith(("kq-", "kq_")) else node.values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="GGUF file")
    parser.add_argument("folder", type=Path, help="folder for models and dumps")
    parser.add_argument("texts", nargs="+", metavar="NAME=TEXT", help='such as "france=The capital of"')
    parser.add_argument("--types", default=",".join(TYPES), help="types to write; default: %(default)s")
    parser.add_argument("--threads", type=int, default=1, help="number of threads; default: 1")
    options = parser.parse_args()
    import llama_cpp
    from llama_cpp._logger import set_verbose

    set_verbose(False)
    print(f"llama-cpp-python {llama_cpp.__version__}: {llama_cpp.llama_print_system_info().decode()}")
    for model in requantise(options.model, options.folder, options.types.split(",")):
        for name, _, text in (item.partition("=") for item in options.texts):
            ids = tokens(model, text)
            arrays = dump(record(model, ids, options.threads), len(ids))
            out = options.folder / f"{model.stem}-{name}.npz"
            np.savez(out, tokens=np.array(ids), **arrays)
            print(f"{out}: {len(arrays)} tensors of {len(ids)} tokens")


if __name__ == "__main__":
    main()
