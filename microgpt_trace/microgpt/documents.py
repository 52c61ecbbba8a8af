"""Documents: the names of a data file, their split into training and held-out names, and their ids."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import count
from pathlib import Path

import numpy as np

from ..arrays.stats import Array
from ..errors import FileFormatError
from ..text.brief import brief
from ..text.frozen import frozen
from ..text.wording import counted
from ..untrusted_files import read_text
from .tokenizer import Tokenizer

LONG_LINE = 1000  # a longer line that exceeds the block is left out at once
HELD_OUT_SHARE = 10  # one name in ten is held out


def default_data() -> Path:
    """Return the path of names.txt in the installed package or in a source checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "names.txt"
    return packaged if packaged.exists() else package.parent / "names.txt"


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file. Raises FileFormatError if the file cannot be read or is
    empty."""
    lines = read_text(path, "a file of names").splitlines()
    if not any(line.strip() for line in lines):
        raise FileFormatError(f"{path}: expected one name per line, found an empty file")
    return lines


@frozen(slots=False)
class Documents:
    """The names of a file that fit a model, in the order of the file, repetitions included."""

    names: list[str]
    notes: tuple[str, ...] = ()  # sentences about lines that were changed or left out

    @classmethod
    def fit(cls, lines: Sequence[str], tokenizer: Tokenizer, block_size: int, hint: str = "") -> Documents:
        """Keep the lines that fit the vocabulary and the block, and write notes about the other lines. `hint`
        ends the note about characters outside the vocabulary."""
        names: list[str] = []
        lines_by_reason: dict[str, list[str]] = {"lowercased": []}
        outside = f"left out, with a character outside {tokenizer.describe_chars()}"
        for number, line in enumerate(lines, 1):
            text = line.strip()
            is_short = len(text) < max(block_size, LONG_LINE)
            name = tokenizer.normalize(text) if is_short else text
            if not name:
                reason = "left out, blank"
            elif is_short and name.strip(tokenizer.chars):  # a character is unknown
                reason = outside
            elif len(name) >= block_size:
                reason = f"left out, longer than {counted(block_size - 1, 'character')}"
            else:
                names.append(name)
                reason = "lowercased" if name != text else ""
            if reason:
                lines_by_reason.setdefault(reason, []).append(f"line {number}: {brief(text)}")
        hints = {outside: f"; {hint}"} if hint else {}
        notes = (
            f"{counted(len(found), 'line')} {reason} (first: {found[0]}){hints.get(reason, '')}"
            for reason, found in lines_by_reason.items()
            if found
        )
        return cls(names, tuple(notes))

    @cached_property
    def held_out(self) -> Array:
        """The indices of the held-out names (about a tenth of all names). Training never uses these names."""
        return np.flatnonzero(list(map(held_out, self.names)))

    @cached_property
    def train(self) -> Array:
        """The indices of the training names."""
        return np.delete(np.arange(len(self.names)), self.held_out)

    @cached_property
    def fingerprint(self) -> str:
        """A text that identifies the names and their order, which a resumed run needs again."""
        return f"{len(self.names)} names, crc32 {zlib.crc32(chr(10).join(self.names).encode()):08x}"

    def __len__(self) -> int:
        return len(self.names)


def held_out(name: str) -> bool:
    """Return True if a name is held out: if the name's BLAKE2b hash (64 bits) modulo 10 is 0. All repetitions
    of a name have the same hash, so all or none of the repetitions are held out.
    """
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") % HELD_OUT_SHARE == 0


def encoded_names(names: Sequence[str], tokenizer: Tokenizer) -> Array:
    """Encode names as one stream of ids: BOS name BOS name BOS. All characters must be in the vocabulary."""
    chars = set[str]().union(*names)
    ids = {ord(c): tokenizer.chars.index(tokenizer.normalize(c)) + tokenizer.first_id for c in chars}
    between = next(point for point in count() if point not in ids)
    ids[between] = tokenizer.bos_id
    # str.translate turns ids into characters, which NumPy reads all at once. This saves 0.1 s for 32,000
    # names.
    stream = chr(between).join(["", *names, ""]).translate(ids)
    return np.frombuffer(stream.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.intp)
