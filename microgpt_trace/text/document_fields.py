"""What of a result stands in its JSON document: the fields, and the properties that are marked here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

Getter = TypeVar("Getter", bound=Callable[..., object])
_marked = set[object]()


def in_document(getter: Getter) -> Getter:
    """Marks a property, from beneath @property, to stand in JSON documents too."""
    _marked.add(getter)
    return getter


@cache
def marked(kind: type) -> tuple[str, ...]:
    """The names of a class's properties that do."""
    own = (item for base in reversed(kind.__mro__) for item in vars(base).items())
    return tuple(name for name, value in own if isinstance(value, property) and value.fget in _marked)


@cache
def members(kind: type) -> tuple[str, ...]:
    """The names of all that a document has of a dataclass."""
    return *kind.__dataclass_fields__, *marked(kind)  # type: ignore[attr-defined]
