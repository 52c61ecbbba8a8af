"""The results of `--validate` and `gradcheck` as sections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ...grouping import grouped
from ...plans.plan import kind_of
from ...text.wording import are, counted
from ...tracing.central_differences import GradientCheck
from ...tracing.validation import Validation, Verdict
from ..numbers import exponent, figure, ratio
from ..sections import Column, Section, Table, Words, alarm, fields, name_of, words

_STYLES = {"used": "green", "dead": "yellow", "failed": "bold red"}


def validation_sections(validation: Validation, *, verbose: bool = False) -> list[Section]:
    """Return a table of the events. Unless `verbose`, events that differ only in the layer share a row."""
    tokens = ", ".join(map(str, validation.tokens))
    columns = [
        Column("event", _name),
        Column("by itself", _by_itself, right=True),
        Column("perturbed", _perturbed, right=True),
        Column("verdict", lambda g: g[0].verdict.replace("failed", "FAILED"), style=_style),
    ]
    legend = (
        "by itself: the largest change of a logit. perturbed: the largest change |after − before| / |before| "
        "of an operation that reads the event (for probs and loss: of the trace), if every element of the "
        "event changes by about 10 %. A row of several events shows the smallest change."
    )
    method = (
        "As a check, each event was first replaced by its own value, which must not change the output. Then "
        "all events were replaced by perturbed copies. A second computation in float64 reads the copies of "
        "the earlier events. Each event must equal the result of the second computation."
    )
    rows = [*grouped(validation.verdicts, lambda verdict: _row_key(verdict, verbose)).values()]
    table = Table(columns, rows, about=lambda group: group[0].name)
    title = f"{validation.model}: {validation.text!r} → tokens [{tokens}]"
    return [
        Section([words(title, "bold"), words(method)]),
        Section([table, words(legend, "dim"), *_exceptions(validation)]),
        Section([_summary(validation)]),
    ]


def _summary(validation: Validation) -> Words:
    count = {kind: sum(v.verdict == kind for v in validation.verdicts) for kind in _STYLES}
    dead = f", {count['dead']} cannot change the result here" if count["dead"] else ""
    failed = f", {count['failed']} FAILED" if count["failed"] else ""
    events = counted(len(validation.verdicts), "event")
    text = f"{count['used']} of {events} {are(count['used'])} used by the computation{dead}{failed}"
    return words(text, "green" if validation.ok else "bold red")


def _row_key(verdict: Verdict, verbose: bool) -> tuple[str, str]:
    """Return the key of a table row. Events with equal keys share a row."""
    alone = verbose or not verdict.name.startswith("layer") or verdict.verdict == "failed"
    return verdict.name if alone else kind_of(verdict.name), verdict.verdict


def _by_itself(group: Sequence[Verdict]) -> str:
    largest = max(verdict.by_itself for verdict in group)
    return "nothing" if largest == 0 else f"{largest:.1e}"


def _perturbed(group: Sequence[Verdict]) -> str:
    return ratio(min((v.perturbed for v in group if v.perturbed is not None), default=None))


def _style(group: Sequence[Verdict]) -> str:
    return _STYLES[group[0].verdict]


def _name(group: Sequence[Verdict]) -> str:
    """Name the events of a row, such as "layer0.attn.q" or "layer*.attn.q (30)"."""
    if len(group) == 1:
        return group[0].name
    layers = {verdict.name.partition(".")[0] for verdict in group}
    kind = kind_of(group[0].name)
    kind += "*" * (not group[0].name.endswith(kind))  # the events are the contributions of heads
    return f"{layers.pop() if len(layers) == 1 else 'layer*'}.{kind} ({len(group)})"


def _exceptions(validation: Validation) -> Iterator[Words]:
    """Explain, once for each kind of event, why events of this kind are dead or failed."""
    exceptions = (verdict for verdict in validation.verdicts if verdict.verdict != "used")
    for (_, kind), verdicts in grouped(exceptions, lambda v: (kind_of(v.name), v.verdict)).items():
        more = f" (and {len(verdicts) - 1} more of this kind)" if len(verdicts) > 1 else ""
        yield words(f"{kind}: {verdicts[0].name}{more}: {verdicts[0].reason}", _STYLES[kind])


def _judged(row: GradientCheck) -> str:
    return "NO" if not row.holds else "not judged" if row.kinks + row.unsettled == row.count else "ok"


def gradcheck_sections(rows: Sequence[GradientCheck], text: str, of: int = 0) -> list[Section]:
    """Return a table with a row per parameter and activation, and the verdict. `of` is the number of
    parameters and events of a production model."""
    head = f'Gradients of the loss of "{text}" against central differences in float64'
    legend = "gradients of parameters are checked in training and in a trace, of activations only in a trace"
    if rows[0].kind:
        each = counted(rows[0].count, "random direction") + " each"
        each += ", because the model is large" * (rows[0].count == 1)
        errors = "errors are relative to the gradient's L2; float32: the error of the gradient in float32"
        legend = f"{len(rows):,} of {of:,} parameters and events, along {each}; {errors}"
    return [Section([words(head, "bold"), _table(rows), words(legend, "dim"), *_verdicts(rows)])]


def gradient_sections(row: GradientCheck) -> list[Section]:
    """Return a table of one parameter or activation."""
    return [Section([_table([row])])]


def _table(rows: Sequence[GradientCheck]) -> Table:
    columns = [
        Column("tensor", name_of, whole=True),
        Column("kind", lambda r: r.kind),
        Column("elements", lambda r: "" if r.kind else f"{r.count:,}", right=True),
        Column("worst at", lambda r: "" if r.kind else ",".join(map(str, r.worst_index))),
        *fields(
            partial(figure, digits=5 if rows[0].kind else 8), {"analytic": "analytic", "numeric": "numeric"}
        ),
        *fields(ratio, {"error": "relative_error"}),
        Column("float32", lambda r: ratio(r.float32_error) if r.kind else "", right=True),
        Column("", _judged, style=alarm),
    ]
    return Table(columns, rows, about=name_of)


def _verdicts(rows: Sequence[GradientCheck]) -> Iterator[Words]:
    kinks, unsettled = sum(row.kinks for row in rows), sum(row.unsettled for row in rows)
    noun, whole = ("direction", "gradient's L2") if rows[0].kind else ("element", "tensor's largest gradient")
    if kinks:
        yield words(f"{counted(kinks, noun)} not judged: a ReLU switches on or off within the step")
    if unsettled:
        cause = "differences with several step sizes disagree, or a probability is close to 0"
        yield words(f"{counted(unsettled, noun)} not judged: {cause}")
    hooked = [row for row in rows if row.hooked is not None]
    if hooked:
        worst = max(hooked, key=lambda row: row.hooked or 0.0)
        yield words(
            f"{counted(len(hooked), 'parameter')} checked along one direction, with hooks that change the "
            f"slope of every value: the largest error is {exponent(worst.hooked or 0.0)} ({worst.name})"
        )
    failed = [row.name for row in rows if not row.holds]
    if failed:
        disagree = f"{counted(len(failed), 'tensor')} disagree{'s' * (len(failed) == 1)}"
        yield words(f"{disagree}: {', '.join(failed)}", "bold red")
        return
    total, error = sum(row.count for row in rows), max(row.relative_error for row in rows)
    agree = f"all {total - kinks - unsettled:,} gradients agree"
    at_worst = f", with errors up to {exponent(error)} of the {whole} (allowed 1e-06)"
    yield Words(((agree, "green"), (at_worst, "")))
