"""Patch several pairs of texts, and compute the mean and spread of every site. Prints nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import FileFormatError, InputError, naming
from ..models.language_model import LanguageModel, TraceInput
from ..progress import Report, unreported
from ..text.frozen import frozen
from ..text.wording import counted
from ..untrusted_files import read_text
from .patch import Method, PatchOptions, Text, Token, patch_inputs, read_pair
from .patch_results import MeanPatched, PairsResult, PatchedPair, Spot
from .points import points_of

Inputs = tuple[TraceInput, TraceInput]


@frozen
class Pair:
    """Two texts, and the tokens of their logit difference. In errors, the pair is called `where`."""

    clean: Text
    corrupt: Text
    target: Token = None
    against: Token = None
    where: str = ""


def read_pairs(path: Path) -> list[Pair]:
    """Read pairs from a file with one pair per line: CLEAN<TAB>CORRUPT or
    CLEAN<TAB>CORRUPT<TAB>TARGET<TAB>AGAINST. Empty lines and lines that begin with # are skipped. Raises
    FileFormatError for any other line."""
    columns = "CLEAN<TAB>CORRUPT or CLEAN<TAB>CORRUPT<TAB>TARGET<TAB>AGAINST"
    lines = columns_of(path, "a file of pairs", columns, (2, 4))
    names = ("clean", "corrupt", "target", "against")
    return [Pair(where=where, **dict(zip(names, fields, strict=False))) for where, fields in lines]


def columns_of(path: Path, expected: str, columns: str, counts: Sequence[int]) -> list[tuple[str, list[str]]]:
    """Read the place and the tab-separated columns of each line that is not empty and does not begin with #.
    `counts` are the allowed numbers of columns. Raises FileFormatError for any other line, and for no
    lines."""
    lines = [line.removesuffix("\r") for line in read_text(path, expected).split("\n")]
    used = [(n, line) for n, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    found = [(f"{path}, line {n}", line.split("\t")) for n, line in used]
    for where, fields in found:
        if len(fields) not in counts or not all(fields):
            empty = ", one of them empty" * (not all(fields))
            raise FileFormatError(
                f"{where}: expected {columns}, found {counted(len(fields), 'field')}{empty}"
            )
    if not found:
        raise FileFormatError(f"{path}: expected lines {columns.partition(' or ')[0]}, found none")
    return found


def patch_pairs(
    model: LanguageModel, pairs: Sequence[Pair], *, sites: Sequence[str] | None = None,
    target: Token = None, against: Token = None, position: int = -1, method: Method = "exact",
    report: Report = unreported,
) -> PairsResult:  # fmt: skip
    """Patch every pair as `patch` does, and return the mean and spread of every site over the pairs.

    Sites that are patched position by position need texts with the same number of tokens in all pairs.
    `target` and `against` apply to pairs that name no tokens. `report` is called with the number of pairs
    done and the total. Raises an InputError that names the pair.
    """
    if not pairs:
        raise InputError("pairs: expected at least one, found none")
    inputs = list[Inputs]()
    for number, pair in enumerate(pairs, 1):
        with naming(pair.where or f"pair {number}"):
            inputs.append(read_pair(model, pair.clean, pair.corrupt))
            _check_length(model, sites, inputs[0], inputs[-1])
    results = []
    for number, (pair, own) in enumerate(zip(pairs, inputs, strict=True), 1):
        tokens = (
            target if pair.target is None else pair.target,
            against if pair.against is None else pair.against,
        )
        with naming(pair.where or f"pair {number}"):
            options = PatchOptions(sites, *tokens, position, method, confirm=0)
            results.append(patch_inputs(model, own, options, unreported))
        report(number, len(pairs))
    facts = tuple(PatchedPair(r.contrast, r.clean, r.corrupt, r.check) for r in results)
    cells = zip(*(result.cells for result in results), strict=True)
    means = tuple(mean_of(own[0], [cell.restored for cell in own]) for own in cells)
    return PairsResult(model.origin, facts, means, method)


def _check_length(model: LanguageModel, sites: Sequence[str] | None, first: Inputs, other: Inputs) -> None:
    expected, found = len(first[0].tokens), len(other[0].tokens)
    if expected != found and any(p.spot.position is not None for p in points_of(model, sites, expected)):
        raise InputError(
            f"expected {expected:,} tokens as in the first pair, found {found:,}; pairs of different lengths "
            "have no mean by position, but whole heads have one (--sites 'layer*.attn.head*')"
        )


def mean_of(spot: Spot, values: Sequence[float]) -> MeanPatched:
    """Return the mean and spread of the finite values, or None if no value is finite."""
    finite = [value for value in values if math.isfinite(value)]
    mean, spread = (float(np.mean(finite)), float(np.std(finite))) if finite else (None, None)
    return MeanPatched(*spot.place, mean, spread, len(finite))
