"""Join the recordings of the ranks of a tensor-parallel run. The plan shows which events are split between
ranks, by heads, channels or tokens, and which events are sums over ranks. Others are equal on all ranks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays.rounding import to_bf16, to_f16
from ..arrays.stats import Array
from ..decoder.catalogue import choice_of, examples, has_keys, kinds_in_heads, known_row
from ..models.language_model import LanguageModel
from ..plans.kinds import Experts, Linear, Lookup, Mixture
from ..plans.plan import kind_of, over_tokens
from ..text.wording import abridged
from .layouts import Leftover, OfRanks, Recorded
from .passes import row_count
from .recording import Recording, agreed, one_of

RANK = re.compile(r"(?:tp(?:_?rank)?|rank)[-_=]?([0-9]{1,9})(?:[._-].*)?", re.IGNORECASE)
_NEAR = 1 / 8  # copies of a sum are nearer to each other than this share of their size, unlike parts of a sum


class _Columns(NamedTuple):
    """The columns or heads of an event in the tensor of a rank. `per` ranks have copies of the same."""

    start: int
    stop: int
    per: int

    def of(self, array: Array, axis: int) -> Array:
        return array.take(range(self.start, self.stop), axis) if array.ndim else array


@cache
def split_and_summed() -> tuple[frozenset[str], frozenset[str]]:
    """Return the names, without a layer, of the events that are split between ranks, and of the events that
    are sums over ranks: products that read split events, and the embedding."""
    split, summed = set[str](), set[str]()
    for plan in examples():
        split |= {row.name for row in plan.head}
        summed |= {row.name for row in plan.of_kind(Lookup) if row.kind.by == "tokens"}
        for row in map(plan.product_of, plan.branches):
            while isinstance(row.kind, Mixture):
                summed.add(kind_of(row.name))
                row = plan[row.inputs[0]]
            summed.add(kind_of(row.name))
            pending = [row.inputs[0]]
            for name in pending:
                split.add(kind_of(name))
                pending += () if isinstance(plan[name].kind, Linear | Experts) else plan[name].inputs
    return frozenset(split), frozenset(summed)


def ranks_as_one(path: Path, ranks: Sequence[Recording], model: LanguageModel | None = None) -> Recording:
    """Return the recordings of all ranks as one recording. The model, if known, tells the width of events.
    Raises InputError if the tokens differ."""
    length = row_count(ranks[0])
    result = one_of(ranks, lambda name, own: _joined(name, own, len(ranks), length, model))
    ranked = {name: own.ranks for name, own in result.tensors.items() if own.ranks}
    made = {result.tensors[name].source: own for name, own in ranked.items()}
    counts = Counter("different on some ranks" if own.odd else own.how for own in made.values())
    notes = [f"{len(ranks)} ranks: {', '.join(f'{count} {how}' for how, count in counts.items())}"]
    notes += [f"{name}: {own.odd}" for name, own in ranked.items() if own.odd]
    return replace(
        result, origin=str(path), kind=f"{len(ranks)} ranks, {result.kind}",
        tokens=agreed("tokens", [(one.origin, one.tokens) for one in ranks]),
        notes=(*notes, *dict.fromkeys(note for one in ranks for note in one.notes)),
    )  # fmt: skip


def _joined(
    name: str, own: Mapping[int, Recorded], count: int, length: int, model: LanguageModel | None
) -> Recorded | Leftover:
    """Return the tensor of an event, or the reason why the parts of the ranks cannot be joined."""
    parts, (first, *_) = tuple(own.values()), own.values()
    axis = _axis(name, first, length) if first.axis is None else first.axis
    rows = [a for a, size in enumerate(first.shape[:-1]) if size * count == length and not over_tokens(name)]
    alike = len({part.shape for part in parts}) == 1 and -axis <= max(1, len(first.shape))
    if alike and rows and length not in first.shape:  # sequence parallelism
        axis, pieces = rows[0], [_Columns(0, first.shape[rows[0]], 1)]
    else:
        rows, pieces = [], _pieces(name, parts, axis, count, model) if alike else []
    if not pieces or (len(parts) < count and any(piece.per < count for piece in pieces)):
        shapes = abridged([f"{list(one.shape)} on rank {rank}" for rank, one in own.items()])
        return Leftover(first, f"the parts of {count} ranks do not make {name}: {shapes}")
    if kind_of(name) in split_and_summed()[1] and pieces[0].per == count and not _are_copies(parts):
        total = OfRanks("summed", parts)
        return replace(first, read=lambda: np.sum([part.read() for part in parts], 0), ranks=total)
    groups = [(one, [*own][at : at + one.per]) for one in pieces for at in range(0, len(own), one.per)]
    bases, odd = zip(*(_base(own, group, piece, axis) for piece, group in groups), strict=True)
    shape = list(first.shape)
    if shape:
        shape[axis] = sum(piece.stop - piece.start for piece, _ in groups)

    def read() -> Array:
        cut = [piece.of(own[base].read(), axis) for (piece, _), base in zip(groups, bases, strict=True)]
        return np.concatenate(cut, axis) if len(cut) > 1 else cut[0]

    per = pieces[first.beside.index(name) if len(pieces) == len(first.beside) else 0].per
    how = "joined by position" if rows else "joined" if per < count else "equal to rounding on all ranks"
    how = how if len(parts) == count else "recorded on some ranks only"
    ranks = OfRanks(how, parts, per, "; ".join(filter(None, dict.fromkeys(odd))))
    return replace(first, shape=tuple(shape), read=read, ranks=ranks)


def _axis(name: str, recorded: Recorded, length: int) -> int:
    """Return the axis of the heads or channels. Values in heads are [.., H, T, D] or [.., T, H, D]."""
    shape, letters = recorded.shape, recorded.layout
    in_heads = kind_of(name) in kinds_in_heads() and (len(shape) > 3 or (len(shape) == 3 and shape[0] > 1))
    if not has_keys(name) and not in_heads:
        return -1
    of_rows = len(shape) > 2 and not letters and shape[-3] == length != shape[-2]
    return -2 if letters in ("THD", "THS") or of_rows else -3


def _pieces(
    name: str, parts: Sequence[Recorded], axis: int, count: int, model: LanguageModel | None
) -> list[_Columns]:
    """Return the events in the tensor of a rank, or [] if the widths do not fit. Without a model, the values
    show which ranks have copies."""
    first, (split, summed), kind = parts[0], split_and_summed(), kind_of(name)
    width, events = first.shape[axis] if first.shape else 1, first.beside or (name,)
    if first.axis is not None:
        return [_Columns(0, width, 1)]
    if model is None or not model.plan.keys() >= {*events}:
        apart = kind in split or known_row(name) is None
        pers = (per for per in range(count, 0, -1) if count % per == 0 and _copied(parts, per))
        return [] if first.beside else [_Columns(0, width, next(pers) if apart else count)]
    whole, heads = model.plan.open_shapes, model.plan.heads
    unit = first.shape[-1] if axis < -1 and len(whole[name]) == 2 else 1  # the width of a head
    full = [int((1, *whole[event])[1 if len(whole[event]) == 3 else -1]) // unit for event in events]
    chosen = whole.get(choice_of(name) or "", (1,))[-1] if kind in split | summed else 1
    if first.by_head:
        full = [sum(full)]
    elif chosen > 1:  # the parts of chosen experts have an own axis, or lie side by side
        full = [full[0] // chosen] * (1 if len(first.shape) > 2 and first.shape[-2] == chosen else chosen)
    if width == sum(full):
        return [_Columns(0, width, count)]
    least = max(heads[own].dim if own in heads else 1 for own in events)  # at least one head of k and of v
    widths = [width] if len(full) == 1 else [max(n // count, least) for n in full]
    if sum(widths) != width or any(count * own % n for own, n in zip(widths, full, strict=True)):
        return []
    each = zip(accumulate(widths), widths, full, strict=True)
    return [_Columns(end - own, end, count * own // n) for end, own, n in each]


def _base(own: Mapping[int, Recorded], group: Sequence[int], piece: _Columns, axis: int) -> tuple[int, str]:
    """Return the rank whose values most ranks of the group have, and which ranks have other values."""
    if len(group) == 1:
        return group[0], ""
    values = {rank: piece.of(own[rank].read(), axis) for rank in group}
    odd = {base: [r for r in group if not _same(values[r], values[base])] for base in group}
    base = min(group, key=lambda rank: len(odd[rank]))
    which, others = abridged([*map(str, odd[base])]), f"other values than rank {base}"
    words = f"rank {which} has {others}" if len(odd[base]) == 1 else f"ranks {which} have {others}"
    return base, words if odd[base] else ""


def _copied(parts: Sequence[Recorded], per: int) -> bool:
    """Return True if every `per` ranks, in order, have the same values."""
    return per == 1 or all(_same(own.read(), parts[i - i % per].read()) for i, own in enumerate(parts))


def _same(a: Array, b: Array) -> bool:
    """Return True if two arrays are equal, or rounding in the precision of `b` explains the difference."""
    narrow = any(np.array_equal(round(b), b, equal_nan=True) for round in (to_bf16, to_f16))
    sizes, apart = (np.linalg.norm(np.atleast_1d(values), axis=-1) for values in (b, a - b))
    near = bool((apart <= sizes * 2.0 ** (-6 if narrow else -14)).all())
    return near or np.array_equal(a, b, equal_nan=True)


def _are_copies(parts: Sequence[Recorded]) -> bool:
    """Return True if most ranks have nearly the same values: those of the sum, and not parts of the sum."""
    values, norm = [part.read() for part in parts], np.linalg.norm
    near = [sum(bool(norm(a - b) <= _NEAR * norm(b)) for a in values) for b in values if b.any()]
    return 2 * max(near, default=len(values)) > len(values)
