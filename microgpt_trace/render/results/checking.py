"""What `--validate` and `gradcheck` found, as sections: values and gradients, each worked out another way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ...architecture.plans.plan import kind_of
from ...grouping import grouped
from ...text.wording import counted
from ...tracing.gradient_check import GradientCheck
from ...tracing.validation import Validation, Verdict
from ..numbers import exponent, figure, ratio
from ..sections import Column, Section, Table, Words, alarm, fields, name_of, words

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


def _judged(row: GradientCheck) -> str:
    return "NO" if not row.holds else "not judged" if row.kinks + row.unsettled == row.count else "ok"


def gradcheck_sections(rows: Sequence[GradientCheck], text: str) -> list[Section]:
    """A row per parameter and activation, then the verdict."""
    head = f'Gradients of the loss of "{text}" against central differences in float64'
    ways = "parameters as training and as a trace work them out, activations as a trace shows them"
    return [Section([words(head, "bold"), _table(rows), words(ways, "dim"), *_verdicts(rows)])]


def gradient_sections(row: GradientCheck) -> list[Section]:
    """One of these rows by itself."""
    return [Section([_table([row])])]


def _table(rows: Sequence[GradientCheck]) -> Table:
    columns = [
        Column("tensor", name_of, whole=True),
        *fields("{:,}".format, {"elements": "count"}),
        Column("worst at", lambda r: ",".join(map(str, r.worst_index))),
        *fields(partial(figure, digits=8), {"analytic": "analytic", "numeric": "numeric"}),
        *fields(ratio, {"error": "relative_error"}),
        Column("", _judged, style=alarm),
    ]
    return Table(columns, rows, about=name_of)


def _verdicts(rows: Sequence[GradientCheck]) -> Iterator[Words]:
    kinks, unsettled = (sum(getattr(row, what) for row in rows) for what in ("kinks", "unsettled"))
    if kinks:
        yield words(f"{counted(kinks, 'element')} not judged: a ReLU switches within the step")
    if unsettled:
        why = "the differences do not settle, or a P is next to 0"
        yield words(f"{counted(unsettled, 'element')} not judged: {why}")
    hooked = [row for row in rows if row.hooked is not None]
    if hooked:
        worst = max(hooked, key=lambda row: row.hooked or 0.0)
        yield words(
            f"with hooks that give every value another slope: {counted(len(hooked), 'parameter')} along one "
            f"direction, at worst off by {exponent(worst.hooked or 0.0)} ({worst.name})"
        )
    failed = [row.name for row in rows if not row.holds]
    if failed:
        disagree = f"{counted(len(failed), 'tensor')} disagree{'s' * (len(failed) == 1)}"
        yield words(f"{disagree}: {', '.join(failed)}", "bold red")
        return
    total, error = sum(row.count for row in rows), max(row.relative_error for row in rows)
    agree = f"all {total - kinks - unsettled:,} gradients agree"
    at_worst = f", at worst {exponent(error)} of the tensor's largest gradient (allowed 1e-06)"
    yield Words(((agree, "green"), (at_worst, "")))
