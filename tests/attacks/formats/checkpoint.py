"""Checkpoints of a microGPT with wrong tensors or metadata, and weights without metadata."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from microgpt_trace import init

from .format import GONE, Format

NONE = "the metadata do not describe a microGPT"


def zeros(name: str, *shape: int, dtype=np.float32) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, dtype)}


MISFITS = [
    ("'wte': expected float32 [27, 16], found float32 [27, 8]", {}, zeros("wte", 27, 8)),
    ("expected float32 [64, 16], found float32 [16, 64]", {}, zeros("layer0.mlp_fc1", 16, 64)),
    ("'lm_head': expected float32 [27, 16], found float32 [432]", {}, zeros("lm_head", 432)),
    ("float32 [16, 16], found int32 [16, 16]", {}, zeros("layer0.attn_wq", 16, 16, dtype=np.int32)),
    ("tensor 'layer0.attn_wv' is missing", {}, {"layer0.attn_wv": GONE}),
    ("'layer1.attn_wq'", {}, zeros("layer1.attn_wq", 16, 16)),
    ("'bias'", {}, zeros("bias", 16)),
]
BARE_MISFITS = [
    ("found 'bias' too", {}, zeros("bias", 16)),
    ("tensor 'layer0.attn_wo' is missing", {}, {"layer0.attn_wo": GONE}),
    ("tensor 'lm_head' is missing", {}, {"lm_head": GONE}),
    ("expected a microGPT with a matrix 'wte', found layer0.attn_wk", {}, {"wte": GONE}),
    ("layer0.attn_wq", {}, {"layer0.attn_wq": GONE}),
    ("expected a microGPT with a matrix 'wpe'", {}, zeros("wpe", 16)),
    ("'wpe': expected float32 [16, 16], found int64", {}, zeros("wpe", 16, 16, dtype=np.int64)),
    ("found 65 tokens without metadata", {}, zeros("wte", 65, 16)),
    ("width 18 is not a multiple of 4 heads", {}, zeros("wte", 27, 18)),
    ("'layer2.attn_wq'", {}, zeros("layer2.attn_wq", 16, 16)),
    ("found nothing", {}, dict.fromkeys(init().params, GONE)),
    ("block_size", {}, zeros("wpe", 0, 16)),
]


def trained(**changes: object) -> dict[str, str]:
    return {"training": json.dumps({"step": 1, "data": "", "schedule": {}} | changes)}


def scheduled(**changes: object) -> dict[str, str]:
    return trained(schedule=changes)


METADATA = [
    ("expected format microgpt.checkpoint/1, found 'llama/7'", {"format": "llama/7"}),
    (f"{NONE} ('config')", {"config": GONE}),
    *((NONE, {"config": text}) for text in ("{", "[]", "null", '{"n_experts": 8}', '{"n_embd": "wide"}')),
    ("n_head", {"config": '{"n_head": 0}'}),
    ("has 4 tokens, but vocab_size is 27", {"vocabulary": '{"chars": "abc"}'}),
    (NONE, {"vocabulary": ""}),
    ("bos: expected first or last", {"vocabulary": '{"bos": "middle"}'}),
    (NONE, {"training": "[]"}),
    (NONE, {"training": '{"step": 1, "data": ""}'}),
    ("steps: expected a whole number of at least 1, found 0", scheduled(steps=0)),
    ("values nested more than 64 deep", {"config": "[" * 2000 + "]" * 2000}),
    ("an integer of 401 digits", scheduled(lr=10**400)),
    ("the metadata do not describe", {"config": json.dumps({"x" * 100_000: 1})}),
    ("n_head: expected a whole number", {"config": '{"n_head": true}'}),
    ("n_layer: expected a whole number", {"config": '{"n_layer": 1e99}'}),
    ("n_embd: expected a whole number below", {"config": f'{{"n_embd": {2**31}}}'}),
    ("n_inner: expected a whole number", {"config": '{"n_inner": false}'}),
    ("found half a character", {"vocabulary": '{"chars": "\\ud800"}'}),
    ("lr: expected a positive number, found True", scheduled(lr=True)),
    ("lr: expected a positive number, found '1'", scheduled(lr="1")),
    ("steps: expected a whole number", scheduled(steps=True)),
    ("batch_size: expected a whole number", scheduled(batch_size=2**63)),
    ("below 65,537", scheduled(batch_size=65_537)),
    ("seed: expected a whole number below", scheduled(seed=10**60)),
    ("step: expected a whole number", trained(step=True)),
    ("step: expected a whole number below 5,001, found 5001", trained(step=5001)),
    ("data: expected text", trained(data=["x" * 100_000])),
    (NONE, trained(step="x")),
    ("adam.v_sum", trained(step=2), {"adam.m_sum": np.zeros(4192, np.float32)}),
]
NO_FILE = "expected a safetensors checkpoint, found"


def edited(change):
    """Return a change that replaces the bytes of the file by a function of them."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


BYTES = [
    (f"{NO_FILE} 0 bytes of something else", b""),
    (f"{NO_FILE} 16 bytes of something else", b"emma\nolivia\nava\n"),
    (f"{NO_FILE} 5,000 bytes of something else", np.random.default_rng(0).bytes(5000)),
    (NO_FILE, edited(lambda content: content[:100])),
    (NO_FILE, edited(lambda content: content[:-1])),
    (NO_FILE, edited(lambda content: content + b"\x00")),
    (NO_FILE, edited(lambda content: content[:8] + b"X" + content[9:])),
    (NO_FILE, (100_008).to_bytes(8, "little") + b'{"a":"' + b"x" * 100_000 + b'"}'),  # safetensors repeats it
    (NO_FILE, b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00."),  # a pickle
]


def write(path: Path, metadata: dict, tensors: dict) -> None:
    save_file(tensors, path, metadata or None)


def checkpoint() -> Format:
    model = init()
    metadata = {
        "format": "microgpt.checkpoint/1",
        "config": json.dumps(asdict(model.config)),
        "vocabulary": json.dumps({"chars": model.tokenizer.chars, "bos": model.tokenizer.bos}),
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in model.params.items()}
    return Format(metadata, tensors, write, [*MISFITS, *METADATA, *BYTES], name="model.safetensors")


def bare() -> Format:
    """Return the format of weights without metadata."""
    return replace(checkpoint(), metadata={}, refused=BARE_MISFITS)
