"""Write GGUF files for the tests, right or wrong."""

import struct

import numpy as np

from microgpt_trace.readers.gguf import TYPES

NUMBERS = {name: kind for kind, name in TYPES.items()}
# The keys that a qwen2 needs, and the keys of yarn scaling
NEEDED = [
    "general.architecture", "qwen2.block_count", "qwen2.embedding_length", "qwen2.feed_forward_length",
    "qwen2.attention.head_count", "qwen2.attention.layer_norm_rms_epsilon", "qwen2.context_length",
]  # fmt: skip
YARN = {
    "qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 8.0,
    "qwen2.rope.scaling.original_context_length": 64, "qwen2.rope.scaling.yarn_beta_fast": 16.0,
    "qwen2.rope.scaling.yarn_beta_slow": 2.0,
}  # fmt: skip


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def string(text):
    content = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return u64(len(content)) + content


def type_and_bytes(value):
    """Return the type and the bytes of a metadata value."""
    if isinstance(value, bool):
        return 7, struct.pack("<?", value)
    if isinstance(value, int):
        kind, code = (11, "q") if value < 0 else (10, "Q") if value >> 32 else (4, "I")
        return kind, struct.pack(f"<{code}", value)
    if isinstance(value, float):
        return 12, struct.pack("<d", value)
    if isinstance(value, str | bytes):
        return 8, string(value)
    parts = [type_and_bytes(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    kind = parts[0][0] if parts else 4
    return 9, u32(kind) + u64(len(parts)) + b"".join(content for _, content in parts)


def pair(key, value):
    kind, content = type_and_bytes(value)
    return string(key) + u32(kind) + content


def entry(name, dims, kind=0, offset=0):
    return string(name) + u32(len(dims)) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


def assemble(pairs=b"", entries=b"", data=b"", *, version=3, tensors=1, metadata=0, alignment=32):
    """Return a file of these parts, unchecked."""
    head = b"GGUF" + u32(version) + u64(tensors) + u64(metadata) + pairs + entries
    return b"".join((head, bytes(-len(head) % alignment), data))


def gguf_bytes(metadata, tensors):
    """Return a well-formed file with metadata and StoredTensors, whose values are not checked."""
    index, data = bytearray(), bytearray()  # bytes would be copied for each tensor
    for tensor in tensors:
        index += entry(tensor.name, tensor.shape[::-1], NUMBERS[tensor.encoding.name], len(data))
        data += tensor.data.tobytes()
        data += bytes(-len(data) % 32)
    pairs = b"".join(pair(key, value) for key, value in metadata.items())
    return assemble(pairs, index, data, tensors=len(tensors), metadata=len(metadata))


def rewrite(path, right, changes=(), tensors=None):
    """Write a right file with changed metadata (None removes a key) or other tensors. Return its path."""
    metadata = {key: v for key, v in (right.metadata | dict(changes)).items() if v is not None}
    path.write_bytes(gguf_bytes(metadata, right.tensors if tensors is None else tensors))
    return path
