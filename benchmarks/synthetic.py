"""Write a GGUF file with random weights in the shapes and types of Qwen2.5-1.5B Q4_K_M.

python benchmarks/synthetic.py FILE LAYERS

Quants are random bytes. The float16 scales give the weights a mean of 0 and a standard deviation of
1/sqrt(inputs), which keeps activations finite. The file has no tokenizer. Only one tensor at a time is in
memory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from struct import pack
from typing import BinaryIO

import numpy as np

WIDTH, INNER, HEADS, KV_HEADS, VOCABULARY, LAYERS = 1536, 8960, 12, 2, 151936, 28
ALIGNMENT = 32
TYPES = {
    "F32": (0, 1, 4),
    "Q4_K": (12, 256, 144),
    "Q6_K": (14, 256, 210),
}  # type id, elements and bytes per block

Tensor = tuple[str, tuple[int, ...], str]  # name, [out, in], type


def more_bits(layer: int, layers: int) -> bool:
    """Return True if Q4_K_M gives attn_v and ffn_down of this layer six bits.

    These are the first and last eighth of the layers and every third between (llama.cpp, use_more_bits).
    """
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def tensors(layers: int) -> Iterator[Tensor]:
    """Yield the tensors in file order. The output matrix is tied to the embedding, which has six bits."""
    keys = WIDTH // HEADS * KV_HEADS
    yield "token_embd.weight", (VOCABULARY, WIDTH), "Q6_K"
    for i in range(layers):
        mixed = "Q6_K" if more_bits(i, layers) else "Q4_K"
        for name, shape, kind in (
            ("attn_norm.weight", (WIDTH,), "F32"),
            ("attn_q.weight", (WIDTH, WIDTH), "Q4_K"),
            ("attn_q.bias", (WIDTH,), "F32"),
            ("attn_k.weight", (keys, WIDTH), "Q4_K"),
            ("attn_k.bias", (keys,), "F32"),
            ("attn_v.weight", (keys, WIDTH), mixed),
            ("attn_v.bias", (keys,), "F32"),
            ("attn_output.weight", (WIDTH, WIDTH), "Q4_K"),
            ("ffn_norm.weight", (WIDTH,), "F32"),
            ("ffn_gate.weight", (INNER, WIDTH), "Q4_K"),
            ("ffn_up.weight", (INNER, WIDTH), "Q4_K"),
            ("ffn_down.weight", (WIDTH, INNER), mixed),
        ):
            yield f"blk.{i}.{name}", shape, kind
    yield "output_norm.weight", (WIDTH,), "F32"


def metadata(layers: int) -> dict[str, str | int | float]:
    return {
        "general.architecture": "qwen2",
        "general.name": f"synthetic, {layers} layers",
        "qwen2.block_count": layers,
        "qwen2.context_length": 32768,
        "qwen2.embedding_length": WIDTH,
        "qwen2.feed_forward_length": INNER,
        "qwen2.attention.head_count": HEADS,
        "qwen2.attention.head_count_kv": KV_HEADS,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
        "qwen2.rope.freq_base": 1e6,
        "qwen2.vocab_size": VOCABULARY,
        "tokenizer.ggml.model": "no_vocab",
    }


def content(name: str, shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return the bytes of a tensor: [blocks, bytes per block]"""
    if kind == "F32":
        values = rng.standard_normal(shape, np.float32) * np.float32(0.1) + ("norm" in name)
        return values.astype("<f4").view(np.uint8)
    _, size, block_bytes = TYPES[kind]
    count = math.prod(shape) // size
    blocks = np.frombuffer(rng.bytes(count * block_bytes), np.uint8).reshape(count, -1).copy()
    deviation = 1 / math.sqrt(shape[-1])
    if kind == "Q6_K":  # d * s * (q - 32): s in -128..127, q in 0..63
        blocks[:, 208:] = _half(deviation / (73.9 * 18.5))
    else:  # d * s * q - m * t: s and t in 0..63, q in 0..15; 7.5 m = d makes the mean 0
        d = deviation / 240
        blocks[:, :2], blocks[:, 2:4] = _half(d), _half(7.5 * d)
    return blocks


def _half(value: float) -> np.ndarray:
    return np.array([value], "<f2").view(np.uint8)


def write(path: Path, layers: int) -> None:
    """Write a file of GGUF version 3, as microgpt_trace/readers/gguf.py describes it."""
    rng, rows, index, offset = np.random.default_rng(layers), list(tensors(layers)), b"", 0
    for name, shape, kind in rows:
        number, size, block_bytes = TYPES[kind]
        index += _string(name) + pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], number, offset)
        offset += _padded(math.prod(shape) // size * block_bytes)
    pairs = b"".join(_string(key) + _value(value) for key, value in metadata(layers).items())
    header = b"GGUF" + pack("<IQQ", 3, len(rows), len(metadata(layers))) + pairs + index
    with path.open("wb") as file:
        _write_padded(file, header)
        for tensor in rows:
            _write_padded(file, content(*tensor, rng).data)


def _string(text: str) -> bytes:
    return pack("<Q", len(text)) + text.encode()


def _value(value: str | int | float) -> bytes:
    """Encode the type (8 string, 4 uint32, 6 float32) and the value."""
    if isinstance(value, str):
        return pack("<I", 8) + _string(value)
    return pack("<II", 4, value) if isinstance(value, int) else pack("<If", 6, value)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _write_padded(file: BinaryIO, data: bytes | memoryview) -> None:
    size = memoryview(data).nbytes
    file.write(data)
    file.write(bytes(_padded(size) - size))


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]))
