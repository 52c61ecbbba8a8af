"""Problems: why a file cannot run, and what a reader reads nevertheless. A reader raises an error at the
first problem, unless its `Problems` is not strict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from ..arrays.encodings import StoredTensor
from ..errors import FileFormatError, InputError, MicrogptError
from ..text.frozen import frozen
from .config import DecoderConfig
from .setting_names import setting_named

MOST = 100  # problems; a hostile file has more
# A setting that makes no sense, or tensors that are missing, that the model lacks, or that do not fit
ProblemKind = Literal["setting", "missing", "extra", "unfit"]


@frozen
class Problem:
    """Why a file cannot run: a sentence with the expected and the found value. `names` has the setting, or
    the tensors if they are known, by our names."""

    kind: ProblemKind
    text: str
    names: tuple[str, ...] = ()


@dataclass(eq=False, repr=False)
class Problems:
    """The problems of a file, and what a reader could read: the config, the tensors under our names with rows
    in Hugging Face order, the names of unknown tensors, the notes (`assumed`) and the metadata. `unused_head`
    is the head of a file whose config ties the head to the embedding.

    If `strict` is true, the first problem is raised as an error. Otherwise, missing and unknown tensors are
    passed over, and listed when everything is read. `other` is the config of another file of the same model,
    if there is one. Its settings replace settings that are missing or make no sense.
    """

    origin: str = ""  # the path as the user wrote it
    strict: bool = True
    other: DecoderConfig | None = None
    problems: tuple[Problem, ...] = ()
    config: DecoderConfig | None = None
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    unused_head: StoredTensor | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    format: str = ""  # set before the settings are read; from here on, the file is a model
    load_vocabulary: Callable[[], Any] = lambda: None

    def note(self, kind: ProblemKind, error: MicrogptError, *names: str) -> None:
        """Add a problem, or raise the error. An identical problem is added once."""
        if self.strict:
            raise error
        problem = Problem(kind, str(error), names)
        if problem not in self.problems and len(self.problems) < MOST:
            self.problems += (problem,)

    @contextmanager
    def noting(self, kind: ProblemKind, *names: str) -> Iterator[None]:
        """Note an error of the block as a problem."""
        try:
            yield
        except (InputError, FileFormatError) as error:
            self.note(kind, error, *names)

    def architecture(self, read: Callable[[], str]) -> str:
        """Return the architecture that `read` names. After an error, return that of the other file."""
        if self.other is None:
            return read()
        with self.noting("setting", "architecture"):
            return read()
        return self.other.architecture

    def corrected(self, values: Mapping[str, Any], key: str, error: MicrogptError) -> dict[str, Any]:
        """Note an error of the setting `key`. Return the settings with those of the same kind taken from the
        other file, or left out. Raises the error if this changes nothing."""
        self.note("setting", error, setting_named(key))
        group = _group_of(key)
        same = {key, *(name for name in values if _group_of(name) == group)}
        usual = {name: self._usual(name) for name in same}
        if all(values.get(name) is value for name, value in usual.items()):
            raise error
        rest = {name: value for name, value in values.items() if name not in same}
        return rest | {name: value for name, value in usual.items() if value is not None}

    def _usual(self, key: str) -> Any | None:
        """Return the other file's value of a setting that is one number or the architecture, or else None."""
        name = setting_named(key)
        of, name = (self.other and self.other.rope, "theta") if name == "rope_base" else (self.other, name)
        value = None if name == "vocab_size" else getattr(of, name, None)  # each file has its own rows
        return value if name == "architecture" or type(value) in (int, float) else None

    def settled(self, *names: str) -> dict[str, Any]:
        """Return these fields of the other file's config, and the fields that have a problem."""
        wrong = {*names, *(name for own in self.problems if own.kind == "setting" for name in own.names)}
        if any(name.startswith("rope_") for name in wrong):
            wrong |= {"rope", "window_rope", "rotary_dim", "layers_without_rope"}
        values = vars(self.other) if self.other else {}
        return {
            name: values[name] for name in wrong - {"architecture", "biases", "vocab_size"} if name in values
        }


def _group_of(key: str) -> str:
    """Return our name for a setting, or "rope" for all settings of RoPE, which are replaced together."""
    name = setting_named(key)
    return "rope" if name.startswith("rope_") else name
