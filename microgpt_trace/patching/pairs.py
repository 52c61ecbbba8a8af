"""Patching over several pairs of texts: mean and spread of every site. Knows no screen."""

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
from ..untrusted_files import read_text
from .patch import Text, Token, patch_read, places_of, read_pair
from .results import MeanPatched, PairsResult, Patched, PatchedPair

Inputs = tuple[TraceInput, TraceInput]


@frozen
class Pair:
    """Two texts and the tokens to tell apart, with what an error calls them."""

    clean: Text
    corrupt: Text
    target: Token = None
    against: Token = None
    where: str = ""


def read_pairs(path: Path) -> list[Pair]:
    """CLEAN<TAB>CORRUPT a line, or CLEAN<TAB>CORRUPT<TAB>TARGET<TAB>AGAINST. Empty lines and those that
    begin with # are left out. Raises FileFormatError."""
    lines = read_text(path, "a file of pairs").split("\n")
    numbered = [(f"{path}, line {n}", line.removesuffix("\r")) for n, line in enumerate(lines, 1)]
    found = [_pair(where, line) for where, line in numbered if line.strip() and not line.startswith("#")]
    if not found:
        raise FileFormatError(f"{path}: expected lines CLEAN<TAB>CORRUPT, found none")
    return found


def _pair(where: str, line: str) -> Pair:
    fields = line.split("\t")
    if len(fields) not in (2, 4) or not all(fields):
        raise FileFormatError(
            f"{where}: expected CLEAN<TAB>CORRUPT, or these and <TAB>TARGET<TAB>AGAINST, found "
            f"{len(fields)} field{'s' * (len(fields) != 1)}{', one of them empty' * (not all(fields))}"
        )
    clean, corrupt, target, against = (*fields, None, None)[:4]
    return Pair(clean or "", corrupt or "", target, against, where)


def patch_pairs(
    model: LanguageModel, pairs: Sequence[Pair], *, sites: Sequence[str] | None = None,
    target: Token = None, against: Token = None, position: int = -1,
    report: Report = unreported,
) -> PairsResult:  # fmt: skip
    """`patch` of every pair, and mean and spread over the pairs. Where a site is patched position by
    position all texts have the same number of tokens. `target` and `against` stand in for those that a
    pair does not name; `report` is told how many pairs are done. Raises InputError, which names the
    pair."""
    if not pairs:
        raise InputError("expected at least one pair")
    read = []
    for number, pair in enumerate(pairs, 1):
        with _named(pair, number):
            read.append(read_pair(model, pair.clean, pair.corrupt))
            _refuse_another_length(model, sites, read[0], read[-1])
    results = []
    for number, (pair, inputs) in enumerate(zip(pairs, read, strict=True), 1):
        with _named(pair, number):
            named = (
                target if pair.target is None else pair.target,
                against if pair.against is None else pair.against,
            )
            results.append(patch_read(model, inputs, sites, *named, position, unreported))
        report(number, len(pairs))
    facts = tuple(PatchedPair(r.contrast, r.clean, r.corrupt, r.check) for r in results)
    cells = zip(*(result.cells for result in results), strict=True)
    return PairsResult(model.origin, facts, tuple(map(_mean, cells)))


@contextmanager
def _named(pair: Pair, number: int) -> Iterator[None]:
    """Let an error say which pair it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{pair.where or f'pair {number}'}: {error}") from error


def _refuse_another_length(
    model: LanguageModel, sites: Sequence[str] | None, first: Inputs, other: Inputs
) -> None:
    wanted, found = len(first[0].tokens), len(other[0].tokens)
    if wanted != found and any(p.spot.position is not None for p in places_of(model, sites, wanted)):
        raise InputError(
            f"{found:,} tokens, and the first pair has {wanted:,}: positions have no mean over such pairs; "
            "whole heads (--sites 'layer*.attn.head*') do"
        )


def _mean(cells: Sequence[Patched]) -> MeanPatched:
    """Over the values that are finite; None where there is none."""
    known = [cell.restored for cell in cells if math.isfinite(cell.restored)]
    mean, spread = (float(np.mean(known)), float(np.std(known))) if known else (None, None)
    return MeanPatched(*cells[0].place, mean, spread, len(known))
