"""Documents: the names of a data file as one stream of ids, split and batched. Trains nothing."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import count
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
        names: list[str] = []
        found: dict[str, list[str]] = {"lowered": []}
        outside = f"left out, with a character outside {tokenizer.describe_chars()}"
        for number, line in enumerate(lines, 1):
            written = line.strip()
            looked_at = len(written) < max(block_size, LONG_LINE)
            name = tokenizer.normalize(written) if looked_at else written
            if not name:
                reason = "left out, blank"
            elif looked_at and name.strip(tokenizer.chars):  # nothing is left of one that it can write
                reason = outside
            elif len(name) >= block_size:
                reason = f"left out, longer than {block_size - 1} characters"
            else:
                names.append(name)
                reason = "lowered" if name != written else ""
            if reason:
                found.setdefault(reason, []).append(f"line {number}: {brief(written)}")
        hints = {outside: f"; {hint}"} if hint else {}
        notes = (
            f"{counted(len(own), 'line')} {reason} (first: {own[0]}){hints.get(reason, '')}"
            for reason, own in found.items()
            if own
        )
        return cls(names, tuple(notes))

    @cached_property
    def held_out(self) -> Array:
        """Indices of the tenth that is never trained on."""
        return np.flatnonzero(list(map(held_out, self.names)))

    @cached_property
    def train(self) -> Array:
        """Indices of the other nine tenths."""
        return np.delete(np.arange(len(self.names)), self.held_out)

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


def encoded_names(names: Sequence[str], tokenizer: Tokenizer) -> Array:
    """Names that the vocabulary can write as one stream of ids, BOS name BOS name BOS."""
    chars = set[str]().union(*names)
    ids = {ord(c): tokenizer.chars.index(tokenizer.normalize(c)) + tokenizer.first_id for c in chars}
    between = next(point for point in count() if point not in ids)
    ids[between] = tokenizer.bos_id
    # As characters the ids are translated and decoded at once: 0.1 s less of 32,000 names.
    stream = chr(between).join(["", *names, ""]).translate(ids)
    return np.frombuffer(stream.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.intp)


class Encoded:
    """Documents as one stream of ids: a name with both its BOS is a slice."""

    def __init__(
        self, names: Sequence[str], tokenizer: Tokenizer, config: Config, dtype: DType = np.float32
    ) -> None:
        self.stream = encoded_names(names, tokenizer)
        self.lengths = np.fromiter((len(name) + 1 for name in names), np.intp, len(names))
        self.starts = np.concatenate(([0], self.lengths.cumsum()))
        self._packer, self._reach = Packer(config, dtype), np.arange(config.block_size + 1)
        self._starts = self.starts.tolist()  # a list's integers are quicker to slice with

    def one(self, index: int) -> Batch:
        return self._packer.one(self.stream[self._starts[index] : self._starts[index + 1] + 1])

    def several(self, indices: Array) -> Batch:
        reach = self.starts[indices][:, None] + self._reach
        padded = self.stream.take(reach, mode="clip")  # what lies past a name's end is masked
        return self._packer.several(padded, self.lengths[indices])
