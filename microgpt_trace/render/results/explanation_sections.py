"""An explanation as sections: the formula of an element, its numbers, its sources and its uses."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ...explaining.explanation import Explanation
from ...formulas.steps import Factor, Step, Term, Use
from ...grouping import grouped
from ...plans.plan import kind_of
from ...text.wording import nonfinite_name
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
DIGITS = 6  # significant digits of the largest number in a column
EXACT = 9  # significant digits that distinguish any two float32 numbers
FEW = 3  # largest number of terms of a sum that is written on one line
LONG = 26  # below a name shorter than this, the numbers start at the end of the name


def explanation_sections(
    explanation: Explanation, command: Callable[[str, bool], str] | None = None
) -> list[Section]:
    """Return the formula, the numbers and the verdict, then the sources and the uses of the element.
    `command(element, gradient)` returns the command line that explains an element or the element's
    gradient."""
    title = f"{explanation.prefix}{explanation.element} = {_number(explanation.traced)}"
    blocks = [words(title, "bold"), words(explanation.place)]
    if explanation.expr not in (explanation.name, f"{explanation.prefix}{explanation.name}"):
        blocks.append(indented(explanation.expr, "dim"))
    blocks += [indented(explanation.formula), *(indented(note, "dim") for note in explanation.notes)]
    steps = [_step(step) for step in explanation.steps if step.count]
    ends = [Section([_verdict(explanation)]), *_sources(explanation), _uses(explanation)]
    return [Section(blocks), *steps, *ends, *(_next(explanation, command) if command else ())]


def _step(step: Step) -> Section:
    """Show one term as text. Show a sum as a table if each term has at most two factors, or else as lines."""
    if step.count == 1:
        return Section(_product(step))
    if max(len(term.factors) for term in step.terms) > 2:
        lines = [indented(" = ".join(_written_out(term))) for term in step.terms]
        return Section([*lines, indented(f"sum = {_number(step.value)}")], step.label)
    return Section([_terms(step)], step.label)


def _product(step: Step) -> list[Words]:
    """Return a line with the names, and below the names a line with the numbers."""
    names, *rest = _written_out(step.terms[0])
    margin = len(step.label) if len(step.label) < LONG else 1
    numbers = [words("= " + " = ".join(rest), indent=margin + 1)] if rest else []
    return [words(f"{step.label} = {names}"), *numbers]


def in_one_line(step: Step) -> str:
    """Return one term, such as "c = a × b = 0.5 × 0.25 = 0.125", or a sum such as "c = a + b = 1"."""
    names = " + ".join(_written_out(term)[0] for term in step.terms)
    names = f"sum of {step.count:,} terms" if step.count > FEW else names
    parts = _written_out(step.terms[0]) if step.count == 1 else [names, _number(step.value)]
    return " = ".join([step.label, *parts])


def _written_out(term: Term) -> list[str]:
    """Return the names, the numbers and the result of a term, such as "a × b", "0.5 × 0.25" and "0.125"."""
    names = " × ".join(map(factor_name, term.factors))
    numbers = " × ".join(
        f"({_number(f.value)})" if i and f.value < 0 else _number(f.value) for i, f in enumerate(term.factors)
    )
    if term.function:
        names, numbers = substituted(term.function, names), substituted(term.function, numbers)
    parts = [names, numbers, _number(term.value)]
    if len(term.factors) == 1 and not term.function:
        parts = parts[:1] if names == numbers else parts[:2]
    return parts


def substituted(function: str, text: str) -> str:
    """Replace the x in the name of a function, such as "exp(x)", by `text`."""
    signed = text.startswith("-") and "-x" in function
    return _X.sub(lambda _: f"({text})" if signed else text, function)


def factor_name(factor: Factor) -> str:
    """Return the name of a factor. The name of a gradient begins with "d "."""
    return f"d {factor.name}" if factor.kind == "backward" else factor.name


def _terms(step: Step) -> Table:
    """Return a row per term, a row for the sum of the terms that are not shown, and a row for the whole sum.
    The title of a column of factors is the event of the factors."""
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
        columns.append(_column(event, cells + ([] if slot else [label for label, _ in ends]), whole=True))
    values = [term.value for term in step.terms] + [value for _, value in ends]
    title = function or ("product" if slots > 1 else "value")
    columns.append(_column(title, _aligned(values), right=True))
    columns.append(_column("", [term.label for term in step.terms], bar=True))
    return Table(columns, range(len(values)))


def _factors(factors: Sequence[Factor | None], event: str, numbers: bool) -> list[Cell]:
    """Return a cell for each factor, with the element and its value. The cells omit the name `event`, which
    is the title of the column."""
    places = [factor_name(factor).removeprefix(event) if factor else "" for factor in factors]
    values = _aligned([factor.value if factor and numbers else None for factor in factors])
    return [
        ElementCell(place, value, _about(factor.name, factor.kind)) if factor else ""
        for factor, place, value in zip(factors, places, values, strict=True)
    ]


def _about(element: str, kind: str) -> str:
    """Return the name that the cell of an element refers to, or "" for a constant."""
    return {"constant": "", "backward": f"gradient {element}"}.get(kind, element)


def _event_of(factor: Factor) -> str:
    return factor_name(factor).partition("[")[0]


def _event_of_all(factors: Sequence[Factor]) -> str:
    """Return the event that contains all factors, or "" if the factors belong to several events."""
    events = set(map(_event_of, factors))
    return events.pop() if len(events) == 1 and factors[0].kind != "constant" else ""


def _column(title: str, cells: Sequence[Cell], **options: Any) -> Column:
    """Return a column of cells for a table with the rows 0, 1, 2, ... Missing cells are blank."""
    return Column(title, lambda row: cells[row] if row < len(cells) else "", **options)


def _aligned(values: Sequence[float | None]) -> list[str]:
    """Format numbers with the same number of decimals. The largest number has DIGITS significant digits."""
    finite = [abs(v) for v in values if v is not None and math.isfinite(v)]
    power = math.floor(math.log10(max(finite))) if finite and max(finite) > 0 else 0
    plain = -4 <= power <= DIGITS
    form = f".{max(0, DIGITS - 1 - power)}f" if plain else f".{DIGITS - 1}e"
    least = 10.0 ** (power + 2 - DIGITS) if plain else 0.0  # a smaller number would show at most one digit
    return [
        "" if v is None else _special(v) or (f"{v:{form}}" if abs(v) >= least else f"{v:.1e}") for v in values
    ]


def _number(value: float | None, digits: int = DIGITS) -> str:
    return "" if value is None else _special(value) or f"{value:.{digits}g}"


def _special(value: float) -> str:
    """Format zero (without its sign), NaN or infinity. Return "" for any other number."""
    if value == 0:
        return "0"
    return "" if math.isfinite(value) else nonfinite_name(value)


def _verdict(explanation: Explanation) -> Words:
    value, traced = _number(explanation.value, EXACT), _number(explanation.traced, EXACT)
    if not explanation.steps:
        return words(f"stored {traced}", "bold green")
    off = f"off by {explanation.deviation:.1e}, rounding explains up to {explanation.tolerance:.1e}"
    if not explanation.holds:
        return words(f"traced {traced}: NOT EQUAL, the formula gives {value} ({off})", "bold red")
    return words(f"traced {traced}: equal" + (f" ({off})" if explanation.deviation else ""), "bold green")


def _sources(explanation: Explanation) -> list[Section]:
    columns = [
        Column("element", lambda row: factor_name(row[0]), whole=True),
        Column("value", lambda row: _number(row[0].value), right=True),
        Column("", lambda row: row[1], wrap=True),
    ]
    rows = sources_of(explanation)
    return table_section("Came from", columns, rows, about=lambda row: _about(row[0].name, row[0].kind))


def sources_of(explanation: Explanation) -> list[tuple[Factor, str]]:
    """Return one factor for each event that the formula reads, with a note on the sum that contains the
    factor. If several sums read the event, the factor is from the largest term of the shortest sum."""
    read, itself = [], (explanation.phase, explanation.element)
    for step in explanation.steps:
        most = max((len(term.factors) for term in step.terms), default=0)
        for term in step.terms:
            count = step.count if len(term.factors) == most else 1  # the bias of a sum is added once
            size = abs(term.value) if math.isfinite(term.value) else math.inf
            own = (f for f in term.factors if f.kind != "constant" and (f.kind, f.name) != itself)
            read += [(count, size, factor) for factor in own]
    sources = []
    for group in grouped(read, lambda entry: _event_of(entry[2])).values():
        count, _, factor = max(group, key=lambda entry: (-entry[0], entry[1]))
        sources.append((factor, _sum_note(max(entry[0] for entry in group), count)))
    return sources


def _next(explanation: Explanation, command: Callable[[str, bool], str]) -> Iterator[Section]:
    """Return the command that explains the first computed source, or two commands for a sum of two terms."""
    phase, last = explanation.phase, explanation.steps[-1:]
    computed = [f.name for f, _ in sources_of(explanation) if f.kind == phase and not _is_stored(f.name)]
    is_sum_of_two = any(s.count == 2 and all(len(term.factors) == 1 for term in s.terms) for s in last)
    lines = [command(name, phase == "backward") for name in computed[: 2 if is_sum_of_two else 1]]
    if lines:
        yield Section([Copyable("or: " if i else "Next: ", line) for i, line in enumerate(lines)])


def _is_stored(element: str) -> bool:
    """Return True for an element of a parameter, such as layer0.attn_wq[5,3] or wte[5,2]."""
    kind = kind_of(element.partition("[")[0])
    return "." not in kind and kind not in ("logits", "probs", "loss")


def _sum_note(longest: int, count: int) -> str:
    """Return a note on a factor in a sum of `count` terms. `longest` is the number of terms of the longest
    sum over the factor's event."""
    if longest <= 2:
        return ""
    return (
        f"and its row ({longest:,} elements)" if count < longest else f"in the largest of {longest:,} terms"
    )


def _uses(explanation: Explanation) -> Section:
    mark = "d " if explanation.phase == "backward" else ""
    columns = [
        Column("element", lambda use: mark + use.name, whole=True),
        *fields(_number, {"value": "value", "adds": "adds"}),
        Column("", _use_note, wrap=True),
    ]
    blocks: list[Block] = [indented(_NO_USE[explanation.phase])]
    if explanation.uses:
        blocks = [Table(columns, explanation.uses, about=lambda use: _about(use.name, explanation.phase))]
    if any(factor.kind == "backward" for factor in explanation.factors()):
        blocks.append(words(f"d NAME means {explanation.prefix}NAME; --backward explains gradients", "dim"))
    return Section(blocks, "Goes to")


_NO_USE = {"forward": "nothing reads this value in this run", "backward": "no gradient reads this gradient"}


def _use_note(use: Use) -> str:
    if use.count == 1:
        return use.words
    return f"{'one' if use.adds is None else 'largest'} of {use.count:,}: {use.words}"
