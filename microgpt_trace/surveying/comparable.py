"""Which of two surveys can be compared: none of two corpora; of other models what has one name and size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InputError
from ..text.brief import brief, frozen
from .state import Survey


@frozen
class NotCompared:
    """What one or both of the surveys have and was not compared, and why."""

    reason: str
    names: tuple[str, ...]


def check_comparable(a: Survey, b: Survey, called: tuple[str, str]) -> None:
    """Raises InputError, naming what differs, where two surveys did not read the same texts in the same way.

    That is told by the fingerprints of the texts, wherever these were read from.
    """
    name_a, name_b = called
    for what, of in _READ.items():
        one, two = of(a), of(b)
        if one != two:
            raise InputError(
                f"{name_b}: its {what} {_said(two)}, where {name_a} has {_said(one)}; surveys are compared "
                "over the same texts, read alike"
            )


def _said(value: Any) -> str:
    return "none" if value is None else value if isinstance(value, str) else brief(value)


def _blocks(survey: Survey) -> str | None:
    """Which documents a part of a corpus has, None of a whole."""
    if survey.whole:
        return None
    found = ", ".join(map(str, sorted(survey.blocks)[:5]))
    return f"{len(survey.blocks):,} blocks of {survey.block_size} ({found}{', …' * (len(survey.blocks) > 5)})"


def _texts(survey: Survey) -> Any:
    """The texts of a part, block by block; those of a whole have a fingerprint."""
    return None if survey.whole else dict(sorted(survey.blocks.items()))


_READ: Mapping[str, Callable[[Survey], Any]] = {
    "number of documents is": lambda survey: survey.corpus.documents,
    "texts have the fingerprint": lambda survey: survey.corpus.fingerprint,
    "part of the corpus is": _blocks,
    "blocks have the fingerprints": _texts,
    "--max-tokens was": lambda survey: survey.order.max_tokens,
    "--chat was": lambda survey: survey.order.chat,
}


def comparable_events(a: Survey, b: Survey) -> tuple[list[str], list[NotCompared]]:
    """The events that both measured, of one kind and with as many channels, in A's order; and the others."""
    reasons: dict[str, list[str]] = {}
    found = []
    for name in a.order.events:
        reason = _reason(a, b, name)
        if reason is None:
            found.append(name)
        else:
            reasons.setdefault(reason, []).append(name)
    only_b = [name for name in b.order.events if name not in set(a.order.events)]
    if only_b:
        reasons["A has not measured it"] = only_b
    return found, [NotCompared(reason, tuple(names)) for reason, names in reasons.items()]


def _reason(a: Survey, b: Survey, name: str) -> str | None:
    """Why an event of A cannot be compared, if it cannot."""
    if name not in b.model.kinds:
        return "B has not measured it"
    kinds = a.model.kinds[name], b.model.kinds[name]
    if kinds[0] != kinds[1]:
        return f"{kinds[0]} in A, {kinds[1]} in B"
    one, two = (len(survey.tallies[f"{name}/values"].values()) for survey in (a, b))
    return None if one == two else f"{one:,} channels in A, {two:,} in B"
