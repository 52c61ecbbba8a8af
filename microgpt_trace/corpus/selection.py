"""What is asked for: where documents are, and which of them. Opens nothing."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..text.brief import brief

STDIN = "-"
MOST = (1 << 63) - 1  # of a number of texts, and of a seed


@dataclass(frozen=True)
class CorpusSelection:
    """Sources in their order, and the documents to take from them: all, the first so many, or a sample.

    A source is the path of a file, a glob, a URL that fsspec opens, or "-" for the standard input, which is
    text whatever is in it. `field` names what is read of the records of .jsonl, .ndjson and .parquet. A
    `sample` is chosen uniformly, without replacement and by the seed, and keeps the order of the corpus; of
    a smaller corpus it is all. With `skip_bad` what is no document is counted instead of refused.
    """

    sources: tuple[str, ...]
    field: str = "text"
    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    skip_bad: bool = False

    def __post_init__(self) -> None:
        """Raises InputError where it asks for nothing, or for what contradicts itself."""
        if not self.sources or not all(self.sources):
            raise InputError(f"sources of a corpus: expected names of files, found {brief(self.sources)}")
        if self.sources.count(STDIN) > 1:
            raise InputError("sources of a corpus: - is the standard input, which can be read once")
        if not self.field:
            raise InputError("field: expected the name of a field, found an empty one")
        for name, least in (("limit", 1), ("sample", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name}: expected at least {least}, found {value:,}")
            if value is not None and value > MOST:
                raise InputError(f"{name}: expected at most {MOST:,}, found a larger number")
        if self.sample and self.limit:
            raise InputError("a limit takes the first documents, a sample any of them: give one of the two")
        if self.sample and STDIN in self.sources:
            raise InputError("a sample is read twice, and - can be read once: write it to a file first")
