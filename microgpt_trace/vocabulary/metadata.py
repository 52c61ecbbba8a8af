"""Typed access to what a model file says of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import FileFormatError
from ..text.brief import frozen


@frozen(slots=False)
class Metadata:
    """Typed access to what a file says. Each method gives None where a key is missing or null."""

    path: Path
    values: Mapping[str, Any]

    def _get(self, key: str, kind: type, what: str) -> Any:
        value = self.values.get(key)
        if value is not None and type(value) is not kind:
            raise FileFormatError(f"{self.path}: {key}: expected {what}, found {value!r:.60}")
        return value

    def text(self, key: str) -> str | None:
        return self._get(key, str, "text")

    def flag(self, key: str) -> bool | None:
        return self._get(key, bool, "true or false")

    def token(self, key: str, size: int) -> int | None:
        """An id below the vocabulary's size."""
        value = self._get(key, int, "a token id")
        if value is not None and not 0 <= value < size:
            raise FileFormatError(f"{self.path}: {key}: expected an id below {size:,}, found {value:,}")
        return value

    def strings(self, key: str) -> list[str] | None:
        return self._list(key, (str,), "a list of texts")

    def numbers(self, key: str, size: int) -> list[Any] | None:
        """A list with a number for each token; an empty one is none."""
        found: Any = self.values.get(key)
        if hasattr(found, "__len__") and len(found) not in (0, size):  # before it becomes a list
            raise FileFormatError(f"{self.path}: {key}: expected {size:,} numbers, found {len(found):,}")
        return self._list(key, (int, float), "a list of numbers") or None

    def _list(self, key: str, kinds: tuple[type, ...], what: str) -> list[Any] | None:
        values: Any = self.values.get(key)
        alike = hasattr(values, "tolist")  # an array, whose elements have one type
        values = values.tolist() if alike else values
        if values is None:
            return None
        if not isinstance(values, list) or not set(map(type, values[:1] if alike else values)).issubset(
            kinds
        ):
            raise FileFormatError(f"{self.path}: {key}: expected {what}, found {values!r:.60}")
        return values

    def tokens(self, key: str) -> Sequence[str]:
        tokens = self.strings(key)
        if not tokens:
            raise FileFormatError(f"{self.path}: {key}: expected the tokens, found none")
        check_tokens(tokens, self.path)
        return tokens


def check_tokens(tokens: Sequence[str], path: Path) -> None:
    try:
        "".join(tokens).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise FileFormatError(
            f"{path}: a token holds what is no text: {error.object[error.start]!a}"
        ) from error
