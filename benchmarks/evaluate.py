"""Run a GGUF model with another engine in a process of its own.

python benchmarks/evaluate.py llama.cpp|transformers MODEL all|last GENERATE 1|"its own" IDS

Prints the most probable next token, or GENERATE tokens if GENERATE is at least 1. `all` computes the logits
of every position, `last` only those of the last. The engine uses 1 thread, or as many as it chooses ("its
own").
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path


def with_llama_cpp(model: str, every: bool, generate: int, threads: int | None, ids: list[int]) -> list[int]:
    """Run llama-cpp-python with its defaults for the CPU, but with a context no longer than needed."""
    from llama_cpp import Llama

    llama = Llama(
        model, n_ctx=len(ids) + generate, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0,
        logits_all=every, verbose=False,
    )  # fmt: skip
    return list(islice(_greedily(llama, ids), max(1, generate)))


def _greedily(llama, ids: list[int]) -> Iterator[int]:
    """Yield the most probable next token again and again."""
    from numpy.ctypeslib import as_array

    while True:
        llama.eval(ids)
        ids = [int(as_array(llama._ctx.get_logits_ith(-1), (llama.n_vocab(),)).argmax())]
        yield ids[0]


def with_transformers(
    model: str, every: bool, generate: int, threads: int | None, ids: list[int]
) -> list[int]:
    """Run transformers, which expands the weights to float32."""
    import torch
    from transformers import AutoModelForCausalLM

    if generate:
        raise SystemExit("evaluate.py: transformers cannot generate here; set GENERATE to 0")
    if threads is not None:
        torch.set_num_threads(threads)
    path = Path(model)
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    with torch.inference_mode():
        logits = loaded(torch.tensor([ids]), logits_to_keep=0 if every else 1).logits
    return [int(logits[0, -1].argmax())]


PEERS = {"llama.cpp": with_llama_cpp, "transformers": with_transformers}

if __name__ == "__main__":
    peer, path, kept, count, threads, tokens = sys.argv[1:]
    ids = [int(token) for token in tokens.split(",")]
    print(*PEERS[peer](path, kept == "all", int(count), 1 if threads == "1" else None, ids))
