"""A Trace as sections, of whatever model: what it read, events, predictions, what it reveals, self-check."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from ...tracing.findings import TOO_FEW, Anomaly, Check, Insight
from ...tracing.result import Trace
from ..numbers import exponent
from ..sections import Section, Words, indented, words
from .events import backward_sections, layers_section, stage_sections
from .header import header_sections
from .interventions import before_and_after_section, interventions_section
from .predictions import generation_sections, lens_sections, prediction_sections


def trace_sections(
    trace: Trace, *, verbose: bool = False, overview: bool = True, brief: bool = False,
    asked: Sequence[Section] | None = None,
) -> list[Section]:  # fmt: skip
    """The whole trace. With `overview` a production model's layers are a row each, not events. `brief` leaves
    prose out, and so do events or arrays that were `asked` for, which come first: of the header nothing but
    the input stays. What failed is always told in full."""
    head = [*header_sections(trace, whole=asked is None), *headline_sections(trace)]
    return [*head, *(asked or ()), *_body(trace, verbose, overview, brief or asked is not None)]


def _body(trace: Trace, verbose: bool, overview: bool, brief: bool) -> Iterator[Section]:
    if trace.intervened is not None:
        yield interventions_section(trace.intervened)
    if overview and trace.layers:
        whole = [event for event in trace.events if event.layer is None]
        yield from stage_sections(trace, [e for e in whole if e.stage == "embedding"], verbose)
        yield layers_section(trace, brief)
        yield from stage_sections(trace, [e for e in whole if e.stage == "head"], verbose)
    else:
        yield from stage_sections(trace, trace.events, verbose)
    yield from prediction_sections(trace)
    if trace.intervened is not None:
        yield before_and_after_section(trace.intervened, trace.predictions, trace.loss)
    yield from lens_sections(trace)
    if trace.generation or trace.generation_end:
        yield from generation_sections(trace, verbose)
    if not brief:
        yield insights_section(trace.insights, "What the trace reveals")
    if trace.anomalies:
        yield anomalies_section(trace.anomalies, brief)
    yield from backward_sections(trace)
    yield checks_section(trace.checks, brief)


_SPREADS = {
    "microgpt": "All heads are one product, with zeros between them: from attn.scores on, a NaN of one head "
    "shows in the others too.",
    "decoder": "A weight of zero times NaN is NaN: from attn.context on, a NaN in v shows at earlier "
    "positions too.",
}


def headline_sections(trace: Trace) -> Iterator[Section]:
    """The first value that is not finite, before anything else."""
    for check in trace.checks:
        if check.id == "finite" and check.holds is False:
            exact = f"The first such value is exact. {_SPREADS[trace.model['family']]}"
            yield Section([words(exact, "dim")], f"Not finite: {check.detail}", style="bold red")


def insights_section(insights: Sequence[Insight], title: str) -> Section:
    """What predicates found, each under its title."""
    blocks = [
        block
        for insight in insights
        for block in (words(insight.title, "bold")._replace(about=insight.about), indented(insight.text))
    ]
    return Section(blocks, title)


def anomalies_section(anomalies: Sequence[Anomaly], brief: bool = False) -> Section:
    """Each rule that fired; if not `brief`, what the others measured, and of what, and all that was not
    evaluated, and why."""
    found = [a for a in anomalies if a.found]
    style = "red" if found else "green"
    in_part = any(a.found is None or TOO_FEW in a.unseen for a in anomalies)
    none = f"none{' in what was evaluated' * in_part}"
    lines = [*_found(found)]
    if not brief:
        lines += [*_quiet(anomalies), *_not_evaluated(anomalies)]
    return Section(lines, f"Anomalies: {len(found) or none}", style=f"bold {style}")


def _found(found: Sequence[Anomaly]) -> Iterator[Words]:
    for rule in found:
        where = f"; {rule.detail}" if rule.detail else ""
        said = f"{rule.id} {_value(rule)} in {rule.seen}, allowed {rule.threshold:g}{_UNITS[rule.source]}"
        yield words(f"{rule.title}: {said}{where}", "bold red")


def _quiet(anomalies: Sequence[Anomaly]) -> Iterator[Words]:
    for source, lead in (("invariant", "invariants"), ("other layers", "layers unlike the others")):
        quiet = [a for a in anomalies if a.found is False and a.source == source]
        held = "; ".join(
            f"{', '.join(f'{rule.id} {_value(rule)}' for rule in rules)} in {seen}, allowed {limit:g}"
            for (seen, limit), rules in groupby(quiet, key=lambda a: (a.seen, a.threshold))
        )
        if held:
            yield words(f"{lead}, none beyond what is allowed{_UNITS[source]}: {held}", "dim")


def _not_evaluated(anomalies: Sequence[Anomaly]) -> Iterator[Words]:
    for left_out, rules in groupby(anomalies, key=lambda a: a.detail if a.found is None else a.unseen):
        if left_out:
            yield words(f"not evaluated: {', '.join(rule.id for rule in rules)} ({left_out})")


_UNITS = {"invariant": "", "other layers": " in spreads of the layers"}


def _value(rule: Anomaly) -> str:
    value = rule.value or 0.0
    return f"{value:,.0f}" if value.is_integer() else f"{value:.3g}"


def checks_section(checks: Sequence[Check], brief: bool = False) -> Section:
    """What holds, and what was not checked and why; if `brief` counted. A violation gets a red line of its
    own in any case."""
    held = [check for check in checks if check.holds]
    failed = [check for check in checks if check.holds is False]
    skipped = [check for check in checks if check.holds is None]
    style = "red" if failed else "green"
    made = len(held) + len(failed)
    rest = f", {len(skipped)} not checked" if skipped else ""
    lines = [words("; ".join(map(_measured, held)), "dim")] if held and not brief else []
    lines += [words(f"note: {check.detail}") for check in held if check.id == "finite" and check.detail]
    lines += [words(f"violated: {_measured(check)}: {check.detail}", "bold red") for check in failed]
    if not brief:
        lines += [words(f"not checked: {check.claim} ({check.detail})") for check in skipped]
    title = f"Self-check: {len(held)} of {made} hold{rest}"
    return Section(lines, title, style=f"bold {style}")


def _measured(check: Check) -> str:
    if check.deviation is None:
        return check.claim
    limit = f" ≤ {check.tolerance:.0e}" if check.holds and check.tolerance else ""
    sign = "" if check.holds else f", allowed {check.tolerance:.0e}"
    off = f" (off by {exponent(check.deviation)}{limit}{sign})" if check.deviation else ""
    return f"{check.claim}{off}"
