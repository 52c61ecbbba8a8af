"""Many prompts through two models: the gate for a CI job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..architecture.edits import Report, unreported
from ..architecture.model import LanguageModel
from ..errors import FileFormatError, InputError
from ..notebook import in_notebook
from ..text.brief import frozen
from ..text.json_reading import OutOfBounds, from_json
from ..text.json_writing import in_document
from ..untrusted_files import read_text
from .diff import diff


@frozen
class PromptComparison:
    """What one prompt showed: how the predictions agree, and the event farthest from its band.

    `agree`: none of the `events` that were compared, `of` so many, lies beyond its band; `same`: they agree
    and were all.
    """

    text: str
    tokens: int
    agree: bool
    same: bool
    events: int
    of: int
    first: str | None
    worst: str
    relative: float
    tolerance: float
    positions: int
    same_argmax: int
    mean_kl: float
    max_kl: float


@frozen
class PromptsComparison:
    """What many prompts showed of two models."""

    SCHEMA = "microgpt.prompts/1"

    a: str
    b: str
    prompts: tuple[PromptComparison, ...]
    _repr_html_ = in_notebook

    @property
    @in_document
    def agree(self) -> bool:
        """Every prompt does."""
        return all(prompt.agree for prompt in self.prompts)

    @property
    @in_document
    def same(self) -> bool:
        """Every prompt is."""
        return all(prompt.same for prompt in self.prompts)


def read_prompts(path: Path) -> list[str | list[int]]:
    """A prompt a line, as text, or as JSON: a list of token ids, or a string with its escapes.

    Empty lines are left out. Raises FileFormatError.
    """
    lines = read_text(path, "a file of prompts").split("\n")
    found = [_prompt(path, n, line.removesuffix("\r")) for n, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise FileFormatError(f"{path}: expected a prompt a line, found none")
    return found


def _prompt(path: Path, number: int, line: str) -> str | list[int]:
    if line[0] not in '["':
        return line
    try:
        value = from_json(line)
    except OutOfBounds as error:
        raise FileFormatError(
            f"{path}, line {number}: expected a text or token ids, found {error}"
        ) from error
    except ValueError:
        return line
    tokens = isinstance(value, list) and value and all(type(item) is int for item in value)
    if not tokens and not isinstance(value, str):
        raise FileFormatError(
            f"{path}, line {number}: expected a text or a list of token ids, found {line:.60}"
        )
    return value


def diff_prompts(
    a: LanguageModel,
    b: LanguageModel,
    prompts: Sequence[str | list[int]],
    report: Report = unreported,
    **options: Any,
) -> PromptsComparison:
    """Compare two models on every prompt; `options` are those of `diff`. Raises InputError, saying which
    prompt it is that does not fit."""
    found = []
    for number, prompt in enumerate(prompts):
        report(number, len(prompts))
        said: dict[str, Any] = {"text": prompt} if isinstance(prompt, str) else {"tokens": prompt}
        try:
            result = diff(a, b, **said, **options)
        except InputError as error:
            raise InputError(f"prompt {number + 1}: {error}") from error
        worst, agreement = result.worst, result.agreement
        if agreement is None:
            raise InputError("prompts are judged by their logits, which --layer leaves out")
        told = sum(event.told for event in result.events)
        one = PromptComparison(
            str(prompt), len(result.tokens or ()), result.agree, result.same, told,
            len(result.events) + len(result.left_out), result.first, worst.name, worst.relative,
            worst.tolerance, agreement.positions, agreement.same_argmax, agreement.mean_kl, agreement.max_kl,
        )  # fmt: skip
        found.append(one)
    return PromptsComparison(a.origin, b.origin, tuple(found))
