"""Documents: the names of a data file as one stream of ids, split and batched. Trains nothing."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ..arrays.stats import Array, DType
from ..errors import FileFormatError
from ..text.brief import brief, frozen
from ..text.wording import counted
from ..untrusted_files import read_text
from .batch import Batch, Packer
from .parameters import Config
from .tokenizer import Tokenizer

LONG_LINE = 1000  # characters: of a longer line that is too long nothing else is asked
HELD_OUT_SHARE = 10  # one name in ten


def default_data() -> Path:
    """The packaged names.txt, or the one of a source checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "names.txt"
    return packaged if packaged.exists() else package.parent / "names.txt"


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file. Raises FileFormatError naming the file and what is wrong."""
    lines = read_text(path, "a file of names").splitlines()
    if not any(line.strip() for line in lines):
        raise FileFormatError(f"{path}: expected one name a line, found an empty file")
    return lines


@frozen(slots=False)
class Documents:
    """Names that fit a model, in file order, repetitions kept."""

    names: list[str]
    notes: tuple[str, ...] = ()  # what was changed or left out, in words

    @classmethod
    def fit(cls, lines: Sequence[str], tokenizer: Tokenizer, block_size: int, hint: str = "") -> Documents:
        """Keep the lines that the vocabulary can write and the block can hold; note the others. The `hint`
        tells what to do about those that it cannot write."""
        names, notes = [], []
        left_out: dict[str, list[str]] = {}
        outside = f"with a character outside {tokenizer.describe_chars()}"
        lowered: list[str] = []
        for number, line in enumerate(lines, 1):
            written = line.strip()
            looked_at = len(written) < max(block_size, LONG_LINE)
            name = tokenizer.normalize(written) if looked_at else written
            if not name:
                reason = "blank"
            elif looked_at and name.strip(tokenizer.chars):  # nothing is left of one that it can write
                reason = outside
            elif len(name) >= block_size:
                reason = f"longer than {block_size - 1} characters"
            else:
                names.append(name)
                if name != written:
                    lowered.append(f"line {number}: {brief(written)}")
                continue
            left_out.setdefault(reason, []).append(f"line {number}: {brief(written)}")
        if lowered:
            notes.append(f"{counted(len(lowered), 'line')} lowered (first: {lowered[0]})")
        for reason, found in left_out.items():
            more = f"; {hint}" if hint and reason == outside else ""
            notes.append(f"{counted(len(found), 'line')} left out, {reason} (first: {found[0]}){more}")
        return cls(names, tuple(notes))

    @cached_property
    def _is_held_out(self) -> list[bool]:
        return [held_out(name) for name in self.names]

    @cached_property
    def held_out(self) -> Array:
        """Indices of the tenth that is never trained on."""
        return np.flatnonzero(self._is_held_out)

    @cached_property
    def train(self) -> Array:
        """Indices of the other nine tenths."""
        return np.flatnonzero(np.logical_not(self._is_held_out))

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the names and their order: a resumed run must see the same."""
        return f"{len(self.names)} names, crc32 {zlib.crc32(chr(10).join(self.names).encode()):08x}"

    def __len__(self) -> int:
        return len(self.names)


def held_out(name: str) -> bool:
    """Whether a name belongs to the held-out tenth: its BLAKE2b hash (64 bits) modulo 10 is 0.

    It depends on the name alone, so that repetitions of a name fall on one side.
    """
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") % HELD_OUT_SHARE == 0


class Encoded:
    """Documents as one stream of ids, BOS name BOS name BOS: a name with both its BOS is a slice."""

    def __init__(
        self,
        names: Sequence[str],
        tokenizer: Tokenizer,
        config: Config,
        dtype: DType = np.float32,
    ) -> None:
        text = "\n".join(["", *names, ""])
        points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
        ids = np.full(int(points.max()) + 1, tokenizer.bos_id, dtype=np.intp)
        for index, char in enumerate(tokenizer.chars):
            if ord(char) < len(ids):
                ids[ord(char)] = index + tokenizer.first_id
        self.stream = ids[points]
        self.lengths = np.fromiter((len(name) + 1 for name in names), np.intp, len(names))
        self.starts = np.concatenate(([0], self.lengths.cumsum()))
        self._packer, self._reach = Packer(config, dtype), np.arange(config.block_size + 1)
        self._starts = self.starts.tolist()  # a list's integers are quicker to slice with

    def one(self, index: int) -> Batch:
        start, stop = self._starts[index], self._starts[index + 1]
        return self._packer.one(self.stream[start : stop + 1])

    def several(self, indices: Array) -> Batch:
        reach = self.starts[indices][:, None] + self._reach
        padded = self.stream.take(reach, mode="clip")  # what lies past a name's end is masked
        return self._packer.several(padded, self.lengths[indices])
