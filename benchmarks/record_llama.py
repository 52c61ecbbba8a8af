"""What llama.cpp itself computes, as dumps: python benchmarks/record_llama.py MODEL FOLDER NAME=TEXT ...

Writes MODEL in several types (requantise.py) to FOLDER/TYPE.gguf and, for each of them and each text, every
float32 tensor of llama.cpp's graph to FOLDER/TYPE-NAME.npz under the name that it has there, which
`microgpt diff` and `microgpt diagnose` read. Flash attention is off, so that kq and its softmax exist, and
the logits of every position are asked for, so that the last layer has all rows.

The graph uses some names several times. The last tensor has the name; the one that RoPE reads is called
"Qcur-0 (reshaped)", as llama.cpp called it until 2025; any other has its operation in brackets. Keys of
the cache behind the last token, with which it is padded, are left out of kq and its softmax.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from requantise import TYPES, requantise

F32 = 0  # ggml_type
VIEWS = ("VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE")  # other names for values that are recorded already
UNNAMED = "node_"


class Node(NamedTuple):
    """A tensor of the graph, in the order in which they are computed."""

    name: str
    operation: str
    values: np.ndarray


class Tensor(ctypes.Structure):
    """ggml_tensor in ggml.h, as far as its data; `described` holds it against what ggml says itself."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("lengths", ctypes.c_int64 * 4),
        ("strides", ctypes.c_size_t * 4),
    ]


def record(model: Path, ids: Sequence[int], threads: int) -> list[Node]:
    """The float32 tensors of one evaluation of a prompt."""
    import llama_cpp

    nodes: list[Node] = []
    failed: list[Exception] = []
    read = reader()

    def after(pointer: int, asks: bool, _: Any) -> bool:
        if asks:  # whether we want the tensor that comes next
            return True
        try:
            if (node := read(pointer)) is not None:
                nodes.append(node)
        except Exception as error:  # ctypes would print it and go on
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
    """Decode a prompt as one batch, with the logits of every position."""
    import llama_cpp

    loaded = load(model)
    context = llama_cpp.llama_init_from_model(loaded, params)
    if not context:
        raise RuntimeError(f"{model}: llama.cpp made no context of {len(ids)} tokens")
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


def load(model: Path, only_words: bool = False) -> Any:
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers, params.vocab_only = 0, only_words
    loaded = llama_cpp.llama_model_load_from_file(os.fsencode(model), params)
    if not loaded:
        raise RuntimeError(f"{model}: llama.cpp did not load it")
    return loaded


def tokens(model: Path, text: str) -> list[int]:
    """The text in llama.cpp's own tokens, with those that the model puts before it."""
    import llama_cpp

    loaded, data = load(model, only_words=True), text.encode()
    room = (llama_cpp.llama_token * (len(data) + 8))()
    vocabulary = llama_cpp.llama_model_get_vocab(loaded)
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), room, len(room), True, True)
    llama_cpp.llama_model_free(loaded)
    return list(room[:count])


def reader() -> Callable[[int], Node | None]:
    """A function that reads the tensor at an address; None if it is of no use."""
    ggml = libraries()

    def read(pointer: int) -> Node | None:
        name, operation = ggml.ggml_get_name(pointer).decode(), ggml.ggml_op_desc(pointer).decode()
        shape, strides, kind = described(ggml, pointer)
        if kind != F32 or operation in VIEWS or name.startswith(UNNAMED):
            return None
        size = ggml.ggml_nbytes(pointer)
        data = ctypes.create_string_buffer(size)
        ggml.ggml_backend_tensor_get(pointer, data, 0, size)
        values = np.ndarray(shape, np.float32, data, strides=strides).copy()
        return Node(name, operation, values)

    return read


def libraries() -> Any:
    """The functions of libggml-base that tell about a tensor."""
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


def described(ggml: Any, pointer: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shape, strides in bytes and type, the slowest axis first and of those of length 1 two at most.

    RuntimeError where the struct is laid out otherwise than we read it.
    """
    tensor = Tensor.from_address(pointer)
    lengths, strides = tuple(tensor.lengths), tuple(tensor.strides)
    if int(np.prod(lengths)) != ggml.ggml_nelements(pointer) or strides[0] != ggml.ggml_element_size(pointer):
        raise RuntimeError("ggml_tensor is laid out otherwise in this version of llama.cpp")
    axes = max([2, *(i + 1 for i in range(4) if lengths[i] > 1)])
    return lengths[axes - 1 :: -1], strides[axes - 1 :: -1], tensor.type


def dump(nodes: Sequence[Node], length: int) -> dict[str, np.ndarray]:
    """Arrays under names of their own; `length` is that of the prompt."""
    arrays: dict[str, np.ndarray] = {}
    for name, same in grouped(nodes).items():
        for i, node in enumerate(same):
            following = same[i + 1].operation if i + 1 < len(same) else None
            arrays[called(name, node.operation, following, arrays)] = without_padding(node, length)
    return arrays


def grouped(nodes: Sequence[Node]) -> dict[str, list[Node]]:
    """The tensors of each name, in the order of the graph."""
    found: dict[str, list[Node]] = {}
    for node in nodes:
        found.setdefault(node.name, []).append(node)
    return found


def called(name: str, operation: str, following: str | None, taken: dict[str, np.ndarray]) -> str:
    """What a tensor is called in the dump; `following` is the operation of the next of its name."""
    if following is None:
        return name
    if following == "ROPE":
        return f"{name} (reshaped)"
    number = sum(key.startswith(f"{name} ({operation}") for key in taken)
    return f"{name} ({operation}{f' {number + 1}' if number else ''})"


def without_padding(node: Node, length: int) -> np.ndarray:
    """[H, T, padded] -> [H, T, T] where these are scores or weights of attention."""
    return node.values[..., :length] if node.name.startswith(("kq-", "kq_")) else node.values


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", nargs="+", metavar="NAME=TEXT")
    parser.add_argument("--types", default=",".join(TYPES), help=f"({','.join(TYPES)})")
    parser.add_argument("--threads", type=int, default=1, help="(1)")
    options = parser.parse_args()
    import llama_cpp
    from llama_cpp._logger import set_verbose

    set_verbose(False)
    print(f"llama-cpp-python {llama_cpp.__version__}: {llama_cpp.llama_print_system_info().decode()}")
    for model in requantise(options.model, options.folder, options.types.split(",")):
        for name, _, text in (given.partition("=") for given in options.texts):
            ids = tokens(model, text)
            arrays = dump(record(model, ids, options.threads), len(ids))
            out = options.folder / f"{model.stem}-{name}.npz"
            np.savez(out, tokens=np.array(ids), **arrays)
            print(f"{out}: {len(arrays)} tensors of {len(ids)} tokens")


if __name__ == "__main__":
    sys.exit(main())
