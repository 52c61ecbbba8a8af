"""An attribution as text: who wrote each prediction, what is lost without them, what the heads look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..attribution.head_roles import ROLES, SHARE, TIMES
from ..attribution.results import (
    Attention,
    AttributionResult,
    Contribution,
    HeadRole,
    LogitSum,
    PositionAttribution,
    size,
)
from ..text.printable import shown_token
from ..text.wording import counted
from .comparison import tokens_line
from .document import plain
from .layout import GAP, natural_width, print_table
from .screen import Screen, escape, figure, labelled, probability
from .sections import Column

ATTRIBUTION_SCHEMA = "microgpt.attribution/1"
ROLE_WORDS = {
    "itself": "self", "previous": "previous", "first": "position 0", "repeat": "repeat", "none": "–",
}  # fmt: skip
LABEL = 10  # characters of a token in the head of a column
HALF = 14  # characters of a bar to either side, at most
MISSED = 3  # parts not shown that are named for what is lost without them
OF_EACH_ROLE = 3  # heads of a large model that are shown for each role


def print_attribution(result: AttributionResult, screen: Screen, *, top: int = 20) -> None:
    """The whole attribution; `top` parts of each position, the others together."""
    pairs = [
        ("model", result.model),
        ("tokens", tokens_line(result.tokens, result.labels)),
        ("parts", "what each writes to a logit, the scale of the norm it passes frozen"),
    ]
    if result.ablation:
        pairs.append(("without it", "change of -log P(target) when it writes zeros at every position"))
    labelled([*pairs, *(("note", text) for text in result.notes)], screen)
    for position in result.positions:
        _print_position(position, result, screen, top)
    if len(result.positions) > 1:
        _print_means(result, screen, top)
    _print_roles(result, screen, top)


def _digits(result: AttributionResult) -> int:
    """Decimals of a logit: those of a microGPT are small."""
    return 3 if result.family == "microgpt" else 2


class _ComponentRow(NamedTuple):
    """A line of a table: a name, figures, and what its bar shows."""

    name: str
    figures: tuple[str, ...]
    bar: float | None
    style: str = ""


def _print_position(found: PositionAttribution, result: AttributionResult, screen: Screen, top: int) -> None:
    contrast, target, against = found.contrast, found.target, found.against
    digits, ablation = _digits(result), result.ablation
    ours, theirs = (shown_token(label) for label in (contrast.target_label, contrast.against_label))
    seen = f'"{contrast.seen}"' if result.family == "microgpt" and contrast.position else contrast.seen
    title = f"Position {contrast.position} after {shown_token(seen)}: {ours} against {theirs}"
    screen.say(f"\n[bold cyan]{escape(title)}[/bold cyan]")
    loss = figure(found.loss, digits).replace("nan", "NaN")
    screen.tell(f"P {_p(target)} against {_p(against)}, loss {loss}", indent=0)

    def figures(target: float, against: float, difference: float, change: str = "") -> tuple[str, ...]:
        return *(signed(x, digits) for x in (target, against, difference)), *([change] if ablation else [])

    def row_of(part: Contribution) -> _ComponentRow:
        change = "–" if part.loss_change is None else signed(part.loss_change, digits)
        return _ComponentRow(
            part.name, figures(part.target, part.against, part.difference, change), part.difference
        )

    ranked = found.by_difference()
    rows, more = list(map(row_of, ranked[:top])), ranked[top:]
    if more:
        name = counted(len(more), "more part")
        left = [sum(getattr(part, of) for part in more) for of in ("target", "against", "difference")]
        rows.append(_ComponentRow(name, figures(*left), None, "dim"))
    sums = figures(target.total, against.total, target.total - against.total)
    rows.append(_ComponentRow("sum of all", sums, None, "bold"))
    titles = [f"to {_short(ours)}", f"to {_short(theirs)}", "difference"]
    _print_rows([*titles, *(["without it"] if ablation else [])], len(titles), rows, screen)
    _print_lost(more, screen, digits)
    _print_check(found, screen, digits)


def _print_lost(hidden: Sequence[Contribution], screen: Screen, digits: int) -> None:
    """Parts that write little to these logits and are missed nevertheless."""
    missed = [part for part in hidden if part.loss_change is not None and not part.loss_change <= 0]
    missed.sort(key=lambda part: size(part.loss_change), reverse=True)
    if missed:
        said = ", ".join(f"{part.name} {signed(part.loss_change or 0.0, digits)}" for part in missed[:MISSED])
        screen.tell(f"most missed of those not shown: {said}", indent=0)


def _print_check(found: PositionAttribution, screen: Screen, digits: int) -> None:
    """Whether the parts sum to the logits, in red where they do not."""
    sums = (found.target, found.against)
    logits = " and ".join(figure(s.logit, digits).replace("nan", "NaN") for s in sums)
    worst = max(sums, key=_worse)
    label = shown_token((found.contrast.target_label, found.contrast.against_label)[sums.index(worst)])
    whole = f"{figure(worst.magnitude, digits)}, the sum of the magnitudes to {label}"
    off = f"off by {worst.deviation:.0e} of {whole}"
    if worst.holds is None:
        screen.tell(f"not checked: the logits {logits} or the parts are not finite", "red", indent=0)
    elif worst.holds:
        said = f"✓ the parts sum to the logits {logits}: {off}, allowed {worst.tolerance:.0e}"
        screen.tell(said, "dim", indent=0)
    else:
        said = f"✗ the parts do not sum to the logits {logits}: {off}, allowed {worst.tolerance:.0e}"
        screen.tell(said, "bold red", indent=0)


def _worse(one: LogitSum) -> tuple[bool, bool, float]:
    return one.holds is False, one.holds is None, one.deviation


def _print_means(result: AttributionResult, screen: Screen, top: int) -> None:
    """Each part over all the positions: how large its differences are, what is lost without it."""
    count, digits = len(result.positions), _digits(result)
    changes = {removal.name: removal.loss_change for removal in result.removals}
    sizes = {
        part.name: sum(abs(p.parts[i].difference) for p in result.positions) / count
        for i, part in enumerate(result.positions[0].parts)
    }
    ranked = sorted(sizes, key=lambda name: size(changes.get(name, sizes[name])), reverse=True)
    rows = []
    for name in ranked[:top]:
        change = [signed(changes[name], digits) if name in changes else "–"] if result.ablation else []
        rows.append(
            _ComponentRow(name, (figure(sizes[name], digits), *change), changes.get(name, sizes[name]))
        )
    screen.say(f"\n[bold cyan]Over the {count} positions[/bold cyan]")
    screen.tell(f"mean loss {figure(result.mean_loss, 4)}", indent=0)
    titles = ["mean |difference|", *(["without it"] if result.ablation else [])]
    _print_rows(titles, len(titles), rows, screen)
    if len(ranked) > top:
        screen.tell(f"{len(ranked) - top:,} more parts change less", "dim", indent=0)


def _print_rows(titles: Sequence[str], at: int, rows: Sequence[_ComponentRow], screen: Screen) -> None:
    """A table of the rows with a bar after `at` figures, as wide as the screen leaves room for."""

    def cell(i: int) -> Callable[[_ComponentRow], str]:
        return lambda row: row.figures[i]

    def style(row: _ComponentRow) -> str:
        return row.style

    columns = [Column("part", lambda row: row.name, whole=True, style=style)]
    columns += [Column(title, cell(i), right=True, style=style) for i, title in enumerate(titles)]
    taken = sum(GAP + natural_width(column, rows, screen) for column in columns)
    half = min(HALF, (screen.width - taken - 1) // 2)
    scale = max((abs(r.bar) for r in rows if r.bar is not None and abs(r.bar) < float("inf")), default=0.0)
    if half >= 3 and scale:
        bars = Column("", lambda row: signed_bar(row.bar, scale, half, screen), whole=True, style=_side)
        columns.insert(1 + at, bars)
    print_table(columns, rows, screen)


def _side(row: _ComponentRow) -> str:
    return "magenta" if row.bar is not None and row.bar < 0 else "cyan"


def signed_bar(value: float | None, scale: float, half: int, screen: Screen) -> str:
    """A bar from the middle to the right for what is positive, to the left for what is negative, `half`
    characters long for `scale`; a blank where there is no value, ? for one that is not finite."""
    middle = "|" if screen.ascii_only else "│"
    if value is None:
        return ""
    if not abs(value) < float("inf"):
        return " " * half + "?"
    length = min(abs(value) / scale, 1.0) * half
    if screen.ascii_only:
        bar = "#" * round(length)
    else:
        whole, rest = divmod(round(length * 2), 2)
        bar = "█" * whole + ("▐" if value < 0 else "▌") * rest
    return f"{bar[::-1]:>{half}}{middle}" if value < 0 else f"{' ' * half}{middle}{bar}"


def _print_roles(result: AttributionResult, screen: Screen, top: int) -> None:
    """What the heads look at: of a microGPT all heads, else those shown above and the strongest."""
    screen.say("\n[bold cyan]What the heads look at[/bold cyan]")
    if not result.roles:
        screen.tell("a single token has nothing to look back at: no roles", indent=0)
        return
    screen.tell("shares of attention, mean of the queries from position 1 on", "dim", indent=0)
    shown = list(result.roles) if result.family == "microgpt" else _telling(result, top)
    windows = dict.fromkeys(role.window for role in shown)
    uniform = {role.window: role.uniform for role in result.roles}
    lines: list[tuple[str, Attention, str]] = [
        (role.name, role.attention, ROLE_WORDS[role.role]) for role in shown
    ]
    lines += [
        ("uniform attention" + (f", window {window}" if window else ""), uniform[window], "")
        for window in windows
    ]
    print_table(_role_columns(), lines, screen)
    if len(shown) < len(result.roles):
        counts = Counter(role.role for role in result.roles)
        none = counts["none"]
        of_each = ", ".join(f"{counts[role]:,} {ROLE_WORDS[role]}" for role in ROLES)
        screen.tell(f"of all {len(result.roles):,} heads: {of_each}, {none:,} none", indent=0)
    rule = (
        f"role: a share of at least {SHARE:g} and {TIMES:g} times the uniform one, of several the most "
        "times; repeat: on earlier positions with the query's token, as a role without position 0 and the "
        "one before"
    )
    screen.tell(rule, "dim", indent=0)


def _telling(result: AttributionResult, top: int) -> list[HeadRole]:
    """The heads among the parts that were shown, and those that have a role most, in order."""
    names = {part.name for position in result.positions for part in position.by_difference()[:top]}
    for role in ROLES:
        having = [head for head in result.roles if head.role == role]
        having.sort(key=lambda head: -getattr(head.attention, ROLES[head.role]))
        names |= {head.name for head in having[:OF_EACH_ROLE]}
    return [head for head in result.roles if head.name in names]


def _role_columns() -> list[Column]:
    def share(name: str) -> Callable[[Any], str]:
        return lambda line: _share(getattr(line[1], name))

    columns = [Column("head", lambda line: line[0], whole=True)]
    columns += [Column(ROLE_WORDS[role], share(role), right=True) for role in ROLES]
    return [*columns, Column("role", lambda line: line[2], style=lambda line: "cyan")]


def _share(value: float | None) -> str:
    """A share of attention in two decimals, for which very little is nothing."""
    return "–" if value is None else f"{value:.2f}".replace("nan", "NaN")


def signed(value: float, digits: int) -> str:
    """A number with its sign, + included."""
    text = figure(value, digits).replace("nan", "NaN")
    return f"+{text}" if value > 0 and text.strip("0.") else text


def _p(one: LogitSum) -> str:
    return probability(one.p).replace("nan", "NaN")


def _short(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"


def attribution_document(result: AttributionResult) -> dict[str, Any]:
    """An attribution as plain data."""
    return {"schema": ATTRIBUTION_SCHEMA, "ok": result.ok, **plain(result)}
