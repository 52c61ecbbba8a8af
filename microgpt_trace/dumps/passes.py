"""Join the passes of one run, such as a prefill and the decoding steps after it, or chunks of a prompt.

The joined recording has one row for each position of one text, like a recording of a single pass. A row is
taken from the pass that computed it. Rows of padding and of other texts of a batch are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..decoder.catalogue import has_keys
from ..errors import InputError
from ..naming.user_map import PassChoice
from ..plans.kinds import Shape
from ..plans.plan import over_tokens
from ..text.wording import abridged, counted
from .layouts import Leftover, Recorded
from .recording import Recording, Texts, one_of

PASS = re.compile(r"(?:step|pass|chunk|iter(?:ation)?)[-_=]?([0-9]{1,9})(?:[._-].*)?", re.IGNORECASE)
_UNCLEAR = "the shapes {} do not show which axis has the positions; name the layout in a map"


def numbered(folder: Path, pattern: re.Pattern[str] = PASS) -> list[Path]:
    """Return the files and folders of the passes (or ranks) in a folder by number, or [] if the folder
    contains another file."""
    names = [own.name for own in folder.iterdir() if own.name[0] != "."] if folder.is_dir() else []
    numbers = {name: int(match[1]) for name in names if (match := pattern.fullmatch(name))}
    if len(numbers) < len(names) or len({*numbers.values()}) < len(names):
        return []
    start = min(numbers.values(), default=0) if pattern is PASS else 0
    missing = [n for n in range(start, start + len(numbers)) if n not in numbers.values()]
    if missing:
        numbers_of = f"the numbers {start} to {start + len(numbers) - 1}"
        raise InputError(f"{folder}: expected {numbers_of}, found no {missing[0]}")
    return [folder / name for name in sorted(names, key=numbers.__getitem__)]


def row_count(recording: Recording) -> int:
    """Return the number of rows of a pass: of its tokens, or else the most common length of the last axis but
    one."""
    if recording.batch is not None:
        return recording.batch.ids.shape[1]
    if recording.tokens:
        return len(recording.tokens)
    every = (*recording.tensors.values(), *(left.recorded for left in recording.leftovers))
    shapes = [recorded.shape for recorded in every if len(recorded.shape) > 1]
    return Counter(shape[-2] for shape in shapes).most_common(1)[0][0] if shapes else 1


class _TextPass(NamedTuple):
    """A pass over a text. `positions` has the position of each row of the dump that belongs to the text. Of
    `width` columns of scores and weights, `keys` lists those that belong to the text."""

    dump: Recording
    length: int
    positions: Mapping[int, int]
    keys: Array
    width: int

    @property
    def end(self) -> int:
        """The position after the last."""
        return 1 + max(self.positions.values())


def joined(path: Path, dumps: Sequence[Recording], choice: PassChoice, padded: bool = False) -> Recording:
    """Return the passes of one text as one recording, without padding unless `padded`. Raises InputError if
    the dump has several texts and none is chosen, or the choice does not fit."""
    batch, idle = dumps[0].batch, list[str]()  # notes about choices that are for another dump
    count = 1 if batch is None else len(batch.ids)
    if count > 1 and choice.text is None:
        raise InputError(f"{path}: a batch of {count} texts: choose one with --batch 0 to {count - 1}")
    text = choice.text or 0 if count > 1 else 0
    if not 0 <= text < count:
        raise InputError(f"{path}: expected a text below {count}, found {text}")
    if choice.text is not None and count == 1:
        idle.append("the given text of a batch is not for this dump, which has one text")
    pads, has_mask = _pads(dumps, choice, text), batch is not None and batch.mask is not None
    if choice.padding is not None and pads is None and not has_mask:
        idle.append("the given padding is not for this dump: its tokens there differ")
    every = [*_passes(dumps, text, pads, padded)]
    passes = [one for one in every if one.positions]
    if not passes:
        if not any(one.length for one in every):
            return dumps[0]  # a comparison refuses tensors without rows
        raise InputError(f"{path}: expected a text, found only padding")
    if choice.positions is not None:
        placed = _placed(path, passes, choice.positions, len(dumps))
        idle += ["the given positions of passes are not for this dump, which has one pass"] * (not placed)
        passes = placed or passes
    starts = accumulate((one.length for one in every), initial=0)
    rows = tuple(start + row for one, start in zip(every, starts, strict=False) for row in one.positions)
    about = [f"text {text} of a batch of {count}"] * (count > 1)
    if cut := sum(one.length for one in every) - len(rows):
        about.append(f"{counted(cut, 'row')} of padding cut")
    if len(dumps) == 1 and not about and 0 in passes[0].positions.values():
        return replace(dumps[0], notes=(*dumps[0].notes, *idle))
    own = dict.fromkeys(note for one in passes for note in one.dump.notes)
    texts = Texts(count, text, rows) if about else None
    return _of_passes(path, passes, texts, [*own, *about, *idle])


def _passes(
    dumps: Sequence[Recording], text: int, pads: slice | None, padded: bool
) -> Iterator[_TextPass]:  # fmt: skip
    """Yield the passes of a dump. Each pass continues the text, except a single decoding step."""
    batch, end = dumps[0].batch, 0
    alone = batch is not None and len(dumps) == len(batch.ids) == 1
    position = max(0, batch.start) if alone and batch is not None else 0
    for dump in dumps:
        length = row_count(dump)
        end += length
        mask = np.ones(length, bool)
        if dump.batch is not None and dump.batch.mask is not None:
            later = dump.batch.mask[
                :, end:
            ].any()  # or else these are places for later keys in a static cache
            mask = dump.batch.mask[text, : None if later else end]
        elif pads is not None:
            mask = np.ones(end, bool)
            mask[pads] = False
        keys = np.flatnonzero(mask | padded)
        rows = keys[keys >= len(mask) - length] - (len(mask) - length)  # the last keys are of this pass
        own = {row: position + n for n, row in enumerate(rows.tolist())}
        yield _TextPass(dump, length, own, keys, len(mask))
        position += len(rows)


def _pads(dumps: Sequence[Recording], choice: PassChoice, text: int) -> slice | None:
    """Return the rows of the chosen padding, which is in the first pass, or None. The padding is in another
    dump of the comparison if this dump has a mask, or different tokens in these rows. Raises InputError if
    the padding is too long."""
    masked = any(one.batch is not None and one.batch.mask is not None for one in dumps)
    if choice.padding is None or masked:
        return None
    (side, count), length = choice.padding, row_count(dumps[0])
    if not 0 < count < length:
        raise InputError(f"{dumps[0].origin}: expected padding below {length} rows, found {count}")
    pads = slice(count) if side == "left" else slice(length - count, length)
    return None if len({*(_ids(dumps[0], text) or ())[pads]}) > 1 else pads


def _placed(
    path: Path, passes: Sequence[_TextPass], given: Sequence[Sequence[int]], dumps: int
) -> list[_TextPass]:
    """Return passes with the given positions of their rows, or [] if these are not for a dump of one pass."""
    lengths, others = [len(one.positions) for one in passes], [*map(len, given)]
    if lengths != others and dumps > 1:
        ours, found = (abridged([*map(str, own)]) for own in (lengths, others))
        raise InputError(f"{path}: expected positions of passes of {ours} rows, found {found}")
    pairs = zip(passes, given, strict=True) if lengths == others else ()
    return [one._replace(positions=dict(zip(one.positions, own, strict=True))) for one, own in pairs]


def _ids(dump: Recording, text: int) -> tuple[int, ...] | None:
    """Return the tokens of a text of the pass, also those of padding."""
    batch = dump.batch
    return dump.tokens if batch is None or len(batch.ids) == 1 else tuple(batch.ids[text].tolist())


def _rows_axis(shapes: Sequence[Shape], lengths: Sequence[int]) -> int | None:
    """Return the axis with one entry for each row of the pass, in the tensors of all passes, or None if no
    axis or several axes may be meant."""
    rank = len(shapes[0])
    if any(len(shape) != rank for shape in shapes):
        return None
    fits = [a for a in range(rank) if all(s[a] == n for s, n in zip(shapes, lengths, strict=True))]
    inner = [axis for axis in fits if axis < rank - 1]  # the last axis has channels or keys
    if len(inner) > 1 and (max(lengths) == 1 or rank == 2):
        return inner[-1]
    return inner[0] if len(inner) == 1 else fits[0] if not inner and len(fits) == 1 else None


def _of_passes(
    path: Path, passes: Sequence[_TextPass], texts: Texts | None, notes: Sequence[str]
) -> Recording:
    """Return one recording of passes, or of one text of a batch."""

    def join(name: str, own: dict[int, Recorded]) -> Recorded | Leftover:
        return _joined_tensor(name, {i: _of_text(recorded, texts) for i, recorded in own.items()}, passes)

    tokens, first = dict[int, int](), one_of([one.dump for one in passes], join)
    for one in passes:
        ids = _ids(one.dump, texts.chosen if texts else 0)
        tokens |= {position: ids[row] for row, position in one.positions.items()} if ids else {}
    length, ranges = max(one.end for one in passes), [[*one.positions.values()] for one in passes]
    if len(passes) > 1 or ranges[0][0]:
        shown = [f"{own[0]}" if len(own) == 1 else f"{own[0]} to {own[-1]}" for own in ranges]
        notes = [f"positions of the passes: {abridged(shown)}", *notes]
        first = replace(first, kind=f"{len(passes)} pass{'es' * (len(passes) > 1)}, {first.kind}")
    return replace(
        first, origin=str(path), positions=None, batch=None, notes=tuple(notes), texts=texts,
        tokens=tuple(tokens[p] for p in range(length)) if len(tokens) == length else None,
        starts=tuple(own[0] for own in ranges),
    )  # fmt: skip


def _of_text(recorded: Recorded, texts: Texts | None) -> Recorded:
    if texts is None or texts.count == 1 or recorded.shape[:1] != (texts.count,):
        return recorded
    return replace(recorded, shape=recorded.shape[1:], read=lambda: recorded.read()[texts.chosen])


def _joined_tensor(
    name: str, parts: Mapping[int, Recorded], passes: Sequence[_TextPass]
) -> Recorded | Leftover:  # fmt: skip
    """Return the tensor of an event in all passes, or the reason why the passes cannot be joined. `parts` has
    the tensors by the number of the pass."""
    first, shapes = next(iter(parts.values())), [own.shape for own in parts.values()]
    if not first.shape:
        return first if len(passes) == 1 else Leftover(first, "one number for each pass")
    stored: dict[int, Sequence[int]] = {i: range(passes[i].length) for i in parts}
    axis = _rows_axis(shapes, [*map(len, stored.values())])
    if axis is None and over_tokens(name):  # perhaps only some rows of each pass
        stored = {i: passes[i].dump.positions or range(passes[i].length)[-1:] for i in parts}
        axis = _rows_axis(shapes, [*map(len, stored.values())])
    if axis is None:
        return Leftover(first, _UNCLEAR.format(list(first.shape)))
    # of several passes that compute a position, the last counts
    entries = (
        (i, at, passes[i].positions.get(row)) for i, own in stored.items() for at, row in enumerate(own)
    )
    of_position = {position: (i, at) for i, at, position in entries if position is not None}
    every, length = sorted(of_position), max(one.end for one in passes)
    widths = {shape[-1] for shape in shapes}
    so_far = all(own.shape[-1] == passes[i].end for i, own in parts.items())
    keys = has_keys(name) or (len(widths) > 1 and so_far)
    others = {tuple(n for a, n in enumerate(shape[:-1]) if a != axis) for shape in shapes}
    if not every or len(others) > 1 or (len(widths) > 1 and not keys):
        return Leftover(first, "the shapes of the passes do not fit together")
    width = length if keys else first.shape[-1]
    shape = tuple(len(every) if a == axis else n for a, n in enumerate((*first.shape[:-1], width)))

    def read() -> Array:
        arrays = {i: own.read() for i, own in parts.items()}
        if keys:
            arrays = {i: _by_key(own, passes[i], length) for i, own in arrays.items()}
        by_row = {i: np.moveaxis(own, axis, 0) for i, own in arrays.items()}
        return np.stack([by_row[i][at] for i, at in map(of_position.__getitem__, every)], axis)

    return replace(first, shape=shape, read=read, rows=None if len(every) == length else tuple(every))


def _by_key(rows: Array, one: _TextPass, length: int) -> Array:
    """Return the scores or weights of queries, [.., S], as [.., length]. The last key is at the last position
    of the pass. A cache may have more places than keys; these come last. It may also have only the last
    keys."""
    if rows.shape[-1] == one.width:
        rows = rows[..., one.keys]
    rows = rows[..., : one.end]
    start = one.end - rows.shape[-1]
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(start, length - one.end)])
