"""Problems: what a reader notes about a file that cannot run, and what it reads nevertheless. Without a
`Problems`, a reader raises an error at the first problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..arrays.encodings import StoredTensor
from ..errors import FileFormatError, InputError
from ..text.brief import frozen
from .config import DecoderConfig

MOST = 100  # problems; a hostile file has more


@frozen
class Problem:
    """One sentence on why a file cannot run. `id` is the check of a certificate that the problem belongs to,
    such as "settings.n_layer". `names` are the parameters that are accused, by our names."""

    id: str
    text: str
    names: tuple[str, ...] = ()


@dataclass
class Problems:
    """The problems of a file, and what a reader could read: the config, the tensors under our names with rows
    in Hugging Face order, the names of unknown tensors, the notes and the metadata.

    `ids` maps keys of settings, in any format, to the ids of checks. `other` is the config of another file of
    the same model, if there is one, and `usual` has its settings by key. They replace settings that are
    missing or make no sense.
    """

    ids: Mapping[str, str]
    usual: Mapping[str, Any] = field(default_factory=dict)
    other: DecoderConfig | None = None
    found: list[Problem] = field(default_factory=list)
    config: DecoderConfig | None = None
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    format: str = ""
    vocabulary: Callable[[], Any] = lambda: None

    @property
    def architecture(self) -> str:
        """The name of the other file's architecture, or ""."""
        return self.other.architecture if self.other else ""

    def opened(
        self, format: str, metadata: Mapping[str, Any], notes: list[str],
        tensors: Mapping[str, StoredTensor], vocabulary: Callable[[], Any],
    ) -> None:  # fmt: skip
        """Keep what was read before the settings. From here on, the file is a model."""
        self.format, self.metadata, self.notes = format, metadata, notes
        self.tensors, self.vocabulary = tensors, vocabulary

    def note(self, id: str, text: object, names: Sequence[str] = ()) -> None:
        """Add a problem. An identical problem is added once."""
        problem = Problem(id, str(text), tuple(names))
        if problem not in self.found and len(self.found) < MOST:
            self.found.append(problem)

    def id_of(self, key: str) -> str:
        """Return the check that a setting belongs to. The key may contain the name of an architecture."""
        return self.ids.get(key) or self.ids.get(key.partition(".")[2]) or "settings.other"

    def replaced(self, values: Mapping[str, Any], prefix: str, key: str) -> dict[str, Any] | None:
        """Return the settings with those of the same kind as `key` taken from the other file, or left out.
        Return None if this changes nothing."""
        kind = self.id_of(key).partition("rope_")[:2]
        names = {name.removeprefix(prefix) for name in values} | {key}
        same = [name for name in names if name == key or self.id_of(name).partition("rope_")[:2] == kind]
        result = {name: value for name, value in values.items() if name.removeprefix(prefix) not in same}
        result |= {prefix + name: self.usual[name] for name in same if name in self.usual}
        changed = any(result.get(prefix + name) is not values.get(prefix + name) for name in same)
        return result if changed else None

    def settled(self, ids: Iterable[str]) -> dict[str, Any]:
        """Return the fields of the other file's config that these checks are about."""
        names = {id.removeprefix("settings.") for id in ids}
        if any(name.startswith("rope_") for name in names):
            names |= {"rope", "window_rope", "rotary_dim", "layers_without_rope"}
        values = vars(self.other) if self.other else {}
        return {name: values[name] for name in names - {"architecture", "biases"} if name in values}


@contextmanager
def noting(problems: Problems | None, id: str, *names: str) -> Iterator[None]:
    """Note an error of the block as a problem, or let the error pass if there is no list of problems."""
    try:
        yield
    except (InputError, FileFormatError) as error:
        if problems is None:
            raise
        problems.note(id, error, names)
