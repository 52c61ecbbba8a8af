"""Open a model file although `trace` would refuse it, such as a file with missing tensors or wrong counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arrays.encodings import StoredTensor
from ..decoder.config import DecoderConfig
from ..decoder.model import Decoder
from ..decoder.problems import Problem, Problems
from ..decoder.settings import is_count, is_positive
from ..errors import FileFormatError, InputError, MicrogptError
from ..grouping import grouped
from ..readers.apr import read_apr
from ..readers.gguf_model import read_gguf
from ..readers.huggingface import read_huggingface
from ..readers.loading import format_of
from ..readers.model_file import in_halves
from ..text.brief import brief, frozen
from ..text.printable import as_message
from ..text.wording import abridged, counted
from .setting_names import CHECKS, KEYS, NAMES

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

READERS: Mapping[str, Callable[..., Decoder]] = {
    "GGUF": read_gguf, "apr": read_apr, "Hugging Face": read_huggingface,
}  # fmt: skip
__all__ = ["Problem", "Side", "open_side"]


@frozen(slots=False, eq=False)
class Side:
    """One of the two models of a certificate, as far as its file can be read.

    - `model` is None if `trace` would refuse the file. Then `problems` has the reasons.
    - `config` is None if the settings make no sense. If single settings make no sense, they are those of the
      other file.
    - `tensors` are all known tensors by our names, with rows in Hugging Face order and any shapes. `unknown`
      are the names of the other tensors in the file.
    - `vocabulary` is None if the file has none, or if `vocabulary_problem` says why it cannot be read.
    - `metadata` and `format` are those of the file. `assumed` are notes on what the file does not say.
    """

    origin: str  # the path as the user wrote it
    model: Decoder | None
    config: DecoderConfig | None
    tensors: Mapping[str, StoredTensor]
    unknown: tuple[str, ...] = ()
    vocabulary: Vocabulary | None = None
    vocabulary_problem: str = ""
    problems: tuple[Problem, ...] = ()
    format: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()


def open_side(path: Path, fallback: Side | None = None) -> Side:
    """Open a GGUF file, an .apr file or a Hugging Face folder, even if `trace` would refuse it.

    The settings of `fallback`, another file of the same model, replace settings that are missing or make no
    sense. Raises FileFormatError if the file is cut short, is damaged, cannot be read or is no decoder.
    """
    other = fallback.config if fallback else None
    found = Problems(CHECKS, _usual(other) if other else {}, other)
    read, model = READERS.get(format_of(path)), None
    if read is None:
        raise FileFormatError(f"{path}: expected a GGUF, .apr or Hugging Face model, found a microGPT")
    try:
        model = read(path, problems=found)
    except (FileFormatError, InputError) as error:
        if not found.format:
            raise
        if found.config is None and not found.found:
            found.note("settings.architecture", error)
    if found.unknown:
        first, count = brief(found.unknown[0]), counted(len(found.unknown), "unknown tensor")
        found.note("weights.extra", f"the file has {count}, such as {first}")
    if found.config and found.config.adjacent_pairs:
        layout = other or found.config
        whole = {n: t for n, t in found.tensors.items() if t.shape and t.shape[0] % layout.head_dim == 0}
        found.tensors = {**found.tensors, **in_halves(layout, whole)}
    if found.config and not model:
        _note_tensors(found.config, found)
    return _side(path, model, found)


def _side(path: Path, model: Decoder | None, found: Problems) -> Side:
    vocabulary, problem = None, ""
    try:
        vocabulary = model.vocabulary if model else found.vocabulary()
    except MicrogptError as error:
        problem = _sentence(path, str(error))
    problems = tuple(replace(own, text=_sentence(path, own.text)) for own in found.found)
    return Side(
        str(path), model, found.config, found.tensors, tuple(found.unknown), vocabulary, problem, problems,
        found.format, found.metadata, tuple(dict.fromkeys(found.notes)),
    )  # fmt: skip


def _usual(config: DecoderConfig) -> dict[str, Any]:
    """Return the numbers in a config by the keys that files use for them."""
    values = {name: getattr(config, name, None) for name in KEYS}
    values["rope_base"] = config.rope and config.rope.theta
    return {
        key: value for name, value in values.items() for key in KEYS[name]
        if name == "architecture" or is_count(value) or is_positive(value)
    }  # fmt: skip


def _note_tensors(config: DecoderConfig, found: Problems) -> None:
    """Note the tensors that do not fit the config. If the other file has the same tensor, or also lacks the
    tensor, a setting is wrong."""
    shapes, other = config.shapes(), found.other
    right = shapes if other is None else other.shapes()
    own = {name: tensor.shape for name, tensor in found.tensors.items()}
    unfit = [name for name in {**shapes, **own} if shapes.get(name) != own.get(name)]
    misread = [name for name in unfit if other is not None and own.get(name) == right.get(name)]
    if misread and not any(problem.id.startswith("settings.") for problem in found.found):
        first, *_ = misread
        expected, actual = (list(of.get(first, ())) or "no such tensor" for of in (shapes, own))
        text = f"the settings do not fit tensor {first}: expected {expected}, found {actual}"
        values = ((name, *(getattr(own, name, None) for own in (config, other))) for name in NAMES)
        wrong = [
            str(name) for name, a, b in values if a != b and not isinstance(a, float)
        ]  # no shape follows
        found.note(f"settings.{[*wrong, 'architecture'][0]}", text)
    accused = {name for problem in found.found for name in problem.names}
    unfit = [name for name in unfit if name not in misread and name not in accused]
    kinds = grouped(unfit, lambda n: "missing" if n not in own else "other" if n in shapes else "extra")
    what = {"missing": "missing from the file", "extra": "not part of the model", "other": "of a wrong shape"}
    for kind, names in kinds.items():
        text = f"{what[kind]}: {counted(len(names), 'tensor')} ({abridged(names)})"
        if kind == "other":
            text += f", expected {list(shapes[names[0]])} for the first, found {list(own[names[0]])}"
        found.note(f"weights.{kind}", text, names)


def _sentence(path: Path, text: str) -> str:
    """Return an error as a sentence without the path."""
    for start in (path, path / "config.json"):
        text = text.removeprefix(f"{start}: ")
    text = as_message(text.replace(f"{path} ", "the file ")).rstrip(".")
    return f"{text[:1].upper() if text.split()[0].isalpha() else text[:1]}{text[1:]}."
