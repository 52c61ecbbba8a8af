"""One evaluation of a GGUF model by a peer, as a process of its own.

python benchmarks/evaluate.py llama.cpp|transformers MODEL all|last IDS

Prints the most probable token after the last position. `all` works the logits of every position out,
`last` those of the last one. One thread each.
"""

from __future__ import annotations

import sys
from pathlib import Path


def with_llama_cpp(model: str, every: bool, ids: list[int]) -> int:
    """llama-cpp-python with its defaults for the CPU; the context is as long as the prompt."""
    from llama_cpp import Llama

    sizes = dict.fromkeys(("n_ctx", "n_batch", "n_ubatch"), len(ids))
    threads = {"n_threads": 1, "n_threads_batch": 1}
    llama = Llama(model, **sizes, **threads, n_gpu_layers=0, logits_all=every, verbose=False)
    llama.eval(ids)
    if every:
        return int(llama.scores[len(ids) - 1].argmax())
    logits = llama._ctx.get_logits_ith(-1)  # without logits_all the scores are filled when sampling
    return max(range(llama.n_vocab()), key=logits.__getitem__)


def with_transformers(model: str, every: bool, ids: list[int]) -> int:
    """The weights are expanded to float32, as transformers does by default."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    path = Path(model)
    loaded = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    with torch.inference_mode():
        logits = loaded(torch.tensor([ids]), logits_to_keep=0 if every else 1).logits
    return int(logits[0, -1].argmax())


PEERS = {"llama.cpp": with_llama_cpp, "transformers": with_transformers}

if __name__ == "__main__":
    peer, path, kept, tokens = sys.argv[1:]
    print(PEERS[peer](path, kept == "all", [int(token) for token in tokens.split(",")]))
