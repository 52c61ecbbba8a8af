"""GGUF: a qwen2 with damaged parts or metadata, and false headers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from support.gguf_files import NEEDED, YARN, assemble, entry, gguf_bytes, pair, string, u32, u64
from support.tiny_models import tiny_model, write_gguf

from microgpt_trace import load
from microgpt_trace.readers.gguf import read_gguf_header

from .format import GONE, Format

ONE, F32 = entry("t", (4,)), bytes(16)
SIZE = "9,223,372,036,854,775,808"


def pairs(content: bytes) -> bytes:
    """Return a file with one metadata pair and no tensors."""
    return assemble(content, metadata=1, tensors=0)


def listed(kind: int, count: int, rest: bytes = b"") -> bytes:
    """Return a file with a list of this type and length, followed by other bytes."""
    return pairs(string("k") + u32(9) + u32(kind) + u64(count) + rest)


def aligned(value: object) -> bytes:
    return assemble(pair("general.alignment", value), ONE, F32, metadata=1)


def tensor(*entries: bytes, data: bytes = F32) -> bytes:
    return assemble(entries=b"".join(entries), data=data, tensors=len(entries))


PARTS = [
    ("safetensors file, found a file that begins with the bytes 'GGML", b"GGML" + bytes(40)),
    ("the file ends within the version", b"GGUF\3"),
    ("expected GGUF version 2 or 3, found 1", assemble(version=1)),
    ("expected GGUF version 2 or 3, found 4", assemble(version=4)),
    ("(big-endian files are not supported)", assemble(version=3 << 24)),
    ("the file ends within the counts", assemble()[:12]),
    (f"{SIZE} tensors do not fit", assemble(ONE, data=F32, tensors=2**63)),
    ("metadata pairs do not fit into the file", assemble(ONE, metadata=2**64 - 1)),
    ("dimensions, found 0", assemble(entries=ONE, data=F32, tensors=2)),
    (f"a metadata key of {SIZE} bytes", assemble(u64(2**63) + bytes(40), metadata=1)),
    ("a metadata key of 300 bytes", assemble(string("k" * 300) + bytes(40), metadata=1)),
    ("the value of 'k' of 9,223", assemble(string("k") + u32(8) + u64(2**63) + bytes(40), metadata=1)),
    ("'k' has a value of unknown type 13", assemble(string("k") + u32(13) + bytes(40), metadata=1)),
    ("values of 'k' do not", listed(4, 2**63)),
    ("values of 'k' do", listed(8, 2**60)),
    ("a string of 'k' has 4,611,686,018,427,387,904", listed(8, 2, string("a") + u64(2**62))),
    ("a string of 'k' does not fit into the file", listed(8, 2, string("a") + u64(999))),
    ("'k' is an array of unknown type 9", pairs(pair("k", [[1]]))),
    ("the metadata contain 'k' twice", assemble(pair("k", 1) * 2, metadata=2, tensors=0)),
    ("general.alignment: expected a power of two, found 0", aligned(0)),
    ("expected a power of two, found 33", aligned(33)),
    ("expected a power of two, found True", aligned(True)),
    ("expected a power of two, found '32'", aligned("32")),
    ("ends past the end of the file", aligned(2**40)),
    (f"a tensor's name of {SIZE} bytes", assemble(entries=u64(2**63) + bytes(40))),
    ("a tensor's name of 300 bytes is too long (at most 256)", tensor(entry("t" * 300, (4,)))),
    ("tensor 't': expected 1 to 4 dimensions, found 0", tensor(entry("t", ()))),
    ("1 to 4 dimensions, found 4294967295", tensor(string("t") + u32(2**32 - 1))),
    ("ends past the end of the file", tensor(entry("t", (2**63,) * 4))),
    ("ends past the end of the file", tensor(entry("t", (2**32, 2**32)))),
    ("ends past the end of the file", tensor(entry("t", (4,), 0, 2**63))),
    ("of 16 bytes at byte 65 ends past the end", tensor(entry("t", (4,), 0, 1))),
    ("the file is cut short", tensor(ONE, data=b"")),
    ("rows of 4 elements do not divide into blocks of 32", tensor(entry("t", (4,), 8))),
    ("tensors 'a' and 'b' overlap", tensor(entry("a", (4,)), entry("b", (4,), 0, 12), data=bytes(28))),
    ("tensors 't' and 'b' overlap", tensor(ONE, entry("b", (4,)))),
    ("'t' occurs twice", tensor(ONE, entry("t", (4,), 0, 16), data=bytes(32))),
    ("'t' has the unsupported type IQ1_S", tensor(entry("t", (32,), 19), data=bytes(64))),
    ("'t' has the unsupported type number 4;", tensor(entry("t", (32,), 4), data=bytes(64))),
    ("has the unsupported type number 4294967295", tensor(entry("t", (32,), 2**32 - 1), data=bytes(64))),
    # Strings that would take six times as much memory as Python's
    ("architecture None", pairs(pair("k", [f"{i:03}" for i in range(900)] * 40))),
]
LINEAR = {"qwen2.rope.scaling.type": "linear"}
FACTOR = {"qwen2.rope.scaling.attn_factor": 1.2}
MODELS = [
    ("qwen2.expert_count = 8 is not supported", {"qwen2.expert_count": 8}),
    ("'gemma3n' is not supported; supported: llama, qwen2", {"general.architecture": "gemma3n"}),
    ("rope.dimension_count 4 differs from the 8 channels of a head", {"qwen2.rope.dimension_count": 4}),
    ("attention.value_length 4 differs from the 8 channels of a head", {"qwen2.attention.value_length": 4}),
    ("'longrope' is not supported; supported: none, linear", {"qwen2.rope.scaling.type": "longrope"}),
    ("RoPE scaling 'linear': cannot use factor None", LINEAR),
    ("yarn_log_multiplier 0.1 is not supported", YARN | {"qwen2.rope.scaling.yarn_log_multiplier": 0.1}),
    ("RoPE scaling 'yarn': expected a rope_theta above 1, found 1.0", YARN | {"qwen2.rope.freq_base": 1.0}),
    ("expected 3 layers, found tensors of 2", {"qwen2.block_count": 3}),
    ("expected 2,147,483,647 layers, found tensors of 2", {"qwen2.block_count": 2**31 - 1}),
    ("layers, found tensors of 2", {"qwen2.block_count": 2**30, "qwen2.attention.sliding_window": 4}),
    ("ffn_gate.weight': expected shape [49, 32], found [48, 32]", {"qwen2.feed_forward_length": 49}),
    ("vocab_size 62 differs from the 61 rows of token_embd.weight", {"qwen2.vocab_size": 62}),
    ("rope.scaling.attn_factor is only supported with yarn", FACTOR),
    ("attn_factor is only supported with yarn", LINEAR | FACTOR | {"qwen2.rope.scaling.factor": 2.0}),
    *(
        ("qwen2.attention.head_count differs from layer to layer", {"qwen2.attention.head_count": value})
        for value in ([4, 2], [], [4] * 20_000)
    ),
    *((key.replace("general.architecture", "architecture None"), {key: GONE}) for key in NEEDED),
]
# Keys that can change the computation: values that do, and values that do not
VARIANTS = {
    "attention.causal": ([False, 0, "yes"], [True]),
    "attention.scale": ([0.125, [0.125, 0.25]], [0.0]),
    "attention.clamp_kqv": ([8.0], [0.0]),
    "attn_logit_softcapping": ([50.0], [0.0]),
    "final_logit_softcapping": ([30.0], [0.0]),
    "logit_scale": ([0.0625, -1.0], [1.0, 0.0, 1]),
    "residual_scale": ([0.22], [1.0, 0.0]),
    "embedding_scale": ([12.0], [1.0, 0.0]),
    "use_parallel_residual": ([True], [False]),
    "vocab_size": ([], [61]),
    "rope.scaling.attn_factor": ([], [1.0]),
    "expert_count": ([], [0]),
}
MODELS += [
    (f"qwen2.{key} = {value!r} is not supported", {f"qwen2.{key}": value})
    for key, (wrong, _) in VARIANTS.items()
    for value in wrong
]
EXTRA = [
    ("(nearest: blk.1.attn_q.weight", "blk.1.attn_qq.weight"),
    ("(nearest: blk.0.ffn_gate.weight", "blk.0.ffn_gate_inp.weight"),
    ("(nearest: token_embd.weight", "token_embedding.weight"),
    ("(nearest: blk.01.attn_q.bias", "blk.01.attn_q.bias"),
    ("is not part of a Llama or Qwen2-class decoder", "blk.٣.attn_q.bias"),
    (r"'a\nb\x1b[31m' is not part of a Llama", "a\nb\x1b[31m"),
    ("tensors of layer 9999, but none of layer 2", "blk.9999.attn_q.bias"),
]
KEYS = [*NEEDED, "qwen2.attention.head_count_kv", "qwen2.attention.key_length", "qwen2.expert_count"]
KEYS += ["qwen2.attention.sliding_window", "qwen2.rope.freq_base", "qwen2.rope.scale_linear"]
KEYS += ["general.alignment", "split.count", "split.no", "split.tensors.count"]
SCALING = [*YARN, "qwen2.rope.scaling.attn_factor", "qwen2.rope.scaling.yarn_attn_factor"]
SCALING += ["qwen2.rope.scaling.yarn_log_multiplier", "qwen2.rope.scaling.yarn_ext_factor"]
TEXTS = ("4", "", True, [], ["4"], [4, 5], [[4]], b"\xff\n")


def gguf() -> Format:
    """Return the format of a qwen2, which has biases."""
    pytest.importorskip("gguf", reason="the good file is written by the package gguf")
    with tempfile.TemporaryDirectory() as folder:
        header = read_gguf_header(write_gguf(Path(folder) / "tiny.gguf", *tiny_model("qwen2")))
        tensors = {tensor.name: tensor for tensor in header.tensors}
    first = tensors["token_embd.weight"]
    layer = {n.replace("blk.1", "blk.2"): t for n, t in tensors.items() if n.startswith("blk.1.")}
    named = [(words, {}, {name: first}) for words, name in EXTRA]
    named += [
        ("'layer1.mlp_wup' is missing (nearest: layer0.mlp_wup", {}, {"blk.1.ffn_up.weight": GONE}),
        ("tensor 'token_embd.weight' is missing", {}, {"token_embd.weight": GONE}),
        ("is not part of a qwen2 with 2 layers (nearest: ", {}, layer),
        ("'rope_freqs.weight': expected shape [4], found [61, 32]", {}, {"rope_freqs.weight": first}),
    ]
    wrong = dict.fromkeys(KEYS, TEXTS)
    return Format(header.metadata, tensors, write, [*PARTS, *MODELS, *named], wrong)


def scaled(plain: Format) -> Format:
    """Return the same format with a RoPE that yarn scales."""
    return replace(plain, metadata=plain.metadata | YARN, refused=[], wrong=dict.fromkeys(SCALING, TEXTS))


def write(path: Path, metadata: dict, tensors: dict) -> None:
    path.write_bytes(gguf_bytes(metadata, [replace(tensor, name=name) for name, tensor in tensors.items()]))


# --- Split files ------------------------------------------------------------------------------

PART = "split-0000{}-of-00003.gguf"
SPLIT = [
    *((f"{PART.format(number)}: no such file", {number: GONE}) for number in "123"),
    ("expected part 2 of 3, found part 3 of 3", {"2/split.no": 2, "3/split.no": 1}),
    ("expected part 2 of 3, found part 1 of 3", {"2/split.no": 0, "3/split.no": 0}),
    ("expected part 1 of 3, found part 3 of 3", {"1/split.no": 2}),
    ("expected part 2 of 3, found part 2 of 2", {"2/split.count": 2}),
    ("expected part 2 of 3, found part 2 of 99999", {"2/split.count": 99999}),
    ("split.count differs", {"2/split.count": [3, 4]}),
    ("split.no: expected a whole number below 2^31, found '1'", {"2/split.no": "1"}),
    (
        "a file of 3 parts must be named NAME-00001-of-00003.gguf",
        lambda folder: (folder / PART.format(1)).rename(folder / "copy.gguf"),
    ),
]


def split() -> Format:
    """Return the format of a qwen2 in three parts. The first existing part is opened."""
    single = gguf()
    parts = {"split.count": 3, "split.tensors.count": len(single.tensors)}
    headers = {number: parts | {"split.no": int(number) - 1} for number in "123"}
    headers["1"] |= single.metadata
    tensors = {f"{i % 3 + 1} {name}": tensor for i, (name, tensor) in enumerate(single.tensors.items())}

    def write_parts(folder: Path, metadata: dict, tensors: dict) -> None:
        folder.mkdir()
        for number, pairs in metadata.items():
            own = {name[2:]: tensor for name, tensor in tensors.items() if name[0] == number}
            write(folder / PART.format(number), pairs, own)

    def opened(folder: Path) -> object:
        return load(min(folder.glob("*.gguf")))

    first, name = next(iter(tensors.values())), next(key for key in tensors if key[0] == "2")
    moved = [
        ("is also in another part", {}, {f"3 {name[2:]}": first}),
        ("tensors in all parts, found", {}, {name: GONE}),
    ]
    return Format(headers, tensors, write_parts, [*SPLIT, *moved], opened=opened)
