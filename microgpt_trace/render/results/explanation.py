"""An explanation as sections, from the formula to where the number goes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...architecture.formulas.steps import Factor, Step, Term, Use
from ...architecture.plans.plan import kind_of
from ...explaining.explanation import Explanation
from ...grouping import grouped
from ...text.wording import unnumbered
from ..sections import (
    Block,
    Cell,
    Column,
    Copyable,
    ElementCell,
    Section,
    Table,
    Words,
    fields,
    indented,
    table_section,
    words,
)

_X = re.compile(r"\bx\b")
DIGITS = 6  # significant ones of the largest number of a column
EXACT = 9  # significant digits that tell one float32 from the next
LONG = 26  # characters of a name under which its second line does not begin


def explanation_sections(
    found: Explanation, command: Callable[[str, bool], str] | None = None
) -> list[Section]:
    """The formula, the numbers, that they give what was traced; then where they are from and go to.

    `command` gives what one types to have an element explained, or its gradient.
    """
    gradient = "d loss / d " if found.phase == "backward" else ""
    blocks = [words(f"{gradient}{found.element} = {_number(found.traced)}", "bold"), words(found.place)]
    if found.expr not in (found.name, f"d loss / d {found.name}"):
        blocks.append(indented(found.expr, "dim"))
    blocks += [indented(found.formula), *(indented(note, "dim") for note in found.notes)]
    steps = [_step(step) for step in found.steps if step.count]
    sections = [Section(blocks), *steps, Section([_verdict(found)]), *_sources(found), _uses(found)]
    return sections if command is None else [*sections, *_next(found, command)]


def _step(step: Step) -> Section:
    """One product on a line of its own, a sum of alike terms as a table, of others line by line."""
    if step.count == 1:
        return Section(_product(step))
    if max(len(term.factors) for term in step.terms) > 2:
        lines = [indented(" = ".join(_written_out(term))) for term in step.terms]
        return Section([*lines, indented(f"sum = {_number(step.value)}")], step.label)
    return Section([_terms(step)], step.label)


def _product(step: Step) -> list[Words]:
    """One line for the names, and one for the numbers below them."""
    names, *rest = _written_out(step.terms[0])
    margin = len(step.label) if len(step.label) < LONG else 1
    numbers = [words("= " + " = ".join(rest), indent=margin + 1)] if rest else []
    return [words(f"{step.label} = {names}"), *numbers]


def _written_out(term: Term) -> list[str]:
    """The names, the numbers and the result: "a × b", "0.5 × 0.25", "0.125" """
    names = " × ".join(called(factor) for factor in term.factors)
    numbers = " × ".join(
        f"({_number(f.value)})" if i and f.value < 0 else _number(f.value) for i, f in enumerate(term.factors)
    )
    if term.function:
        names, numbers = applied(term.function, names), applied(term.function, numbers)
    parts = [names, numbers, _number(term.value)]
    if len(term.factors) == 1 and not term.function:
        parts = parts[:1] if names == numbers else parts[:2]
    return parts


def applied(function: str, text: str) -> str:
    """An expression in x with a text in the place of x."""
    signed = text.startswith("-") and "-x" in function
    return _X.sub(lambda _: f"({text})" if signed else text, function)


def called(factor: Factor) -> str:
    """The element that it is, of a gradient with its d."""
    return f"d {factor.name}" if factor.kind == "backward" else factor.name


def _terms(step: Step) -> Table:
    """A row per term, its factors side by side under the name of their event; then what the terms that
    are not shown add up to, and the sum."""
    ends = [(f"{step.count - len(step.terms):,} more", step.rest)] if step.count > len(step.terms) else []
    ends.append((f"sum of {step.count:,}", step.value))
    columns = []
    slots = max(len(term.factors) for term in step.terms)
    function = next((term.function for term in step.terms if term.function), "")
    for slot in range(slots):
        factors = [term.factors[slot] if slot < len(term.factors) else None for term in step.terms]
        event = _event_of_all([factor for factor in factors if factor is not None])
        if slot:
            columns.append(_column("", ["×" if factor else "" for factor in factors]))
        cells = _factors(factors, event, slots > 1 or bool(function))
        columns.append(_column(event, cells + ([] if slot else [said for said, _ in ends]), whole=True))
    values = [term.value for term in step.terms] + [value for _, value in ends]
    title = function or ("product" if slots > 1 else "value")
    columns.append(_column(title, _aligned(values), right=True))
    columns.append(_column("", [term.label for term in step.terms], bar=True))
    return Table(columns, range(len(values)))


def _factors(factors: Sequence[Factor | None], event: str, numbers: bool) -> list[Cell]:
    """What each factor is, without the event that heads the column, and its number on the right."""
    places = [called(factor).removeprefix(event) if factor else "" for factor in factors]
    values = _aligned([factor.value if factor and numbers else None for factor in factors])
    return [
        ElementCell(place, value, _about(factor.name, factor.kind)) if factor else ""
        for factor, place, value in zip(factors, places, values, strict=True)
    ]


def _about(element: str, kind: str) -> str:
    """The element that a factor is, if it is one."""
    return {"constant": "", "backward": f"gradient {element}"}.get(kind, element)


def _event_of(factor: Factor) -> str:
    return called(factor).partition("[")[0]


def _event_of_all(factors: Sequence[Factor]) -> str:
    """The event that all factors are elements of, or nothing."""
    events = set(map(_event_of, factors))
    return events.pop() if len(events) == 1 and factors[0].kind != "constant" else ""


def _column(title: str, cells: Sequence[Cell], **options: Any) -> Column:
    """A column that has its cells with it, for rows by number; what ends early is blank below."""
    return Column(title, lambda row: cells[row] if row < len(cells) else "", **options)


def _aligned(values: Sequence[float | None]) -> list[str]:
    """Numbers of a column with the same decimals: DIGITS significant ones of the largest."""
    finite = [abs(v) for v in values if v is not None and math.isfinite(v)]
    power = math.floor(math.log10(max(finite))) if finite and max(finite) > 0 else 0
    plain = -4 <= power <= DIGITS
    form = f".{max(0, DIGITS - 1 - power)}f" if plain else f".{DIGITS - 1}e"
    least = 10.0 ** (power + 2 - DIGITS) if plain else 0.0  # below it a single digit or none is left
    return [
        "" if v is None else _unnamed(v) or (f"{v:{form}}" if abs(v) >= least else f"{v:.1e}") for v in values
    ]


def _number(value: float | None, digits: int = DIGITS) -> str:
    return "" if value is None else _unnamed(value) or f"{value:.{digits}g}"


def _unnamed(value: float) -> str:
    """What is no number or infinite, and zero without its sign."""
    if value == 0:
        return "0"
    return "" if math.isfinite(value) else unnumbered(value)


def _verdict(found: Explanation) -> Words:
    worked, traced = _number(found.value, EXACT), _number(found.traced, EXACT)
    if not found.steps:
        return words(f"stored {traced}", "bold green")
    off = f"off by {found.deviation:.1e}, rounding explains up to {found.tolerance:.1e}"
    if not found.holds:
        return words(f"traced {traced}: NOT EQUAL, this gives {worked} ({off})", "bold red")
    return words(f"traced {traced}: equal" + (f" ({off})" if found.deviation else ""), "bold green")


def _sources(found: Explanation) -> list[Section]:
    """For each event that was read the element of the largest term."""
    columns = [
        Column("element", lambda row: called(row[0]), whole=True),
        Column("value", lambda row: _number(row[0].value), right=True),
        Column("", lambda row: row[1], wrap=True),
    ]
    return table_section(
        "Came from", columns, sources_of(found), about=lambda row: _about(row[0].name, row[0].kind)
    )


def sources_of(found: Explanation) -> list[tuple[Factor, str]]:
    """What the element came from: of each event that was read the factor of its own, which stands in the
    shortest sum, or of the largest term, with words for that."""
    read = []
    for step in found.steps:
        most = max((len(term.factors) for term in step.terms), default=0)
        for term in step.terms:
            count = step.count if len(term.factors) == most else 1  # a bias is added once
            size = abs(term.value) if math.isfinite(term.value) else math.inf
            read += [(count, size, factor) for factor in term.factors if factor.kind != "constant"]
    sources = []
    for same in grouped(read, lambda own: _event_of(own[2])).values():
        count, _, factor = max(same, key=lambda own: (-own[0], own[1]))
        sources.append((factor, _of_many(max(own[0] for own in same), count)))
    return sources


def _next(found: Explanation, command: Callable[[str, bool], str]) -> Iterator[Section]:
    """What to type for the next number on the way back, for both parts of a plain sum."""
    computed = [f.name for f, _ in sources_of(found) if f.kind == found.phase and not _is_stored(f.name)]
    plain = bool(found.steps) and all(len(term.factors) == 1 for term in found.steps[-1].terms)
    shown = computed[: 2 if plain and found.steps[-1].count == 2 else 1]
    lines = [command(name, found.phase == "backward") for name in shown]
    if lines:
        yield Section([Copyable("or: " if i else "Next: ", line) for i, line in enumerate(lines)])


def _is_stored(element: str) -> bool:
    """Whether it is a parameter's, by its name: layer0.attn_wq[5,3], wte[5,2]"""
    kind = kind_of(element.partition("[")[0])
    return "." not in kind and kind not in ("logits", "probs", "loss")


def _of_many(count: int, own: int) -> str:
    if count <= 2:
        return ""
    return f"and its row of {count:,}" if own < count else f"in the largest of {count:,} terms"


def _uses(found: Explanation) -> Section:
    mark = "d " if found.phase == "backward" else ""
    columns = [
        Column("element", lambda use: mark + use.name, whole=True),
        *fields(_number, {"value": "value", "adds": "adds"}),
        Column("", _how, wrap=True),
    ]
    blocks: list[Block] = [indented(_NO_USE[found.phase])]
    if found.uses:
        blocks = [Table(columns, found.uses, about=lambda use: _about(use.name, found.phase))]
    if any(factor.kind == "backward" for factor in found.factors()):
        blocks.append(words("d NAME is d loss / d NAME, which --backward explains", "dim"))
    return Section(blocks, "Goes to")


_NO_USE = {"forward": "nothing reads it in this run", "backward": "no formula of another gradient reads it"}


def _how(use: Use) -> str:
    if use.count == 1:
        return use.words
    return f"{'one' if use.adds is None else 'largest'} of {use.count:,}: {use.words}"
