"""A diagnosis as sections: what is wrong and why, then every operation that is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...architecture.plans.catalogue import kind_named
from ...architecture.plans.kinds import Scores
from ...diagnosis.diagnose import Diagnosis, DumpDiagnosis, Offer
from ...diagnosis.finding import Finding
from ...grouping import grouped
from ...rounding.judging import OVER_THE_PASS, OperationResult
from ...text.wording import abridged, counted
from ..numbers import distance, two_apart
from ..sections import Column, Labelled, Section, Words, alarm, facts, indented, table_section, words
from .comparison import MAX_LISTED, by_reason, origin_of, place_of, tokens_line, unpaired_sections


def diagnosis_sections(found: DumpDiagnosis, *, verbose: bool = False) -> list[Section]:
    """The whole diagnosis: sources, verdict, cause, operations, what could not be judged."""
    diagnosis, dump = found.diagnosis, found.dump
    how = filter(None, [f"{diagnosis.compute}: {diagnosis.compute_how}", str(diagnosis.unseen or "")])
    pairs = [
        *facts("dump", origin_of(dump)),
        ("model", found.model),
        ("tokens", tokens_line(diagnosis.tokens, found.labels)),
        *facts("computes", how),
    ]
    sections = [Section([Labelled(pairs)]), _verdict(found), *_findings(diagnosis)]
    sections += [*_operations(diagnosis, verbose), *_untested(diagnosis)]
    return [*sections, *unpaired_sections(dump.unpaired, "the dump, not judged")]


def _verdict(found: DumpDiagnosis) -> Section:
    diagnosis = found.diagnosis
    count = diagnosis.judged
    if diagnosis.offer is not None:
        return _offer(diagnosis.offer)
    if diagnosis.first_wrong is None:
        title = f"All {count:,} operations follow from their own inputs"
        if diagnosis.untested:
            follow = "follows from its" if count == 1 else "follow from their"
            title = f"The {counted(count, 'operation')} judged (of {diagnosis.of:,}) {follow} own inputs"
        return Section((), title, style="bold red" if diagnosis.findings else "bold green")
    first = next(o for o in diagnosis.operations if o.name == diagnosis.first_wrong)
    wrong = len(diagnosis.wrong)
    adds = "add errors of their own" if wrong > 1 else "adds an error of its own"
    others = f"{wrong:,} of {count:,} operations judged {adds}; the others pass on what they were given"
    title = f"First wrong operation: {place_of(first, found.labels)}"
    return Section([*_wrongness(first), indented(others)], title, style="bold red")


def _wrongness(first: OperationResult) -> Iterator[Words]:
    """What is wrong about the first wrong operation."""
    yield indented(first.expr, "dim")
    if first.nonfinite:
        yield indented(first.nonfinite)
    if first.error is not None:
        of = f"the dump's own {abridged(first.inputs, MAX_LISTED)}" if first.inputs else "the tokens"
        off = f"off by {distance(first.error)} {first.measured or 'of the row'}"
        if first.measured == OVER_THE_PASS:
            yield indented(f"the model's own pass gives another value: {off}, as `diff` judges it")
        else:
            yield indented(f"from {of} follows another value: {off}")
        yield indented(f"rounding explains {distance(first.tolerance)}")
    if first.found is not None and first.expected is not None:
        there = f"element {list(first.element)}: " if first.element else ""
        has, wanted = two_apart(first.found, first.expected)
        yield indented(f"{there}the dump has {has}, from its inputs follows {wanted}")
    if first.recomputed:
        lacked = abridged(first.recomputed, MAX_LISTED)
        yield indented(f"recomputed in between, for the dump lacks them: {lacked}")


def _offer(offer: Offer) -> Section:
    """No verdict: what the errors look like, and how to have it judged."""
    like = "look like" if offer.shown else "may be"
    which = (
        f"{offer.explains:,} of the {offer.wrong:,} operations beyond float32 rounding in which a product "
        f"has part {'is' if offer.explains == 1 else 'are'} right so"
    )
    unsure = "" if offer.shown else ", though over several products that says little: dump more events"
    judged = indented(f"`--compute {offer.compute}` judges by that: {which}{unsure}")
    title = f"No fault is named: the errors {like} {offer.looks_like}"
    return Section([judged], title, style="bold yellow")


def _findings(diagnosis: Diagnosis) -> Iterator[Section]:
    explaining = [finding for finding in diagnosis.findings if finding.explains]
    for finding in explaining:
        leaves = f"this leaves an error of {distance(finding.residual)}{_reach(finding, diagnosis)}"
        yield Section([words(finding.claim, "bold"), indented(leaves)])
    if explaining or diagnosis.first_wrong is None:
        return
    nearest = [
        indented(f"nearest: {finding.claim}, which leaves {distance(finding.residual)}")
        for finding in diagnosis.findings
    ]
    other = "Other weights than the model's? `microgpt diff A B --weights` compares two models' files."
    none = [words(f"None of {len(diagnosis.tried):,} hypotheses explains it.")] if diagnosis.tried else []
    yield Section([*none, *nearest, indented(other)])


def _reach(finding: Finding, diagnosis: Diagnosis) -> str:
    count, wrong = len(finding.also_explains), len(diagnosis.wrong)
    text = f", and explains {count} of the {wrong - 1} other wrong operations" if wrong > 1 else ""
    if finding.cannot_be_told_from:
        text += f"; in {diagnosis.compute} it cannot be told from the others named here"
    return text


def _of_all_layers(operation: OperationResult) -> str:
    """What it is called together with the same operation of other layers."""
    return operation.name.replace(f"layer{operation.layer}.", "layer*.")


def _operations(diagnosis: Diagnosis, verbose: bool) -> list[Section]:
    """All operations, or those that are wrong, the same one of several layers in one row."""
    title = "Operations in order of computation"
    rows = [[operation] for operation in diagnosis.operations]
    if not verbose:
        what = "beyond float32 rounding" if diagnosis.offer else "that are wrong"
        title = f"Operations {what} (--verbose shows all)"
        rows = list(grouped(diagnosis.wrong, _of_all_layers).values())

    def style(operations: Sequence[OperationResult]) -> str:
        return alarm(operations[0])

    columns = [
        Column("", lambda ops: "" if ops[0].holds else "✗", style=style, whole=True),
        Column("operation", _name, whole=True, style=style),
        Column("layers", lambda ops: "" if ops[0].layer is None else _layers(ops)),
        Column("from", lambda ops: ", ".join(_short(name, ops[0]) for name in ops[0].inputs), wrap=True),
        Column("error", lambda ops: _worst(ops, "error"), right=True, style=style),
        Column("allowed", lambda ops: _worst(ops, "tolerance"), right=True),
    ]
    return table_section(title, columns, rows, about=lambda operations: operations[0].name)


def _name(operations: Sequence[OperationResult]) -> str:
    return _of_all_layers(operations[0]) if len(operations) > 1 else operations[0].name


def _layers(operations: Sequence[OperationResult]) -> str:
    numbers = [operation.layer for operation in operations]
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}: {len(numbers)}"


def _worst(operations: Sequence[OperationResult], field: str) -> str:
    values = [getattr(operation, field) for operation in operations]
    known = [value for value in values if value is not None]
    return distance(max(known)) if known else "–"


def _short(name: str, operation: OperationResult) -> str:
    """An input's name without the layer that it shares with the operation."""
    return name.removeprefix(f"layer{operation.layer}.")


def _untested(diagnosis: Diagnosis) -> list[Section]:
    scores = (own.name for own in diagnosis.operations if isinstance(kind_named(own.name), Scores))
    hidden = ((name, "keys that the mask hides") for name in scores)
    lines = list(map(words, by_reason([*diagnosis.untested, *hidden])))
    return [Section(lines, "Not judged")] if lines else []
