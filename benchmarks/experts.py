"""Compare a mixture of experts with a dense MLP: benchmarks/experts.py [--layers N] [--turns N]

The mixture has 32 experts, of which each token uses 4. For one token, the dense MLP is as wide as 4 experts.
For 8 tokens, the dense MLP is as wide as all experts that the 8 tokens chose in a layer, on average. The
weights are random quants. A figure is the CPU time of a forward pass in this process, on one core. The models
take turns. The table shows the best times and the median of the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])

import numpy as np
from table import print_table

from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor
from microgpt_trace.decoder.architectures.llama import LlamaConfig
from microgpt_trace.decoder.architectures.qwen3_moe import Qwen3MoeConfig
from microgpt_trace.decoder.decoder import Decoder
from microgpt_trace.plans.rope import Rope

EXPERTS, USED, WIDTH, INNER, VOCABULARY = 32, 4, 1024, 512, 1000
TYPES = ("Q4_0", "Q8_0", "Q4_K", "MXFP4", "F16")
SHAPE = {
    "n_embd": WIDTH, "n_head": 16, "n_kv_head": 4, "head_dim": 64, "vocab_size": VOCABULARY,
    "context_length": 512, "norm_eps": 1e-6, "rope": Rope(1e4), "tied": True,
}  # fmt: skip


def tensor(name: str, shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> StoredTensor:
    """Return a tensor of random quants with small scales. Gains are ones, and routers are random F32."""
    if len(shape) == 1 or "router" in name:
        values = np.ones(shape, np.float32) if len(shape) == 1 else rng.standard_normal(shape, np.float32)
        return StoredTensor(name, ENCODINGS["F32"], shape, values.reshape(-1).view(np.uint8))
    if kind == "F16":
        halves = (rng.standard_normal(shape, np.float32) / WIDTH**0.5).astype(np.float16)
        return StoredTensor(name, ENCODINGS["F16"], shape, halves.reshape(-1).view(np.uint8))
    encoding = ENCODINGS[kind]
    count = int(np.prod(shape)) // encoding.block_size
    blocks = rng.integers(0, 256, (count, encoding.block_bytes), np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = 120  # the exponent
    else:
        scales = np.full((count, 2 if kind == "Q4_K" else 1), 0.001, np.float16).view(np.uint8)
        blocks[:, : scales.shape[1]] = scales
    return StoredTensor(name, encoding, shape, blocks.reshape(-1))


def model(config: LlamaConfig | Qwen3MoeConfig, kind: str) -> Decoder:
    rng = np.random.default_rng(1)
    tensors = {name: tensor(name, shape, kind, rng) for name, shape in config.shapes().items()}
    return Decoder(config, tensors, "synthetic", "in memory")


def seconds(model: Decoder, count: int) -> float:
    inputs = model.read(tokens=list(range(count)))
    start = time.process_time()
    model.logits(inputs, [count - 1])
    return time.process_time() - start


def chosen_together(model: Decoder, count: int) -> int:
    """Return how many experts the tokens chose together in a layer, on average."""
    from microgpt_trace import trace

    names = [name for name in model.plan if name.endswith(".chosen")]
    run = trace(model, tokens=range(count), names=names, values=True)
    return round(statistics.mean(len(np.unique(run[name])) for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    rows = []
    for kind in TYPES:
        shape = {**SHAPE, "n_layer": options.layers}
        mixed = model(
            Qwen3MoeConfig(
                "qwen3_moe", **shape, n_inner=INNER, experts=EXPERTS, experts_used=USED, expert_inner=INNER
            ),
            kind,
        )
        for count in (1, 8):
            together = chosen_together(mixed, count)
            dense = model(LlamaConfig("llama", **shape, n_inner=together * INNER), kind)
            turns = [(seconds(mixed, count), seconds(dense, count)) for _ in range(options.turns)]
            ratio = statistics.median(a / b for a, b in turns)
            best = [f"{1000 * min(times):.1f} ms" for times in zip(*turns, strict=True)]
            rows.append([kind, str(count), str(together), *best, f"{ratio:.2f}"])
    header = ["type", "tokens", "experts", "mixture", "dense", "ratio"]
    print_table(
        "CPU time of a pass: a mixture of experts, and a dense MLP as wide as the experts", header, rows
    )


if __name__ == "__main__":
    main()
