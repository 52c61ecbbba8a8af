"""A diagnosis as text: what is wrong and why, then every operation that is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..architecture.catalogue import kind_named
from ..architecture.kinds import Scores
from ..diagnosis.diagnose import Diagnosis, Offer
from ..diagnosis.dump import DumpDiagnosis
from ..diagnosis.hypothesis import Finding
from ..diagnosis.judging import OperationResult
from ..text.printable import shown_token
from ..text.wording import abridged
from .comparison import MAX_LISTED, both, error, of_all_layers, print_unpaired, tokens_line
from .document import plain
from .layout import Column, print_table
from .screen import Screen, escape, labelled

DIAGNOSIS_SCHEMA = "microgpt.diagnosis/1"


def print_diagnosis(found: DumpDiagnosis, screen: Screen, *, verbose: bool = False) -> None:
    """The whole diagnosis: sources, verdict, cause, operations, what could not be judged."""
    diagnosis, dump = found.diagnosis, found.dump
    pairs = [("dump", f"{dump.origin} ({dump.kind})")]
    pairs += [("", note) for note in of_all_layers(dump.notes)]
    pairs += [
        ("model", found.model),
        ("tokens", tokens_line(diagnosis.tokens, found.labels)),
        ("computes", f"{diagnosis.compute}: {diagnosis.compute_how}"),
    ]
    labelled(pairs, screen)
    _print_verdict(found, screen)
    _print_findings(diagnosis, screen)
    if verbose:
        screen.say("\n[bold cyan]Operations in order of computation[/bold cyan]")
        print_table(_columns(), [[operation] for operation in diagnosis.operations], screen)
    elif diagnosis.wrong:
        what = "beyond float32 rounding" if diagnosis.offer else "that are wrong"
        screen.say(f"\n[bold cyan]Operations {what} (--verbose shows all)[/bold cyan]")
        print_table(_columns(), _of_all_layers(diagnosis.wrong), screen)
    _print_untested(diagnosis, screen)
    print_unpaired(dump.unpaired, "the dump, not judged", screen)


def _print_verdict(found: DumpDiagnosis, screen: Screen) -> None:
    diagnosis = found.diagnosis
    count = diagnosis.judged
    if diagnosis.offer is not None:
        _print_offer(diagnosis.offer, screen)
        return
    if diagnosis.first_wrong is None:
        word = "red" if diagnosis.findings else "green"
        which, s = f"All {count:,} operations", ""
        if diagnosis.untested:
            which, s = f"The {count:,} of {diagnosis.of:,} operations judged", "s" * (count == 1)
        own = "its" if count == 1 else "their"
        screen.say(f"\n[bold {word}]{which} follow{s} from {own} own inputs[/bold {word}]")
        return
    first = next(o for o in diagnosis.operations if o.name == diagnosis.first_wrong)
    place = first.name if first.layer is None else f"layer {first.layer}, {first.name}"
    wrong = len(diagnosis.wrong)
    screen.say(f"\n[bold red]First wrong operation: {place}{_at(first, found.labels)}[/bold red]")
    screen.tell(first.expr, "dim")
    if first.nonfinite:
        screen.tell(first.nonfinite)
    if first.error is not None:
        of = f"the dump's own {abridged(first.inputs, MAX_LISTED)}" if first.inputs else "the tokens"
        screen.tell(f"from {of} follows another value: off by {error(first.error)} of the row")
        screen.tell(f"rounding explains {error(first.tolerance)}")
    if first.found is not None and first.expected is not None:
        there = f"element {list(first.element)}: " if first.element else ""
        has, wanted = both(first.found, first.expected)
        screen.tell(f"{there}the dump has {has}, from its inputs follows {wanted}")
    if first.recomputed:
        screen.tell(
            f"recomputed in between, for the dump lacks them: {abridged(first.recomputed, MAX_LISTED)}"
        )
    adds = "add errors of their own" if wrong > 1 else "adds an error of its own"
    screen.tell(f"{wrong:,} of {count:,} operations judged {adds}; the others pass on what they were given")


def _print_offer(offer: Offer, screen: Screen) -> None:
    """No verdict: what the errors look like, and how to have it judged."""
    like = "look like" if offer.shown else "may be"
    screen.say(f"\n[bold yellow]No fault is named: the errors {like} {offer.looks_like}[/bold yellow]")
    which = (
        f"{offer.explains:,} of the {offer.wrong:,} operations beyond float32 rounding in which a product "
        f"has part {'is' if offer.explains == 1 else 'are'} right so"
    )
    unsure = "" if offer.shown else ", though over several products that says little: dump more events"
    screen.tell(f"`--compute {offer.compute}` judges by that: {which}{unsure}")


def _at(operation: OperationResult, labels: Sequence[str]) -> str:
    position = operation.position
    if position is None:
        return ""
    known = f" ({escape(shown_token(labels[position]))})" if position < len(labels) else ""
    return f", position {position}{known}"


def _print_findings(diagnosis: Diagnosis, screen: Screen) -> None:
    explaining = [finding for finding in diagnosis.findings if finding.explains]
    for finding in explaining:
        screen.say()
        screen.tell(finding.claim, "bold", indent=0)
        screen.tell(f"this leaves an error of {error(finding.residual)}{_reach(finding, diagnosis)}")
    if explaining or diagnosis.first_wrong is None:
        return
    screen.say(f"\nNone of {len(diagnosis.tried):,} hypotheses explains it.")
    for finding in diagnosis.findings:
        screen.tell(f"nearest: {finding.claim}, which leaves {error(finding.residual)}")
    screen.tell("Other weights than the model's? `microgpt diff A B --weights` compares two models' files.")


def _reach(finding: Finding, diagnosis: Diagnosis) -> str:
    count, wrong = len(finding.also_explains), len(diagnosis.wrong)
    text = f", and explains {count} of the {wrong - 1} other wrong operations" if wrong > 1 else ""
    if finding.cannot_be_told_from:
        text += f"; in {diagnosis.compute} it cannot be told from the others named here"
    return text


def _of_all_layers(operations: Sequence[OperationResult]) -> list[list[OperationResult]]:
    """The same operation of several layers together."""
    grouped: dict[str, list[OperationResult]] = {}
    for operation in operations:
        grouped.setdefault(operation.name.replace(f"layer{operation.layer}.", "layer*."), []).append(
            operation
        )
    return list(grouped.values())


def _columns() -> list[Column]:
    """Of rows that are an operation, or the same one of several layers."""
    return [
        Column("", lambda ops: "" if ops[0].holds else "✗", style=_alarm, whole=True),
        Column("operation", _name, whole=True, style=_alarm),
        Column("layers", lambda ops: "" if ops[0].layer is None else _layers(ops)),
        Column("from", lambda ops: ", ".join(_short(name, ops[0]) for name in ops[0].inputs), wrap=True),
        Column("error", lambda ops: _worst(ops, "error"), right=True, style=_alarm),
        Column("allowed", lambda ops: _worst(ops, "tolerance"), right=True),
    ]


def _name(operations: Sequence[OperationResult]) -> str:
    first = operations[0]
    many = len(operations) > 1
    return first.name.replace(f"layer{first.layer}.", "layer*.") if many else first.name


def _layers(operations: Sequence[OperationResult]) -> str:
    numbers = [operation.layer for operation in operations]
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}: {len(numbers)}"


def _worst(operations: Sequence[OperationResult], field: str) -> str:
    values = [getattr(operation, field) for operation in operations]
    known = [value for value in values if value is not None]
    return error(max(known)) if known else "–"


def _short(name: str, operation: OperationResult) -> str:
    """An input's name without the layer that it shares with the operation."""
    return name.removeprefix(f"layer{operation.layer}.")


def _alarm(operations: Sequence[OperationResult]) -> str:
    return "" if operations[0].holds else "red"


def _print_untested(diagnosis: Diagnosis, screen: Screen) -> None:
    by_reason: dict[str, list[str]] = {}
    for name, reason in diagnosis.untested:
        by_reason.setdefault(reason, []).append(name)
    for operation in diagnosis.operations:
        if isinstance(kind_named(operation.name), Scores):
            by_reason.setdefault("keys that the mask hides", []).append(operation.name)
    if by_reason:
        screen.say("\n[bold cyan]Not judged[/bold cyan]")
    for reason, names in by_reason.items():
        screen.tell(f"{abridged(of_all_layers(names), MAX_LISTED)}: {reason}", indent=0)


def diagnosis_document(found: DumpDiagnosis) -> dict[str, Any]:
    """A diagnosis as plain data."""
    dump, diagnosis = found.dump, found.diagnosis
    return {
        "schema": DIAGNOSIS_SCHEMA,
        "clean": diagnosis.clean,
        "dump": {"origin": dump.origin, "kind": dump.kind, "notes": dump.notes},
        "model": found.model,
        **plain(diagnosis),
        "unpaired": plain(dump.unpaired),
    }
