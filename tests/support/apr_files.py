"""Write .apr v2 files, right or wrong, of a tiny model with names of GGUF or Hugging Face, and read them."""

import json
import struct
import zlib

import numpy as np
import pytest

from microgpt_trace.decoder.architectures.llama import NAMES
from microgpt_trace.errors import FileFormatError
from microgpt_trace.readers.apr import read_apr

ROW_MAJOR = 0x400


def _names(which):
    """Return the names that GGUF (0) or Hugging Face (1) gives to tensors, by our names."""
    matrices = {ours: f"{theirs[which]}.weight" for ours, theirs in {**NAMES.model, **NAMES.layer}.items()}
    biases = {f"attn_b{x}": matrices[f"attn_w{x}"].replace(".weight", ".bias") for x in "qkv"}
    return matrices | biases


GGUF, HF = _names(0), _names(1)
LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB = 2, 8, 4, 2, 4, 12, 10
METADATA = {
    "architecture": "qwen2", "hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS,
    "num_kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "vocab_size": VOCAB, "intermediate_size": INNER,
    "max_position_embeddings": 64, "rope_theta": 10000.0, "rope_type": 2, "rms_norm_eps": 1e-6,
    "rope_scaling": None,
}  # fmt: skip
QUIET = ("the tensors are named as in Hugging Face",)  # the notes on a file with complete metadata
SHAPES = {
    "attn_norm": (WIDTH,), "attn_wq": (HEADS * HEAD_DIM, WIDTH), "attn_wk": (KV_HEADS * HEAD_DIM, WIDTH),
    "attn_wv": (KV_HEADS * HEAD_DIM, WIDTH), "attn_wo": (WIDTH, HEADS * HEAD_DIM), "mlp_norm": (WIDTH,),
    "mlp_wgate": (INNER, WIDTH), "mlp_wup": (INNER, WIDTH), "mlp_wdown": (WIDTH, INNER),
}  # fmt: skip
BIASES = {f"attn_b{x}": (SHAPES[f"attn_w{x}"][0],) for x in "qkv"}
QK_NORMS = {"attn_q_norm": (HEAD_DIM,), "attn_k_norm": (HEAD_DIM,)}


def align64(size):
    return -(-size // 64) * 64


def header(*, magic=b"APR\0", version=(2, 0), flags=ROW_MAJOR, count, metadata, index, data, checksum=None):
    """Return a header. `metadata` is (offset, size). A checksum of None is computed."""
    front = struct.pack("<4s2BHIQIQQ", magic, *version, flags, count, *metadata, index, data)
    checksum = zlib.crc32(front + bytes(20)) if checksum is None else checksum
    return front + struct.pack("<I", checksum) + bytes(20)


def entry(name, dtype, shape, offset, size):
    name = name.encode() if isinstance(name, str) else name
    place = struct.pack(f"<{len(shape)}Q2Q", *shape, offset, size)
    return struct.pack("<H", len(name)) + name + bytes([dtype, len(shape)]) + place


def apr_bytes(metadata, tensors, *, checksum=None, footer=None, order=sorted, text=None, **fields):
    """Return a file with `tensors`, name -> (dtype, shape, bytes). `text` replaces the metadata."""
    text = json.dumps(metadata, separators=(",", ":")).encode() if text is None else text
    index, data = b"", b""
    for name in order(tensors):
        dtype, shape, content = tensors[name]
        index += entry(name, dtype, shape, len(data), len(content))
        data += content.ljust(align64(len(content)), b"\0")
    index_at = 64 + align64(len(text))
    data_at = index_at + align64(len(index))
    places = {"metadata": (64, len(text)), "index": index_at, "data": data_at}
    head = header(count=len(tensors), checksum=checksum, **places, **fields)
    body = head + text.ljust(index_at - 64, b"\0") + index.ljust(data_at - index_at, b"\0") + data
    return body + struct.pack("<I", zlib.crc32(body) if footer is None else footer)


def f32(array):
    array = np.asarray(array, "<f4")
    return 0, array.shape, array.tobytes()


def tiny_model(names=HF, layer=SHAPES | BIASES, head=True, seed=3):
    """Return the random tensors of a model, and its arrays by our names."""
    rng = np.random.default_rng(seed)
    prefix = "model.layers." if names is HF else "blk."
    theirs = {
        f"layer{i}.{n}": (f"{prefix}{i}.{names[n]}", s) for i in range(LAYERS) for n, s in layer.items()
    }
    theirs |= {"wte": (names["wte"], (VOCAB, WIDTH)), "final_norm": (names["final_norm"], (WIDTH,))}
    theirs |= {"lm_head": (names["lm_head"], (VOCAB, WIDTH))} if head else {}
    arrays = {ours: rng.normal(size=shape).astype(np.float32) for ours, (_, shape) in theirs.items()}
    return {theirs[ours][0]: f32(array) for ours, array in arrays.items()}, arrays


def without(*keys, **changes):
    return {key: value for key, value in METADATA.items() if key not in keys} | changes


def read(path, metadata=METADATA, tensors=None, *, rope_pairs=None, overrides=None, **fields):
    path.write_bytes(apr_bytes(metadata, tensors or tiny_model()[0], **fields))
    return read_apr(path, rope_pairs=rope_pairs, overrides=overrides or {})


def refusal(path, act, error=FileFormatError):
    """Return the error of `act`. It has one line, which names the file."""
    with pytest.raises(error) as caught:
        act()
    message = str(caught.value)
    print(message)
    assert str(path) in message
    assert "\n" not in message
    return message


def read_refusal(path, *args, error=FileFormatError, **options):
    return refusal(path, lambda: read(path, *args, **options), error)
