"""Join the passes of one run, such as a prefill and the decoding steps after it, or chunks of a prompt.

The joined recording has one row for each position of the text, like a recording of a single pass. A row is
taken from the pass that computed it. Before that, one text of a batch is selected, and padding is cut.
In shapes, B is the number of texts of a batch, t the number of rows of one pass, and S of keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from ..arrays.stats import Array
from ..decoder.catalogue import known_row
from ..errors import InputError
from ..naming.user_map import PassChoice
from ..plans.kinds import Shape
from ..plans.plan import over_tokens
from ..text.wording import abridged, counted
from .layouts import Leftover, Recorded
from .recording import Recording, TextBatch, Texts

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


# --- One text of a batch ----------------------------------------------------------------------------


def of_one_text(recording: Recording, choice: PassChoice, padded: bool = False) -> tuple[Recording, Array]:
    """Return the recording of one text, without padding unless `padded`, and the rows of the dump that belong
    to the text. Raises InputError if the dump has several texts and none is chosen, or the choice does not
    fit."""
    batch, length = recording.batch, row_count(recording)
    texts = 1 if batch is None else len(batch.ids)
    text = choice.text or 0 if texts > 1 else 0
    if texts > 1 and choice.text is None:
        raise InputError(
            f"{recording.origin}: a batch of {texts} texts: choose one with --batch 0 to {texts - 1}"
        )
    if not 0 <= text < texts:
        raise InputError(f"{recording.origin}: expected a text below {texts}, found {text}")
    width = length if batch is None or batch.mask is None else batch.mask.shape[1]
    masked = batch is not None and batch.mask is not None and not padded
    keys = np.flatnonzero(batch.mask[text]) if masked else np.arange(width)  # type: ignore[union-attr, index]
    if texts == 1 and len(keys) == width:
        return recording, np.arange(length)
    rows = keys[keys >= width - length] - (width - length)  # the last keys belong to the rows of this pass
    tensors, leftovers = dict[str, Recorded](), list(recording.leftovers)
    stored = recording.positions or range(length)  # of logits and probs, which may lack rows
    found = {row: number for number, row in enumerate(rows.tolist())}
    for name, recorded in recording.tensors.items():
        own, few = _of_text(recorded, texts, text), over_tokens(name) and len(stored) < length
        axis = _rows_axis(name, [own.shape], [len(stored) if few else length])
        if own.shape and axis is None:
            leftovers.append(Leftover(recorded, _UNCLEAR.format(list(recorded.shape))))
            continue
        entries = np.array([i for i, row in enumerate(stored) if row in found], int) if few else rows
        cut = {} if axis is None else {axis: entries}
        cut |= {len(own.shape) - 1: keys} if _has_keys(name) and own.shape[-1] == width else {}
        tensors[name] = _taken(own, cut)
    ids = recording.tokens if batch is None or texts == 1 else tuple(map(int, batch.ids[text]))
    tokens = None if ids is None else tuple(ids[row] for row in rows)
    pads = [f"text {text} of a batch of {texts}"] * (texts > 1)
    pads += [f"{counted(length - len(rows), 'row')} of padding cut"] * (len(rows) < length)
    result = replace(
        recording, tensors=tensors, tokens=tokens, batch=None, leftovers=tuple(leftovers),
        positions=tuple(found[row] for row in stored if row in found) if recording.positions else None,
        notes=(*recording.notes, "; ".join(pads)),
    )  # fmt: skip
    return result, rows


def _with_padding(passes: Sequence[Recording], choice: PassChoice) -> Sequence[Recording]:
    """Return the passes of a dump with the attention mask of the chosen padding, which is in the first pass.
    A dump with a mask, or whose rows of padding have different tokens, stays as it is: the padding is then
    in another dump of the comparison. Raises InputError if the padding is too long."""
    if choice.padding is None or any(one.batch is not None and one.batch.mask is not None for one in passes):
        return passes
    (side, count), length = choice.padding, row_count(passes[0])
    if not 0 < count < length:
        raise InputError(f"{passes[0].origin}: expected padding below {length} rows, found {count}")
    ids = [one.batch.ids if one.batch else np.array([one.tokens or [0] * row_count(one)]) for one in passes]
    text = min(choice.text or 0, len(ids[0]) - 1)
    pads = slice(count) if side == "left" else slice(length - count, length)
    if len(np.unique(ids[0][text, pads])) > 1:
        return passes
    widths = accumulate(own.shape[1] for own in ids)
    masks = [np.ones((len(own), width), bool) for own, width in zip(ids, widths, strict=True)]
    for mask in masks:
        mask[text, pads] = False
    batches = [TextBatch(*own) for own in zip(ids, masks, strict=True)]
    return [replace(one, batch=batch) for one, batch in zip(passes, batches, strict=True)]


def _with_keys_so_far(one: Recording, end: int) -> Recording:
    """Cut the attention mask of a pass that ends before row `end` of the dump. The mask of a static cache has
    places for later keys."""
    if one.batch is None or one.batch.mask is None or one.batch.mask[:, end:].any():
        return one
    return replace(one, batch=one.batch._replace(mask=one.batch.mask[:, :end]))


def _of_text(recorded: Recorded, texts: int, text: int) -> Recorded:
    if texts == 1 or recorded.shape[:1] != (texts,):
        return recorded
    return replace(recorded, shape=recorded.shape[1:], read=lambda: recorded.read()[text])


def _taken(recorded: Recorded, cut: Mapping[int, Array]) -> Recorded:
    """Return a tensor with only these entries of some axes."""
    shape = tuple(len(cut[axis]) if axis in cut else size for axis, size in enumerate(recorded.shape))

    def read() -> Array:
        values = recorded.read()
        for axis, entries in cut.items():
            values = values.take(entries, axis=axis)
        return values

    return replace(recorded, shape=shape, read=read) if shape != recorded.shape else recorded


def _has_keys(name: str) -> bool:
    """Return True for attention scores and weights, whose last axis has an entry for each key."""
    row = known_row(name)
    return row is not None and row.causal


def _rows_axis(name: str, shapes: Sequence[Shape], lengths: Sequence[int]) -> int | None:
    """Return the axis with one entry for each row of the pass, in the tensors of all passes, or None if no
    axis or several axes may be meant."""
    rank = len(shapes[0])
    fits = [a for a in range(rank) if all(s[a] == n for s, n in zip(shapes, lengths, strict=True))]
    inner = [axis for axis in fits if axis < rank - 1]  # the last axis has channels or keys
    if len(inner) > 1 and (max(lengths) == 1 or rank == 2):
        return inner[-1]
    return inner[0] if len(inner) == 1 else fits[0] if not inner and len(fits) == 1 else None


# --- Several passes ---------------------------------------------------------------------------------


def joined(path: Path, dumps: Sequence[Recording], choice: PassChoice, padded: bool = False) -> Recording:
    """Return the passes of one text as one recording, without padding unless `padded`. Raises InputError if
    the positions do not fit."""
    dumps = _with_padding(dumps, choice)
    dumps = [
        _with_keys_so_far(one, end) for one, end in zip(dumps, accumulate(map(row_count, dumps)), strict=True)
    ]
    cut = [of_one_text(one, choice, padded) for one in dumps]
    texts = _texts(dumps, choice, [rows for _, rows in cut])
    padded_out = [one.batch is not None and not len(rows) for one, (_, rows) in zip(dumps, cut, strict=True)]
    kept = [(one, len(rows)) for (one, rows), gone in zip(cut, padded_out, strict=True) if not gone]
    if not kept:
        raise InputError(f"{path}: expected a text, found only padding")
    passes, lengths = map(list, zip(*kept, strict=True))
    ends = list(accumulate(lengths))
    positions = [tuple(range(end - n, end)) for n, end in zip(lengths, ends, strict=True)]
    batch, idle = dumps[0].batch, list[str]()  # notes about choices that are for another dump
    if choice.text is not None and (batch is None or len(batch.ids) == 1):
        idle.append("the given text of a batch is not for this dump, which has one text")
    if choice.padding is not None and (batch is None or batch.mask is None):
        idle.append("the given padding is not for this dump: its tokens there differ")
    if len(dumps) == 1 and batch is not None and len(batch.ids) == 1 and batch.start > 0:
        positions = [tuple(range(batch.start, batch.start + lengths[0]))]  # a single decoding step
    if choice.positions is not None and [*map(len, choice.positions)] == lengths:
        positions = list(choice.positions)
    elif choice.positions is not None:
        if len(dumps) > 1:
            ours, given = (abridged([*map(str, own)]) for own in (lengths, map(len, choice.positions)))
            raise InputError(f"{path}: expected positions of passes of {ours} rows, found {given}")
        idle.append("the given positions of passes are not for this dump, which has one pass")
    passes = [replace(own, notes=(*own.notes, *idle)) if idle else own for own in passes]
    if len(passes) == 1 and positions[0] == tuple(range(lengths[0])):
        return replace(passes[0], texts=texts) if texts else passes[0]
    every = sorted({position for own in positions for position in own})
    of_passes = zip(positions, passes, strict=True)
    tokens = {p: t for own, one in of_passes if one.tokens for p, t in zip(own, one.tokens, strict=True)}
    tensors, leftovers = dict[str, Recorded](), list[Leftover]()
    for name in dict.fromkeys(name for one in passes for name in one.tensors):
        own = {i: one.tensors[name] for i, one in enumerate(passes) if name in one.tensors}
        result = _joined_tensor(name, own, positions, passes)
        leftovers += [result] if isinstance(result, Leftover) else []
        tensors |= {name: result} if isinstance(result, Recorded) else {}
    starts, count = tuple(own[0] for own in positions), f"{len(passes)} pass{'es' * (len(passes) > 1)}"
    shown = [f"{own[0]}" if len(own) == 1 else f"{own[0]} to {own[-1]}" for own in positions]
    notes = dict.fromkeys(note for one in passes for note in one.notes)
    left = {own.recorded.source: own for one in passes for own in (*one.leftovers, *leftovers)}
    return replace(
        passes[0], origin=str(path), kind=f"{count}, {passes[0].kind}", tensors=tensors,
        tokens=tuple(tokens[p] for p in every) if every == [*range(len(tokens))] else None,
        positions=None, leftovers=tuple(left.values()), starts=starts, texts=texts,
        notes=(f"positions of the passes: {abridged(shown)}", *notes),
    )  # fmt: skip


def _texts(dumps: Sequence[Recording], choice: PassChoice, rows: Sequence[Array]) -> Texts | None:
    """Return the texts of the batch, or None if the dump has one text without padding."""
    lengths, batch = [row_count(one) for one in dumps], dumps[0].batch
    count = 1 if batch is None else len(batch.ids)
    if count == 1 and [*map(len, rows)] == lengths:
        return None
    starts = accumulate(lengths[:-1], initial=0)
    own = np.concatenate([start + part for start, part in zip(starts, rows, strict=True)])
    return Texts(count, choice.text or 0 if count > 1 else 0, tuple(own.tolist()))


def _joined_tensor(
    name: str, parts: Mapping[int, Recorded], positions: Sequence[Sequence[int]], passes: Sequence[Recording]
) -> Recorded | Leftover:
    """Return the tensor of an event in all passes, or the reason why the passes cannot be joined. `parts` has
    the tensors by the number of the pass."""
    first, lengths = next(iter(parts.values())), [len(positions[i]) for i in parts]
    rows = {i: tuple(positions[i]) for i in parts}
    shapes = [own.shape for own in parts.values()]
    same_rank = len({*map(len, shapes)}) == 1
    axis = _rows_axis(name, shapes, lengths) if same_rank else None
    if axis is None and over_tokens(name) and same_rank:  # perhaps only some rows of each pass
        rows = {i: tuple(positions[i][p] for p in passes[i].positions or (-1,)) for i in parts}
        axis = _rows_axis(name, shapes, [*map(len, rows.values())])
    if axis is None:
        what = "one number for each pass" if not first.shape else _UNCLEAR.format(list(first.shape))
        return Leftover(first, what)
    # of several passes that compute a position, the last counts
    of_position = {p: (i, row) for i, own in rows.items() for row, p in enumerate(own)}
    at = sorted(of_position)
    length, widths = 1 + max(map(max, positions)), {own.shape[-1] for own in parts.values()}
    so_far = all(own.shape[-1] == 1 + max(positions[i]) for i, own in parts.items())
    keys = _has_keys(name) or (len(widths) > 1 and so_far)
    width = length if keys else first.shape[-1]
    others = {tuple(n for a, n in enumerate(o.shape[:-1]) if a != axis) for o in parts.values()}
    if len(others) > 1 or (len(widths) > 1 and not keys):
        return Leftover(first, "the shapes of the passes do not fit together")
    shape = tuple(len(at) if a == axis else size for a, size in enumerate((*first.shape[:-1], width)))

    def read() -> Array:
        arrays = {i: np.moveaxis(own.read(), axis, 0) for i, own in parts.items()}
        values = np.zeros((len(at), *shape[:axis], *shape[axis + 1 :]), np.result_type(*arrays.values()))
        for i, array in arrays.items():
            pairs = [(row, of_position[p][1]) for row, p in enumerate(at) if of_position[p][0] == i]
            if pairs:
                ours, own = map(list, zip(*pairs, strict=True))
                values[ours] = _by_key(array[own], 1 + max(positions[i]), length) if keys else array[own]
        return np.moveaxis(values, 0, axis)

    whole = len(at) == length
    return replace(first, shape=shape, read=read, rows=None if whole else tuple(at))


def _by_key(rows: Array, end: int, length: int) -> Array:
    """Return the scores or weights of queries, [.., S], as [.., length]. The last key is at position end - 1.
    A cache may have more places than keys; these come last. It may also have only the last keys."""
    rows = rows[..., :end]
    start = end - rows.shape[-1]
    return np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(start, length - end)])
