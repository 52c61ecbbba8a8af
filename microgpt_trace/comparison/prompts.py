"""Compare two models on many prompts, for instance as a check in CI."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError, naming
from ..models.language_model import LanguageModel
from ..notebook import in_notebook
from ..progress import Report, unreported
from ..text.frozen import frozen
from ..text.json_reading import OutOfBounds, from_json
from ..text.json_writing import in_document
from ..untrusted_files import read_text
from .diff import diff


@frozen
class PromptComparison:
    """The comparison of two models on one prompt.

    `agree` is True if all compared events lie within their bands. `same` is True if, in addition, every value
    of the pass was compared. `events` counts the compared events, and `of` counts all events. `worst` is the
    event with the largest distance relative to its band. `relative` is the distance of the `worst` event, and
    `tolerance` is the band of the `worst` event.
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
    """The comparison of two models on many prompts."""

    SCHEMA = "microgpt.prompts/1"

    a: str
    b: str
    prompts: tuple[PromptComparison, ...]
    _repr_html_ = in_notebook

    @property
    @in_document
    def agree(self) -> bool:
        """True if the models agree on every prompt."""
        return all(prompt.agree for prompt in self.prompts)

    @property
    @in_document
    def same(self) -> bool:
        """True if the models agree in every value of the pass, on every prompt."""
        return all(prompt.same for prompt in self.prompts)


def read_prompts(path: Path) -> list[str | list[int]]:
    """Read one prompt per line: a text, a list of token ids as JSON, or a JSON string. Empty lines are
    skipped. Raises FileFormatError if there is no prompt, or if an item of a list is not a token id."""
    lines = read_text(path, "a file of prompts").split("\n")
    prompts = [_prompt(path, n, line.removesuffix("\r")) for n, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise FileFormatError(f"{path}: expected one prompt per line, found none")
    return prompts


def _prompt(path: Path, number: int, line: str) -> str | list[int]:
    expected = f"{path}, line {number}: expected a text or a list of token ids"
    if line[0] not in '["':
        return line
    try:
        value = from_json(line)
    except OutOfBounds as error:
        raise FileFormatError(f"{expected}, found {error}") from error
    except ValueError:
        return line
    tokens = isinstance(value, list) and value and all(type(item) is int for item in value)
    if not tokens and not isinstance(value, str):
        raise FileFormatError(f"{expected}, found {line:.60}")
    return value


def diff_prompts(
    a: LanguageModel, b: LanguageModel, prompts: Sequence[str | list[int]], report: Report = unreported,
    **options: Any,
) -> PromptsComparison:  # fmt: skip
    """Compare two models on every prompt. `options` are passed to `diff`. Raises InputError with the number
    of the prompt if a prompt cannot be compared."""
    comparisons = []
    for number, prompt in enumerate(prompts):
        report(number, len(prompts))
        inputs: dict[str, Any] = {"text": prompt} if isinstance(prompt, str) else {"tokens": prompt}
        with naming(f"prompt {number + 1}"):
            result = diff(a, b, **inputs, **options)
        worst, agreement = result.worst, result.agreement
        if agreement is None:
            raise InputError(
                "--prompts compares logits, which --layer leaves out: include 'logits' in --layer"
            )
        one = PromptComparison(
            str(prompt), len(result.tokens or ()), result.agree, result.same, len(result.compared),
            len(result.events) + len(result.left_out), result.first, worst.name, worst.relative,
            worst.tolerance, agreement.positions, agreement.same_argmax, agreement.mean_kl, agreement.max_kl,
        )  # fmt: skip
        comparisons.append(one)
    return PromptsComparison(a.origin, b.origin, tuple(comparisons))
