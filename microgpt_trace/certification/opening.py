"""Open a model file although `trace` would refuse it, such as a file with missing tensors or wrong counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..decoder.config import DecoderConfig
from ..decoder.decoder import Decoder
from ..decoder.problems import Problem, ProblemKind, Problems
from ..decoder.setting_names import NAMES
from ..errors import FileFormatError, InputError, MicrogptError
from ..grouping import grouped
from ..readers.loading import format_of, reader_of
from ..readers.model_file import in_halves
from ..text.brief import brief
from ..text.printable import as_message
from ..text.wording import abridged, counted

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary


@dataclass(eq=False, repr=False)
class Side(Problems):
    """One of the two models of a certificate, as far as its file can be read. Tensors have any shapes.

    `model` is None if `trace` would refuse the file. Then `problems` has the reasons. `config` is None if the
    settings make no sense. `vocabulary` is None if the file has none, or if the sentence `vocabulary_problem`
    says why.
    """

    model: Decoder | None = None
    vocabulary: Vocabulary | None = None
    vocabulary_problem: str = ""


_TENSORS: Mapping[ProblemKind, tuple[str, str]] = {  # the check that tensors belong to, and what they are
    "missing": ("weights.missing", "missing from the file"),
    "extra": ("weights.extra", "not part of the model"),
    "unfit": ("weights.other", "of a wrong shape"),
}


def check_of(problem: Problem) -> str:
    """Return the id of the check that a problem belongs to, such as "settings.n_layer"."""
    if problem.kind != "setting":
        return _TENSORS[problem.kind][0]
    (name,) = problem.names
    return "vocabulary.size" if name == "vocab_size" else f"settings.{name or 'other'}"


def open_side(path: Path, fallback: Side | None = None) -> Side:
    """Open a GGUF file, an .apr file or a Hugging Face folder, even if `trace` would refuse it.

    The settings of `fallback`, another file of the same model, replace settings that are missing or make no
    sense. Raises FileFormatError if the file is cut short, is damaged, cannot be read or is no decoder.
    """
    other = fallback.config if fallback else None
    side = Side(str(path), strict=False, other=other)
    kind, model = format_of(path), None
    if kind == "checkpoint":
        raise FileFormatError(f"{path}: expected a GGUF, .apr or Hugging Face model, found a microGPT")
    try:
        model = reader_of(kind)(path, problems=side)
    except (FileFormatError, InputError) as error:
        if not side.format:
            raise
        if side.config is None and not side.problems:
            side.note("setting", error, "architecture")
    if side.unknown:
        first, count = brief(side.unknown[0]), counted(len(side.unknown), "unknown tensor")
        side.note("extra", InputError(f"the file has {count}, such as {first}"))
    if side.config and side.config.adjacent_pairs:
        side.tensors = in_halves((other or side.config).head_dim, side.tensors)
    side.model = None if side.problems else model
    if side.config and not side.model:
        _note_tensors(side, side.config)
    try:
        side.vocabulary = side.model.vocabulary if side.model else side.load_vocabulary()
    except MicrogptError as error:
        side.vocabulary_problem = _sentence(path, str(error))
    side.problems = tuple(replace(own, text=_sentence(path, own.text)) for own in side.problems)
    side.assumed = list(dict.fromkeys(side.assumed))
    return side


def _note_tensors(side: Side, config: DecoderConfig) -> None:
    """Note the tensors that do not fit the config. If the other file has the same tensor, or also lacks the
    tensor, a setting is wrong."""
    shapes, right = config.shapes(), (side.other or config).shapes()
    own = {name: tensor.shape for name, tensor in side.tensors.items()}
    unfit = [name for name in {**shapes, **own} if shapes.get(name) != own.get(name)]
    misread = [name for name in unfit if own.get(name) == right.get(name)]
    if misread and not any(check_of(problem).startswith("settings.") for problem in side.problems):
        first, *_ = misread
        expected, actual = (list(of.get(first, ())) or "no such tensor" for of in (shapes, own))
        text = f"the settings do not fit tensor {first}: expected {expected}, found {actual}"
        values = {name: [getattr(own, name, None) for own in (config, side.other)] for name in NAMES}
        wrong = (n for n, (a, b) in values.items() if a != b and not isinstance(a, float))  # no shape follows
        side.note("setting", InputError(text), next(wrong, "architecture"))
    accused = {name for problem in side.problems for name in problem.names}
    unfit = [name for name in unfit if name not in misread and name not in accused]

    def kind_of(name: str) -> ProblemKind:
        return "missing" if name not in own else "unfit" if name in shapes else "extra"

    for kind, names in grouped(unfit, kind_of).items():
        text = f"{_TENSORS[kind][1]}: {counted(len(names), 'tensor')} ({abridged(names)})"
        if kind == "unfit":
            text += f", expected {list(shapes[names[0]])} for the first, found {list(own[names[0]])}"
        side.note(kind, InputError(text), *names)


def _sentence(path: Path, text: str) -> str:
    """Return an error as a sentence without the path."""
    text = text.removeprefix(f"{path}: ").removeprefix(f"{path / 'config.json'}: ")
    text = as_message(text.replace(f"{path} ", "the file ")).rstrip(".")
    return f"{text[:1].upper() if text.split()[0].isalpha() else text[:1]}{text[1:]}."
