"""Compare our time with that of llama.cpp for several file types, prompt lengths and a continuation.

A cell of the table in docs/benchmarks.md holds our best time and two ratios to llama.cpp's time. In the
first, llama.cpp has its own number of threads or one, whichever is faster. In the second, both run on one
core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from contenders import (
    CAN_PIN,
    HEADER,
    Contender,
    evaluation,
    joined,
    our_document,
    ratio,
    rows,
    take_turns,
    tokens_of_peer,
    trace,
)
from processes import Usage
from table import print_table

SENTENCE = "The capital of France is Paris, and"  # 8 tokens of SmolLM2
SECONDS = 60  # after which no further turn of a workload starts


class Workload(NamedTuple):
    """A prompt length, and what is computed for the prompt."""

    title: str
    tokens: int
    every: bool = False  # predict at every position, or else at the last only
    generated: int = 0  # number of tokens to generate


WORKLOADS = (
    Workload("8 tokens", 8, every=True),
    Workload("256 tokens", 256),
    Workload("2,048 tokens", 2048),
    Workload("8 tokens and 64 more", 8, generated=64),
)
PAGE_HEADER = ("", *(workload.title for workload in WORKLOADS))


def report_types(models: Sequence[Path], turns: int) -> list[list[str]]:
    """Measure SmolLM2 in several files under every workload, and return the rows for the page."""
    lengths = {workload.tokens for workload in WORKLOADS}
    ids = {n: tokens_of(models[0], " ".join([SENTENCE] * (n // 8))) for n in lengths}
    wrong = {n: len(each) for n, each in ids.items() if len(each) != n}
    assert not wrong, f"expected prompts of these lengths, found {wrong}"
    return [report_model(f"SmolLM2-135M {model.stem}", model, ids, turns) for model in models]


def tokens_of(model: Path, text: str) -> list[int]:
    return our_document(trace(model, text, "--positions", "last", "--layers", "0-0"))["input"]["tokens"]


def report_model(title: str, model: Path, ids: Mapping[int, list[int]], turns: int) -> list[str]:
    """Measure one model and return its row for the page. `ids` holds the prompts by length."""
    cells = [title]
    for workload in WORKLOADS:
        prompt = ids[workload.tokens]
        print(f"{title}, {workload.title}: {agreement(workload, model, prompt)}")
        entrants = contenders(workload, model, prompt)
        usages = take_turns(entrants, turns, SECONDS)
        heading = f"{title}, {workload.title} ({len(usages['ours'])} turns)"
        print_table(heading, HEADER, rows(entrants, usages))
        cells.append(cell(entrants, usages))
    return cells


def contenders(workload: Workload, model: Path, ids: Sequence[int]) -> list[Contender]:
    """Return ours and llama.cpp, and both on one core if this system can do that."""
    result = []
    for where, one_core in (("", False), (", one core", True))[: 1 + CAN_PIN]:
        command = evaluation(
            "llama.cpp", model, workload.every, ids, generate=workload.generated, one_thread=one_core
        )
        document, rival = [*ours(workload, model, ids), "--json"], f"llama.cpp{where}"
        result.append(Contender(f"ours{where}", document, rival, one_core=one_core))
        result.append(Contender(rival, command, one_core=one_core))
    return result


def ours(workload: Workload, model: Path, ids: Sequence[int]) -> list[str]:
    positions = "all" if workload.every else "last"
    more = ("--generate", str(workload.generated)) if workload.generated else ()
    return trace(model, "--tokens", joined(ids), "--positions", positions, "--verbose", *more)


def agreement(workload: Workload, model: Path, ids: Sequence[int]) -> str:
    """Describe how far our tokens and llama.cpp's agree: times compare only if both compute the same."""
    document = our_document(ours(workload, model, ids))
    generated = workload.generated
    theirs = tokens_of_peer(evaluation("llama.cpp", model, False, ids, generate=generated))
    if not generated:
        token = document["predictions"][-1]["predicted"]["token"]
        return f"next token {token} (ours), {theirs[0]} (llama.cpp)"
    tokens = [step["token"]["token"] for step in document["generation"]]
    same = next((i for i, (a, b) in enumerate(zip(tokens, theirs, strict=False)) if a != b), len(tokens))
    return f"{len(tokens)} tokens generated (ours), {len(theirs)} (llama.cpp); the first {same} are equal"


def cell(entrants: Sequence[Contender], usages: dict[str, list[Usage]]) -> str:
    """Return a cell such as "0.75 s: 1.42, 1.20": our best time, and the ratios with all cores and one.

    llama.cpp may be faster with one thread than with several, because several wait for each other on cores
    that other processes use. The first ratio uses its best time.
    """
    own, *single = [(usages[each.name], usages[each.rival]) for each in entrants if each.rival]
    ratios = [ratio(own[0], [*own[1], *(usage for _, theirs in single for usage in theirs)])]
    ratios += [ratio(*pair) for pair in single]
    seconds = min(usage.wall for usage in usages["ours"])
    return f"{seconds:.2f} s: {', '.join(f'{each:.2f}' for each in ratios)}"
