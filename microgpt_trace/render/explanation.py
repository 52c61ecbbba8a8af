"""An explanation as text, from the formula to where the number goes, and as plain data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from ..architecture.plan import kind_of
from ..architecture.steps import Factor, Step, Term, Use
from ..explaining.explanation import EXPLANATION_SCHEMA, Explanation
from .document import plain
from .layout import print_table
from .screen import Screen, escape
from .sections import Column

_X = re.compile(r"\bx\b")
DIGITS = 6  # significant ones of the largest number of a column


def print_explanation(
    found: Explanation, screen: Screen, command: Callable[[str, bool], str] | None = None
) -> None:
    """The formula, the numbers, that they give what was traced; then where they are from and go to.

    `command` gives what one types to have an element explained, or its gradient.
    """
    gradient = "d loss / d " if found.phase == "backward" else ""
    screen.say(f"[bold]{gradient}{escape(found.element)} = {_number(found.traced)}[/bold]")
    screen.tell(found.place, indent=0)
    if found.expr not in (found.name, f"d loss / d {found.name}"):
        screen.tell(found.expr, "dim")
    screen.tell(found.formula)
    for note in found.notes:
        screen.tell(note, "dim")
    for step in found.steps:
        _print_step(step, screen)
    _print_verdict(found, screen)
    _print_sources(found, screen)
    _print_uses(found, screen)
    if any(factor.kind == "backward" for factor in found.factors()):
        screen.tell("d NAME is d loss / d NAME, which --backward explains", "dim", indent=0)
    if command is not None:
        _print_next(found, screen, command)


def _print_step(step: Step, screen: Screen) -> None:
    """One product on a line of its own, a sum of alike terms as a table, of others line by line."""
    if step.count == 0:
        return
    if step.count == 1:
        screen.say()
        _print_product(step, screen)
        return
    screen.say(f"\n[bold cyan]{escape(step.label)}[/bold cyan]")
    if max(len(term.factors) for term in step.terms) > 2:
        for term in step.terms:
            screen.tell(" = ".join(_written_out(term)))
        screen.tell(f"sum = {_number(step.value)}")
    else:
        _print_terms(step, screen)


def _print_product(step: Step, screen: Screen) -> None:
    """One line, or a second one for the numbers, below the names."""
    names, *rest = _written_out(step.terms[0])
    whole = " = ".join([step.label, names, *rest])
    if cell_len(screen.words(whole)) <= screen.width:
        screen.tell(whole, indent=0)
        return
    margin = len(step.label) if len(step.label) < screen.width // 3 else 1
    screen.tell(f"{step.label} = {names}", indent=0)
    screen.tell("= " + " = ".join(rest), indent=margin + 1)


def _written_out(term: Term) -> list[str]:
    """The names, the numbers and the result: "a × b", "0.5 × 0.25", "0.125" """
    names = " × ".join(_called(factor) for factor in term.factors)
    numbers = " × ".join(
        f"({_number(f.value)})" if i and f.value < 0 else _number(f.value) for i, f in enumerate(term.factors)
    )
    if term.function:
        names, numbers = _applied(term.function, names), _applied(term.function, numbers)
    parts = [names, numbers, _number(term.value)]
    if len(term.factors) == 1 and not term.function:
        parts = parts[:1] if names == numbers else parts[:2]
    return parts


def _applied(function: str, text: str) -> str:
    """The expression in x with a text in the place of x."""
    signed = text.startswith("-") and "-x" in function
    return _X.sub(lambda _: f"({text})" if signed else text, function)


def _called(factor: Factor) -> str:
    return f"d {factor.name}" if factor.kind == "backward" else factor.name


def _print_terms(step: Step, screen: Screen) -> None:
    """A row per term, its factors side by side under the name of their event; then what the terms that
    are not shown add up to, and the sum."""
    ends = [(f"{step.count - len(step.terms):,} more", step.rest)] if step.count > len(step.terms) else []
    ends.append((f"sum of {step.count:,}", step.value))
    columns: list[tuple[Column, list[str]]] = []
    slots = max(len(term.factors) for term in step.terms)
    function = next((term.function for term in step.terms if term.function), "")
    for slot in range(slots):
        factors = [term.factors[slot] if slot < len(term.factors) else None for term in step.terms]
        event = _event_of_all([factor for factor in factors if factor is not None])
        if slot:
            columns.append((_column(""), ["×" if factor else "" for factor in factors]))
        cells = _factors(factors, event, slots > 1 or bool(function))
        columns.append((_column(event, whole=True), cells + ([] if slot else [words for words, _ in ends])))
    values = [term.value for term in step.terms] + [value for _, value in ends]
    title = function or ("product" if slots > 1 else "value")
    columns.append((_column(title, right=True), _aligned(values)))
    columns.append((_column("", bar=True), [term.label for term in step.terms]))
    _print_columns(columns, len(values), screen)


def _factors(factors: Sequence[Factor | None], event: str, numbers: bool) -> list[str]:
    """What each factor is, without the event that heads the column, and its number on the right."""
    places = [_called(factor).removeprefix(event) if factor else "" for factor in factors]
    if not numbers:
        return places
    values = _aligned([factor.value if factor else None for factor in factors])
    first, last = max(map(cell_len, places)), max(map(len, values))
    width = max(first + 2 + last, cell_len(event))
    return [
        place + " " * (width - cell_len(place) - len(value)) + value if place else ""
        for place, value in zip(places, values, strict=True)
    ]


def _event_of_all(factors: Sequence[Factor]) -> str:
    """The event that all factors are elements of, or nothing."""
    events = {_called(factor).partition("[")[0] for factor in factors}
    return events.pop() if len(events) == 1 and factors[0].kind != "constant" else ""


def _column(title: str, right: bool = False, bar: bool = False, whole: bool = False) -> Column:
    return Column(title, str, right=right, bar=bar, whole=whole)


def _print_columns(columns: Sequence[tuple[Column, list[str]]], count: int, screen: Screen) -> None:
    """Columns that have their cells with them; what ends early is blank below."""

    def with_cells(column: Column, cells: list[str]) -> Column:
        return column._replace(cell=lambda row: cells[row] if row < len(cells) else "")

    filled = [(column, cells) for column, cells in columns if any(cells)]
    print_table([with_cells(column, cells) for column, cells in filled], range(count), screen)


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


def _number(value: float) -> str:
    return _unnamed(value) or f"{value:.{DIGITS}g}"


def _exact(value: float) -> str:
    """As many digits as tell one float32 from the next."""
    return _unnamed(value) or f"{value:.9g}"


def _unnamed(value: float) -> str:
    """What is no number or infinite, and zero without its sign."""
    if value == 0:
        return "0"
    if math.isfinite(value):
        return ""
    return "NaN" if math.isnan(value) else "-Infinity" if value < 0 else "Infinity"


def _print_verdict(found: Explanation, screen: Screen) -> None:
    screen.say()
    worked, traced = _exact(found.value), _exact(found.traced)
    if not found.steps:
        screen.tell(f"stored {traced}", "bold green", indent=0)
        return
    off = f"off by {found.deviation:.1e}, rounding explains up to {found.tolerance:.1e}"
    if found.holds:
        exactly = found.deviation == 0
        screen.tell(f"traced {traced}: equal" + ("" if exactly else f" ({off})"), "bold green", indent=0)
    else:
        screen.tell(f"traced {traced}: NOT EQUAL, this gives {worked} ({off})", "bold red", indent=0)


def _print_sources(found: Explanation, screen: Screen) -> None:
    """For each event that was read the element of the largest term."""
    rows = sources_of(found)
    if not rows:
        return
    screen.say("\n[bold cyan]Came from[/bold cyan]")
    columns: list[tuple[Column, list[str]]] = [
        (_column("element", whole=True), [_called(factor) for factor, _ in rows]),
        (_column("value", right=True), [_number(factor.value) for factor, _ in rows]),
        (Column("", str, wrap=True), [words for _, words in rows]),
    ]
    _print_columns(columns, len(rows), screen)


def sources_of(found: Explanation) -> list[tuple[Factor, str]]:
    """What the element came from: of each event that was read the factor of its own, which stands in the
    shortest sum, or of the largest term, with words for that."""
    best: dict[str, tuple[tuple[int, float], Factor, int]] = {}
    counts: dict[str, int] = {}
    for step in found.steps:
        most = max((len(term.factors) for term in step.terms), default=0)
        for term in step.terms:
            count = step.count if len(term.factors) == most else 1  # a bias is added once
            size = abs(term.value) if math.isfinite(term.value) else math.inf
            for factor in (factor for factor in term.factors if factor.kind != "constant"):
                event = _called(factor).partition("[")[0]
                counts[event] = max(count, counts.get(event, 0))
                rank = (-count, size)
                if event not in best or rank > best[event][0]:
                    best[event] = rank, factor, count
    return [(factor, _of_many(counts[event], own)) for event, (_, factor, own) in best.items()]


def _print_next(found: Explanation, screen: Screen, command: Callable[[str, bool], str]) -> None:
    """What to type for the next number on the way back, for both parts of a plain sum. A line may be longer
    than the screen is wide: it is there to be copied."""
    computed = [f.name for f, _ in sources_of(found) if f.kind == found.phase and not _is_stored(f.name)]
    plain = bool(found.steps) and all(len(term.factors) == 1 for term in found.steps[-1].terms)
    for i, name in enumerate(computed[: 2 if plain and found.steps[-1].count == 2 else 1]):
        line = ("or: " if i else "Next: ") + command(name, found.phase == "backward")
        screen.print(Text("\n" * (not i) + screen.words(line), "dim"), soft_wrap=True)


def _is_stored(element: str) -> bool:
    """Whether it is a parameter's, by its name: layer0.attn_wq[5,3], wte[5,2]"""
    kind = kind_of(element.partition("[")[0])
    return "." not in kind and kind not in ("logits", "probs", "loss")


def _of_many(count: int, own: int) -> str:
    if count <= 2:
        return ""
    return f"and its row of {count:,}" if own < count else f"in the largest of {count:,} terms"


def _print_uses(found: Explanation, screen: Screen) -> None:
    if not found.uses:
        screen.say("\n[bold cyan]Goes to[/bold cyan]")
        screen.tell(_NO_USE[found.phase])
        return
    screen.say("\n[bold cyan]Goes to[/bold cyan]")
    mark = "d " if found.phase == "backward" else ""
    columns: list[tuple[Column, list[str]]] = [
        (_column("element", whole=True), [mark + use.name for use in found.uses]),
        (_column("value", right=True), ["" if u.value is None else _number(u.value) for u in found.uses]),
        (_column("adds", right=True), ["" if u.adds is None else _number(u.adds) for u in found.uses]),
        (Column("", str, wrap=True), [_how(use) for use in found.uses]),
    ]
    _print_columns(columns, len(found.uses), screen)


_NO_USE = {"forward": "nothing reads it in this run", "backward": "no other gradient is worked out from it"}


def _how(use: Use) -> str:
    many = use.count > 1 and use.adds is not None
    return f"largest of {use.count:,}: {use.words}" if many else use.words


def explanation_document(found: Explanation) -> dict[str, Any]:
    """An explanation as plain data."""
    return {"schema": EXPLANATION_SCHEMA, "element": found.element, **plain(found)}
