"""A certificate as sections: the verdict, a table of the checks, and sentences for what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate

from ...certification.certificate import Certificate, CertificateCheck, Status, TensorEffect
from ...grouping import grouped
from ...text.wording import abridged, are, counted
from ..numbers import percent, significant
from ..sections import Column, Labelled, Section, Words, fields, indented, name_of, table_section, words

STYLES: dict[Status, str] = {
    "same": "green",
    "rounded": "green",
    "different": "bold red",
    "not checked": "yellow",
}
NOT_SAME: tuple[Status, ...] = ("different", "not checked", "rounded")  # the worst first
MOST_NAMES = 6  # number of accused parameters to list
MOST_TENSORS = 20  # rows of the table of parameters
HALF = 0.5


def certificate_sections(result: Certificate) -> list[Section]:
    """Return the verdict, the checks by group, what is not the same, and the effects of the tensors."""
    about = Labelled([("export", result.export), ("original", result.original)])
    columns = [
        Column("checked", lambda row: row[0]),
        Column("result", lambda row: row[1], style=lambda row: STYLES[row[2]], wrap=True),
    ]
    return [
        Section([about]), _verdict(result),
        *table_section("Checks", columns, [*_groups(result.checks)]),
        *_sentences(result.checks), *_tensors(result.tensors),
    ]  # fmt: skip


def _verdict(result: Certificate) -> Section:
    count = Counter(check.status for check in result.checks)
    if result.verdict == "same":
        rounded = " up to the rounding of its types" * bool(count["rounded"])
        return Section((), f"The export is the same model as the original{rounded}", style="bold green")
    if result.verdict == "incomplete":
        title = f"Nothing differs, but {counted(count['not checked'], 'check')} could not be made"
        return Section((), title, style="bold yellow")
    title = f"The export is another model: {counted(count['different'], 'check')} found a difference"
    return Section((), title, style="bold red")


def _groups(checks: Sequence[CertificateCheck]) -> Iterator[tuple[str, str, Status]]:
    """Yield for each group its name, the number of checks with each status, and the worst status."""
    for group in dict.fromkeys(check.id.partition(".")[0] for check in checks):
        count = Counter(check.status for check in checks if check.id.startswith(f"{group}."))
        worst = next(status for status in (*NOT_SAME, "same") if count[status])
        yield group, ", ".join(f"{count[status]} {status}" for status in STYLES if count[status]), worst


def _sentences(checks: Sequence[CertificateCheck]) -> Iterator[Section]:
    """Yield what is not the same, the worst first. Checks with the same detail share a paragraph."""
    for status in NOT_SAME:
        alike = grouped((check for check in checks if check.status == status), lambda check: check.detail)
        lines = [line for detail, own in alike.items() for line in _paragraph(detail, own)]
        if lines:
            yield Section(lines, status.capitalize())


def _paragraph(detail: str, checks: Sequence[CertificateCheck]) -> Iterator[Words]:
    yield words(abridged([check.id for check in checks]), STYLES[checks[0].status])
    yield indented(detail)
    names = [name for check in checks for name in check.names if name not in detail]
    if names:
        yield indented(f"accused: {abridged(names, MOST_NAMES)}", "dim")


def _tensors(effects: Sequence[TensorEffect]) -> list[Section]:
    """Return a table of the parameters with the largest effects on the predictions."""
    rows = [effect for effect in effects if effect.kl != 0 and effect.estimate != 0]
    columns = [
        Column("tensor", name_of, whole=True),
        *fields(str, {"type": "type"}, right=False),
        *fields(significant, {"KL": "kl", "estimate": "estimate"}),
        *fields(percent, {"share": "share"}),
    ]
    more, shown = [words(_share(rows))] if rows else [], rows[:MOST_TENSORS]
    if rest := len(rows) - len(shown):
        more.append(words(f"{counted(rest, 'tensor')} with smaller effects {are(rest)} in --json", "dim"))
    if len(effects) > len(rows):
        more.append(words(f"The values of {counted(len(effects) - len(rows), 'tensor')} are equal.", "dim"))
    aside = "mean KL in nats if only this tensor of the export is used"
    if effects and not rows:
        return [Section(more, "Tensors", aside)]
    return table_section("Tensors", columns, shown, about=name_of, aside=aside, more=more)


def _share(effects: Sequence[TensorEffect]) -> str:
    """Say how many parameters cause at least half of the sum of all effects."""
    sums = [*accumulate(effect.share or 0.0 for effect in effects)]
    number = next((i for i, total in enumerate(sums) if total >= HALF), len(sums) - 1) + 1
    cause = "causes" if number == 1 else "cause"
    return f"{number:,} of {counted(len(effects), 'tensor')} {cause} {sums[number - 1]:.0%} of the KL."
