"""Ours beside llama.cpp on models of several file types, from a short prompt to a continuation.

A cell of the table in docs/benchmarks.md is our best time, how many times that of llama.cpp it is, which has
as many threads as it takes by itself or one, and how many times it is with both on one core.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from contenders import (
    HEADER,
    Contender,
    can_hold_to_one_core,
    evaluation,
    joined,
    ratio,
    rows,
    said_by_ours,
    said_by_peer,
    take_turns,
    trace,
)
from processes import Usage
from table import print_table

SENTENCE = "The capital of France is Paris, and"  # 8 tokens of SmolLM2
SECONDS = 60  # in which turns of a workload may begin


class Workload(NamedTuple):
    """So many tokens read, with predictions for all of them or for the last, and so many more."""

    title: str
    tokens: int
    every: bool = False
    generated: int = 0


WORKLOADS = (
    Workload("8 tokens", 8, every=True),
    Workload("256 tokens", 256),
    Workload("2,048 tokens", 2048),
    Workload("8 tokens and 64 more", 8, generated=64),
)
PAGE_HEADER = ("", *(workload.title for workload in WORKLOADS))


def report_types(models: Sequence[Path], turns: int) -> list[list[str]]:
    """SmolLM2 in several files under every workload, all figures printed. Returns the page's rows."""
    lengths = {workload.tokens for workload in WORKLOADS}
    ids = {n: tokens_of(models[0], " ".join([SENTENCE] * (n // 8))) for n in lengths}
    wrong = {n: len(each) for n, each in ids.items() if len(each) != n}
    assert not wrong, f"{wrong}: another tokenizer"
    return [report_model(f"SmolLM2-135M {model.stem}", model, ids, turns) for model in models]


def tokens_of(model: Path, text: str) -> list[int]:
    return said_by_ours(trace(model, text, "--positions", "last", "--layers", "0-0"))["input"]["tokens"]


def report_model(title: str, model: Path, ids: Mapping[int, list[int]], turns: int) -> list[str]:
    """The page's row of a model; `ids` are the prompts by their length."""
    cells = [title]
    for workload in WORKLOADS:
        prompt = ids[workload.tokens]
        print(f"{title}, {workload.title}: {agreement(workload, model, prompt)}")
        entrants = contenders(workload, model, prompt)
        usages = take_turns(entrants, turns, SECONDS)
        taken = f"{title}, {workload.title} ({len(usages['ours'])} turns)"
        print_table(taken, HEADER, rows(entrants, usages))
        cells.append(cell(entrants, usages))
    return cells


def contenders(workload: Workload, model: Path, ids: Sequence[int]) -> list[Contender]:
    """Ours and llama.cpp; and both on one core."""
    found = []
    for where, one_core in (("", False), (", one core", True)):
        if one_core and not can_hold_to_one_core():
            break
        command = evaluation(
            "llama.cpp", model, workload.every, ids, generate=workload.generated, one_thread=one_core
        )
        document, rival = [*ours(workload, model, ids), "--json"], f"llama.cpp{where}"
        found.append(Contender(f"ours{where}", document, rival, one_core=one_core))
        found.append(Contender(rival, command, one_core=one_core))
    return found


def ours(workload: Workload, model: Path, ids: Sequence[int]) -> list[str]:
    positions = "all" if workload.every else "last"
    more = ("--generate", str(workload.generated)) if workload.generated else ()
    return trace(model, "--tokens", joined(ids), "--positions", positions, "--verbose", *more)


def agreement(workload: Workload, model: Path, ids: Sequence[int]) -> str:
    """Which tokens both say come next: a contender that computes something else is no measure."""
    document = said_by_ours(ours(workload, model, ids))
    generated = workload.generated
    theirs = said_by_peer(evaluation("llama.cpp", model, False, ids, generate=generated))
    if not generated:
        said = document["predictions"][-1]["predicted"]["token"]
        return f"next token {said} (ours), {theirs[0]} (llama.cpp)"
    said = [step["token"]["token"] for step in document["generation"]]
    same = next((i for i, (a, b) in enumerate(zip(said, theirs, strict=False)) if a != b), len(said))
    return f"{len(said)} tokens generated (ours), {len(theirs)} (llama.cpp), the first {same} are the same"


def cell(entrants: Sequence[Contender], usages: dict[str, list[Usage]]) -> str:
    """ "0.75 s: 1.42, 1.20": our best time, times llama.cpp's, the same on one core.

    For the first ratio llama.cpp has the faster of its own threads and one: on a core that others use,
    two wait for each other.
    """
    own, *single = [(usages[each.name], usages[each.rival]) for each in entrants if each.rival]
    ratios = [ratio(own[0], [*own[1], *(usage for _, theirs in single for usage in theirs)])]
    ratios += [ratio(*pair) for pair in single]
    seconds = min(usage.wall for usage in usages["ours"])
    return f"{seconds:.2f} s: {', '.join(f'{each:.2f}' for each in ratios)}"
