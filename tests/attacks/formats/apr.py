""".apr: a qwen2 with damaged metadata or tensors, and false headers and indices."""

from __future__ import annotations

from pathlib import Path

from support.apr_files import HF, METADATA, align64, apr_bytes, entry, f32, header, tiny_model

from microgpt_trace.readers.apr import read_apr

from .format import GONE, Format

SIZE = "9,223,372,036,854,775,808"
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}  # fmt: skip
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW = {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 1}
Q = "model.layers.0.self_attn.q_proj.weight"


def raw(index, *, count=1, metadata=(64, 2), index_at=128, data_at=None, data=bytes(64)):
    """Return a file with this index, without checksums."""
    at = align64(128 + len(index)) if data_at is None else data_at
    head = header(count=count, metadata=metadata, index=index_at, data=at, checksum=0)
    return head + b"{}".ljust(64) + index.ljust(align64(len(index)), b"\0") + data


def one(name="t", dtype=0, shape=(4,), offset=0, size=16):
    return entry(name, dtype, shape, offset, size)


def stored(dtype, shape, content):
    """Return a file with one tensor."""
    return apr_bytes({}, {"t": (dtype, shape, content)})


def good(**fields):
    """Return the good file with other fields of its header, or other text as its metadata."""
    return apr_bytes(METADATA, tiny_model()[0], **fields)


COMPRESSED = header(flags=2, count=3, metadata=(64, 999), index=9999, data=99999) + b"blob"
PARTS = [
    ("4,294,967,295 tensors", raw(one(), count=2**32 - 1)),
    ("entry 1 of 2 in the tensor index: expected a name", raw(one(), count=2)),
    ("cut short", raw(one(offset=2**63))),
    ("cut short: tensor 't' ends at byte 260 of 256", raw(one(offset=52))),
    (f"expected 16 (F32) bytes, found {SIZE}", raw(one(size=2**63))),
    ("bytes, found 16", raw(one(shape=(2**63, 2**63, 4)))),
    ("bytes, found 0", raw(one(shape=(2**32, 2**32), size=0))),
    ("no elements", raw(one(shape=(0, 5), size=0))),
    ("1 to 8 dimensions, found 0", raw(one(shape=(), size=4))),
    ("1 to 8 dimensions, found 9", raw(one(shape=(1,) * 9, size=4))),
    ("found 257", raw(one("t" * 257))),
    ("ends within", raw(one())[:128] + b"\xff\0" + b"t" * 60),
    ("not UTF-8", raw(one(b"\xff\xfe"))),
    ("tensors at byte 9,223,372,036,854,775,808 exceeds", raw(one(), index_at=2**63)),
    ("bytes", raw(one(), index_at=0)),
    ("cut short", raw(one(), data_at=2**64 - 1)),
    ("overlap at byte 128", raw(one(), data_at=128)),
    ("tensor 't' and the header overlap", raw(one(), data_at=0)),
    ("2 bytes from byte 9,223,372,036,854,775,808 do not fit into", raw(one(), metadata=(2**63, 2))),
    ("4,294,967,295 bytes from byte 64 do not fit into", raw(one(), metadata=(64, 2**32 - 1))),
    ("tensor 'a' and tensor 'b' overlap", raw(one("a") + one("b", offset=12), count=2)),
    ("overlap", raw(one("a") + one("b", shape=(2,), size=8), count=2)),
    ("occurs twice", raw(one() + one(offset=16), count=2)),
    *(
        ("tensor 't': expected a finite scale", stored(129, (3,), scale + bytes(3)))
        for scale in (b"\0\0\xc0\x7f", b"\0\0\x80\x7f")  # NaN, Inf
    ),
    *(
        (f"tensor 't' is stored as {name}, which is not supported", stored(dtype, (64,), bytes(64 * size)))
        for name, dtype, size in (("F64", 3, 8), ("I32", 4, 4), ("I64", 5, 8), ("I8", 6, 1), ("U8", 7, 1))
    ),
    ("has the unsupported dtype 77", stored(77, (4,), bytes(16))),
    ("expected 576 (Q4_K) or 432 (Q4_K) bytes, found 288", stored(12, (2, 300), bytes(288))),
    ("version 1 (APR1)", b"APR1" + bytes(100)),
    ("version 1 (APRN)", b"APRN"),
    ("one tensor that apr trace saved", b"APRT" + bytes(20)),
    ("bytes 'GGML", b"GGML" + bytes(100)),
    ("the file is empty", b""),
    ("cut short", b"APR\0" + bytes(20)),
    ("found 3.1", apr_bytes({}, {}, version=(3, 1))),
    ("encrypted", good(flags=0x404)),
    ("column-major", good(flags=0xC00)),
    ("shard", good(flags=0x410)),
    ("is compressed with LZ4", good(flags=1, text=b"\x04\x22\x4d\x18 blob")),
    ("is compressed with Zstd", good(flags=2, text=b"\x04\x22\x4d\x18 blob")),
    ("is compressed with Zstd", COMPRESSED),
    ("the header is damaged: expected checksum 0x00000001", good(checksum=1)),
    ("the file is damaged: expected checksum 0x00000001", good(footer=1)),
    *(
        ("the metadata", good(text=text))
        for text in (b"", b"{", b"[]", b"3", b'{"a": \xff}', b"[" * 100_000, b'{"a":' * 9999, b"9" * 9999)
    ),
]
SCALINGS = [{"type": "linear"}, {"type": "dynamic", "factor": 2}, {"type": [1]}, LLAMA3 | {"factor": "8"}]
SCALINGS += [LLAMA3 | {"mscale": 1}, LLAMA3 | {"low_freq_factor": None}]
SHARDING = {"shard_count": 3, "shard_index": 0, "total_size": 9, "pattern": "model-{}"}
MODELS = [
    ("the file is one shard of 3", {"sharding": SHARDING}),
    ("'lm_head' is missing", {"tie_word_embeddings": False}, {HF["lm_head"]: GONE}),
    ("is true, but tensor 'lm_head' is in the file", {"tie_word_embeddings": True}),
    ("attn_q_norm' is missing", {"architecture": "qwen3"}),
    ("num_heads 3 does not divide the 16 rows of", {"head_dim": GONE, "num_heads": 3}),
    ("--set max_position_embeddings=N", {"max_position_embeddings": GONE}),
    ("--set rope_theta=N", {"rope_theta": GONE}),
    ("--set rms_norm_eps=N", {"rms_norm_eps": GONE}),
    ("architecture 'qwen2' and hf_model_type 'llama' contradict each other", {"hf_model_type": "llama"}),
    ("'gpt2' is not supported; supported: llama, mistral, qwen2, qwen3", {"architecture": "gpt2"}),
    ("--set architecture=", {"architecture": GONE, "model_type": "linear_regression"}),
    ("architecture: expected text", {"architecture": 3}),
    ("num_experts", {"num_experts": 8}),
    ("hidden_act", {"hidden_act": "mish"}),
    ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
    ("rope_type 8", {"rope_type": 8}),
    ("has rope_type 0 (adjacent), but the RoPE pairs of a qwen2 are halves", {"rope_type": 0}),
    ("rope_theta: 5 and 10000.0 contradict each other", {"rope_parameters": {"rope_theta": 5}}),
    *(("RoPE scaling", {"rope_scaling": scaling}) for scaling in SCALINGS),
    ("max_window_layers", WINDOW | {"max_window_layers": None}),
    ("layer_types: expected 2 full_attention or sliding", WINDOW | {"layer_types": [SLIDING]}),
    ("layer_types: expected 2 full", WINDOW | {"layer_types": [FULL, "linear_attention"]}),
    ("layer_types: expected 2 full", WINDOW | {"layer_types": "sliding_attention"}),
    ("contradict", WINDOW | {"layer_types": [SLIDING, FULL], "use_sliding_window": False}),
    ("contradict", {"sliding_window": 4, "layer_types": [FULL, SLIDING]}),
    ("layer_types", {"layer_types": [FULL, SLIDING]}),
    ("layer_types", {"layer_types": [FULL]}),
]
WTE = tiny_model()[0][HF["wte"]]
MLP = "model.layers.{}.mlp"
TENSORS = [
    (r"'a\nb\x1b[31m'", {}, {"a\nb\x1b[31m": f32([1])}),
    ("'wte'", {}, {HF["wte"]: GONE}),
    ("'layer0.mlp_wgate' is missing (nearest: layer1", {}, {f"{MLP.format(0)}.gate_proj.weight": GONE}),
    ("'layer1.mlp_wup' is missing (nearest: layer0.mlp_wup", {}, {f"{MLP.format(1)}.up_proj.weight": GONE}),
    ("'layer1.attn_bk' is missing", {}, {"model.layers.1.self_attn.k_proj.bias": GONE}),
    (
        "the bias 'layer0.attn_bk' is missing; every qwen2 has this bias",
        {},
        {f"model.layers.{i}.self_attn.k_proj.bias": GONE for i in (0, 1)},
    ),
    ("'surplus'", {}, {"surplus": f32([1])}),
    ("q_norm", {}, {"model.layers.0.self_attn.q_norm.weight": f32([1] * 4)}),
    (f"'{HF['wte']}': expected a matrix, found shape [2]", {}, {HF["wte"]: f32([1, 2])}),
    (f"'{Q}': expected a matrix, found shape [2]", {}, {Q: f32([1, 2])}),
    ("are both wte", {}, {"token_embd.weight": WTE}),
    ("hidden_size 8 contradicts the shape [8, 10]", {}, {HF["wte"]: (WTE[0], WTE[1][::-1], WTE[2])}),
]
WHOLE = ("8", 8.5, True, [8], 0, -1, 2**70)
SHAPED = "hidden_size vocab_size intermediate_size num_layers num_heads num_kv_heads head_dim"
WRONG = {
    **{key: (*WHOLE, METADATA[key] * 2) for key in SHAPED.split()},  # the double contradicts the shapes
    "rope_theta": ("1", 0, -1.0, float("nan"), float("inf"), 10**60),
}
VALUES = [(key, {key: value}) for key, values in WRONG.items() for value in values]


def write(path: Path, metadata: dict, tensors: dict) -> None:
    path.write_bytes(apr_bytes(metadata, tensors))


def apr() -> Format:
    rows = [*PARTS, *MODELS, *TENSORS, *VALUES]
    return Format(METADATA, tiny_model()[0], write, rows, opened=read_apr)
