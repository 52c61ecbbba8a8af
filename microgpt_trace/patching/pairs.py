"""Patch several pairs of texts, and compute the mean and spread of every site. Prints nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..architecture.edits import Report, unreported
from ..architecture.model import LanguageModel, TraceInput
from ..errors import FileFormatError, InputError
from ..text.brief import frozen
from ..text.wording import counted
from ..untrusted_files import read_text
from .patch import Method, PatchOptions, Text, Token, patch_inputs, read_pair
from .points import points_of
from .results import MeanPatched, PairsResult, Patched, PatchedPair

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
    lines = read_text(path, "a file of pairs").split("\n")
    numbered = [(f"{path}, line {n}", line.removesuffix("\r")) for n, line in enumerate(lines, 1)]
    pairs = [_pair(where, line) for where, line in numbered if line.strip() and not line.startswith("#")]
    if not pairs:
        raise FileFormatError(f"{path}: expected lines CLEAN<TAB>CORRUPT, found none")
    return pairs


def _pair(where: str, line: str) -> Pair:
    fields = line.split("\t")
    if len(fields) not in (2, 4) or not all(fields):
        raise FileFormatError(
            f"{where}: expected CLEAN<TAB>CORRUPT or CLEAN<TAB>CORRUPT<TAB>TARGET<TAB>AGAINST, found "
            f"{counted(len(fields), 'field')}{', one of them empty' * (not all(fields))}"
        )
    clean, corrupt, target, against = (*fields, None, None)[:4]
    return Pair(clean or "", corrupt or "", target, against, where)


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
        with _naming(pair, number):
            inputs.append(read_pair(model, pair.clean, pair.corrupt))
            _check_length(model, sites, inputs[0], inputs[-1])
    results = []
    for number, (pair, own) in enumerate(zip(pairs, inputs, strict=True), 1):
        tokens = (
            target if pair.target is None else pair.target,
            against if pair.against is None else pair.against,
        )
        with _naming(pair, number):
            options = PatchOptions(sites, *tokens, position, method, confirm=0)
            results.append(patch_inputs(model, own, options, unreported))
        report(number, len(pairs))
    facts = tuple(PatchedPair(r.contrast, r.clean, r.corrupt, r.check) for r in results)
    cells = zip(*(result.cells for result in results), strict=True)
    return PairsResult(model.origin, facts, tuple(map(_mean, cells)), method)


@contextmanager
def _naming(pair: Pair, number: int) -> Iterator[None]:
    """Put the name of the pair in front of any error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{pair.where or f'pair {number}'}: {error}") from error


def _check_length(model: LanguageModel, sites: Sequence[str] | None, first: Inputs, other: Inputs) -> None:
    expected, found = len(first[0].tokens), len(other[0].tokens)
    if expected != found and any(p.spot.position is not None for p in points_of(model, sites, expected)):
        raise InputError(
            f"expected {expected:,} tokens as in the first pair, found {found:,}; pairs of different lengths "
            "have no mean by position, but whole heads have one (--sites 'layer*.attn.head*')"
        )


def _mean(cells: Sequence[Patched]) -> MeanPatched:
    """Return the mean and spread of the finite values, or None if no value is finite."""
    finite = [cell.restored for cell in cells if math.isfinite(cell.restored)]
    mean, spread = (float(np.mean(finite)), float(np.std(finite))) if finite else (None, None)
    return MeanPatched(*cells[0].place, mean, spread, len(finite))
