"""One evaluation of a GGUF model by a peer, as a process of its own.

python benchmarks/evaluate.py llama.cpp|transformers MODEL all|last GENERATE 1|"its own" IDS

Prints the most probable token after the last position, and so many as GENERATE says after IDS. `all` works
the logits of every position out, `last` those of the last one. One thread, or those that the peer takes by
itself.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path


def with_llama_cpp(model: str, every: bool, generate: int, threads: int | None, ids: list[int]) -> list[int]:
    """llama-cpp-python with its defaults for the CPU, but for a context of as many tokens as it takes."""
    from llama_cpp import Llama

    llama = Llama(
        model, n_ctx=len(ids) + generate, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0,
        logits_all=every, verbose=False,
    )  # fmt: skip
    return list(islice(_greedily(llama, ids), max(1, generate)))


def _greedily(llama, ids: list[int]) -> Iterator[int]:
    """The most probable token, over and over."""
    from numpy.ctypeslib import as_array

    while True:
        llama.eval(ids)
        ids = [int(as_array(llama._ctx.get_logits_ith(-1), (llama.n_vocab(),)).argmax())]
        yield ids[0]


def with_transformers(
    model: str, every: bool, generate: int, threads: int | None, ids: list[int]
) -> list[int]:
    """The weights are expanded to float32, as transformers does by default."""
    import torch
    from transformers import AutoModelForCausalLM

    if generate:
        raise SystemExit("evaluate.py: transformers is measured on prompts alone")
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
    found = PEERS[peer](
        path, kept == "all", int(count), int(threads) if threads == "1" else None,
        [int(token) for token in tokens.split(",")],
    )  # fmt: skip
    print(*found)
