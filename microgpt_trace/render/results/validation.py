"""The verdicts on captured values as sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...architecture.plans.plan import kind_of
from ...text.wording import counted
from ...tracing.validation import Validation, Verdict
from ..numbers import ratio
from ..sections import Column, Section, Table, Words, grouped, words

_STYLES = {"used": "green", "dead": "yellow", "failed": "bold red"}


def validation_sections(found: Validation, *, verbose: bool = False) -> list[Section]:
    """A row per event, or per kind of event where many layers have it and `verbose` is not wanted."""
    tokens = ", ".join(map(str, found.tokens))
    columns = [
        Column("event", _name),
        Column("by itself", _by_itself, right=True),
        Column("perturbed", _perturbed, right=True),
        Column("verdict", _verdict, style=lambda group: _STYLES[group[0].verdict]),
    ]
    legend = (
        "by itself: largest difference of a logit; perturbed: how far some 10 % more or less in every "
        "element move what is computed from it next, |after − before| / |before| (of several the farthest; "
        "of probs and loss: what the trace tells); of several events the smallest"
    )
    how = (
        "Each event was replaced by itself, which may change nothing, and all were by perturbed copies: "
        "each must be what a second computation in float64 makes of the copies before it."
    )
    rows = [*grouped(found.verdicts, lambda verdict: _row_of(verdict, verbose)).values()]
    table = Table(columns, rows, about=lambda group: group[0].name)
    return [
        Section([words(f"{found.model}: {found.text!r} → tokens [{tokens}]", "bold"), words(how)]),
        Section([table, words(legend, "dim"), *_exceptions(found)]),
        Section([_summary(found)]),
    ]


def _summary(found: Validation) -> Words:
    count = {kind: sum(v.verdict == kind for v in found.verdicts) for kind in _STYLES}
    dead = f", {count['dead']} cannot matter here" if count["dead"] else ""
    failed = f", {count['failed']} FAILED" if count["failed"] else ""
    events, are = counted(len(found.verdicts), "event"), "is" if count["used"] == 1 else "are"
    text = f"{count['used']} of {events} {are} what the computation uses{dead}{failed}"
    return words(text, "green" if found.ok else "bold red")


def _row_of(verdict: Verdict, verbose: bool) -> tuple[str, str]:
    """What it has in common with those that share its row: none where layers are told apart."""
    alone = verbose or not verdict.name.startswith("layer") or verdict.verdict == "failed"
    return verdict.name if alone else kind_of(verdict.name), verdict.verdict


def _by_itself(group: Sequence[Verdict]) -> str:
    largest = max(verdict.by_itself for verdict in group)
    return "nothing" if largest == 0 else f"{largest:.1e}"


def _perturbed(group: Sequence[Verdict]) -> str:
    return ratio(min((v.perturbed for v in group if v.perturbed is not None), default=None))


def _verdict(group: Sequence[Verdict]) -> str:
    return group[0].verdict if group[0].verdict != "failed" else "FAILED"


def _name(group: Sequence[Verdict]) -> str:
    """ "layer0.attn.q", or "layer*.attn.q (30)" """
    if len(group) == 1:
        return group[0].name
    layers = {verdict.name.partition(".")[0] for verdict in group}
    kind = kind_of(group[0].name)
    kind += "*" * (not group[0].name.endswith(kind))  # of one head each
    return f"{layers.pop() if len(layers) == 1 else 'layer*'}.{kind} ({len(group)})"


def _exceptions(found: Validation) -> Iterator[Words]:
    """Why events are dead or failed, once for all events of a kind."""
    odd = (verdict for verdict in found.verdicts if verdict.verdict != "used")
    for (_, kind), verdicts in grouped(odd, lambda own: (kind_of(own.name), own.verdict)).items():
        more = f" (and {len(verdicts) - 1} more of its kind)" if len(verdicts) > 1 else ""
        yield words(f"{kind}: {verdicts[0].name}{more}: {verdicts[0].reason}", _STYLES[kind])
