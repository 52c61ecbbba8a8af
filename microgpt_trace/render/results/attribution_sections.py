"""An attribution as sections: each part's contribution to the predictions, the loss without the part, and
head roles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ...attribution.results import AttributionResult, Contribution, HeadRole, PositionAttribution, size
from ...attribution.score_writers import ScoreByWriter
from ...measuring.definitions import ROLES, SHARE, TIMES, Attention
from ...plans.kinds import window_words
from ...text.printable import shown_token
from ...text.wording import are, counted
from ..characters import token_label
from ..numbers import figure, four_decimals, signed, two_decimals
from ..sections import Block, Column, Labelled, Section, SignedBar, Table, Words, fields, name_of, words
from .diff_sections import tokens_line

if TYPE_CHECKING:
    from ...surveying.report_heads import SurveyedHead

ROLE_WORDS = {
    "itself": "self", "previous": "previous", "first": "position 0", "repeat": "repeat", "none": "–",
}  # fmt: skip
SHARES = {ROLE_WORDS[role]: f"attention.{role}" for role in ROLES}  # columns of a table of heads
Head = TypeVar("Head", HeadRole, "SurveyedHead")
LABEL, LOOKED_AT = 10, 7  # largest number of characters of a token in a column title, and in a cell
LEAST_BAR = 7  # characters of the shortest useful bar
MISSED = 3  # number of parts to name below the table because their ablation raises the loss
OF_EACH_ROLE = 3  # number of heads to show per role in a large model


def attribution_sections(result: AttributionResult, *, top: int = 20) -> list[Section]:
    """Return the attribution, with the `top` largest parts at each position and the sum of the others."""
    pairs = [
        ("model", result.model),
        ("tokens", tokens_line(result.tokens, result.labels)),
        ("parts", "what each part adds to a logit if the scales of all later norms stay fixed"),
    ]
    if result.ablation:
        pairs.append(("without it", "change of -log P(target) if the part writes zeros at every position"))
    sections = [Section([Labelled([*pairs, *(("note", text) for text in result.notes)])])]
    sections += [_position(position, result, top) for position in result.positions]
    if len(result.positions) > 1:
        sections.append(_means(result, top))
    return [*sections, Section([*_roles(result, top)], "What the heads look at")]


def _digits(result: AttributionResult) -> int:
    """Return how many decimals of a logit to print. The small logits of a microGPT need more decimals."""
    return 3 if result.family == "microgpt" else 2


class _ComponentRow(NamedTuple):
    """A row of the table of parts. `part` is "" in the row of a sum."""

    name: str
    figures: tuple[str, ...]
    bar: float | None
    style: str = ""
    part: str = ""


def _position(position: PositionAttribution, result: AttributionResult, top: int) -> Section:
    contrast, target, against = position.contrast, position.target, position.against
    digits, labels = _digits(result), (contrast.target_label, contrast.against_label)
    loss = figure(position.loss, digits)
    seen = f'"{contrast.seen}"' if result.family == "microgpt" and contrast.position else contrast.seen

    def figures(*logits: float, change: str = "") -> tuple[str, ...]:
        return *(signed(logit, digits) for logit in logits), change

    written = attrgetter("target", "against", "difference")
    ranked = position.by_difference()
    rows, more = [], ranked[top:]
    for part in ranked[:top]:
        numbers = figures(*written(part), change=_change(part.loss_change, result))
        rows.append(_ComponentRow(part.name, numbers, part.difference, part=part.name))
    if more:
        numbers = figures(*map(sum, zip(*map(written, more), strict=True)))
        rows.append(_ComponentRow(counted(len(more), "more part"), numbers, None, "dim"))
    sums = figures(target.total, against.total, target.total - against.total)
    rows.append(_ComponentRow("sum of all", sums, None, "bold"))
    to = [f"to {token_label(label, LABEL)}" for label in labels]
    blocks: list[Block] = [
        words(f"P {four_decimals(target.p)} against {four_decimals(against.p)}, loss {loss}"),
        _table([*to, "difference", "without it"], 3, rows),
        *_missed(more, digits),
        _check(position, digits),
    ]
    title = f"Position {contrast.position} after {shown_token(seen)}: "
    return Section(blocks, title + " against ".join(map(shown_token, labels)))


def _change(loss_change: float | None, result: AttributionResult) -> str:
    """Format the change of the loss when a part is ablated. Return "" if no part was ablated."""
    if loss_change is None:
        return "–" * result.ablation
    return signed(loss_change, _digits(result))


def _missed(hidden: Sequence[Contribution], digits: int) -> Iterator[Words]:
    """Name the parts in `hidden` whose ablation raises the loss most."""
    missed = [part for part in hidden if part.loss_change is not None and not part.loss_change <= 0]
    missed.sort(key=lambda part: size(part.loss_change), reverse=True)
    if missed:
        parts = (f"{part.name} {signed(part.loss_change or 0.0, digits)}" for part in missed[:MISSED])
        yield words(f"parts that are not shown but raise the loss most when ablated: {', '.join(parts)}")


def _check(position: PositionAttribution, digits: int) -> Words:
    """Describe whether the parts sum to the logits. The text is red if the sums differ from the logits."""
    sums, contrast = (position.target, position.against), position.contrast
    logits = " and ".join(figure(s.logit, digits) for s in sums)
    worst = max(sums, key=lambda s: (s.holds is False, s.holds is None, s.deviation))
    label = shown_token((contrast.target_label, contrast.against_label)[sums.index(worst)])
    magnitudes = f"the sum of the absolute values for {label}, {figure(worst.magnitude, digits)}"
    off = f"off by {worst.deviation:.0e}, allowed {worst.tolerance:.0e} (relative to {magnitudes})"
    if worst.holds is None:
        return words(f"not checked: the logits {logits} or the parts are not finite", "red")
    if worst.holds:
        return words(f"✓ the parts sum to the logits {logits}: {off}", "dim")
    return words(f"✗ the parts do not sum to the logits {logits}: {off}", "bold red")


def _means(result: AttributionResult, top: int) -> Section:
    """Return a table of the parts with their mean |difference|, and the loss change without each part."""
    count, digits = len(result.positions), _digits(result)
    changes = {removal.name: removal.loss_change for removal in result.removals}
    sizes = {
        part.name: sum(abs(p.parts[i].difference) for p in result.positions) / count
        for i, part in enumerate(result.positions[0].parts)
    }
    ranked = sorted(sizes, key=lambda name: size(changes.get(name, sizes[name])), reverse=True)
    rows = []
    for name in ranked[:top]:
        numbers = figure(sizes[name], digits), _change(changes.get(name), result)
        rows.append(_ComponentRow(name, numbers, changes.get(name, sizes[name]), part=name))
    loss = words(f"mean loss {four_decimals(result.mean_loss)}")
    blocks: list[Block] = [loss, _table(["mean |difference|", "without it"], 2, rows)]
    if (left := len(ranked) - top) > 0:
        parts = f"{counted(left, 'part')} with smaller values"
        blocks.append(words(f"{parts} {are(left)} not shown", "dim"))
    return Section(blocks, f"Over the {count} positions")


def _table(titles: Sequence[str], at: int, rows: Sequence[_ComponentRow]) -> Table:
    """Return a table of the rows, with a column of bars after the first `at` columns of numbers."""

    def cell(i: int) -> Callable[[_ComponentRow], str]:
        return lambda row: row.figures[i]

    style = attrgetter("style")
    columns = [Column("part", name_of, whole=True, style=style)]
    columns += [Column(title, cell(i), right=True, style=style) for i, title in enumerate(titles)]
    scale = max((abs(r.bar) for r in rows if r.bar is not None and abs(r.bar) < float("inf")), default=0.0)
    if scale:
        bar = Column("", lambda row: SignedBar(row.bar, scale), whole=True, style=_side, elastic=LEAST_BAR)
        columns.insert(1 + at, bar)
    return Table(columns, rows, about=attrgetter("part"))


def _side(row: _ComponentRow) -> str:
    return "magenta" if row.bar is not None and row.bar < 0 else "cyan"


def _roles(result: AttributionResult, top: int) -> Iterator[Block]:
    """Return the roles of all heads of a microGPT, or of the main heads of a production model."""
    if not result.roles:
        yield words("A single token has nothing to look back at, so no head has a role.")
        return
    judged = [position.contrast.position for position in result.positions]
    alone = f"; seen from {judged[0]}: the token with most attention" if len(judged) == 1 else ""
    means = "mean shares of attention, over the queries from position 1 on; repeat: over the queries whose"
    yield words(f"{means} token occurred before; the shares overlap{alone}", "dim")
    heads = result.roles if result.family == "microgpt" else _main_heads(result, top)
    rows = [_RoleRow(h.name, h.attention, ROLE_WORDS[h.role], h.name, _look(h, result)) for h in heads]
    for window, uniform in {head.window: head.uniform for head in heads}.items():
        rows.append(_RoleRow("uniform attention" + (f", {window_words(window)}" if window else ""), uniform))
    columns = [
        Column("head", name_of, whole=True),
        *fields(two_decimals, SHARES),
        Column("role", attrgetter("role"), whole=True, style="cyan"),
        Column(f"seen from {judged[0]}", attrgetter("look")),
    ]
    yield Table(columns, rows, about=attrgetter("head"))
    yield from roles_of_all(result.roles, heads)
    rule = (
        "role: the share with the largest multiple of uniform attention, if the share is at least "
        f"{SHARE:g} and the multiple at least {TIMES:g}; repeat: attention on earlier positions with the "
        "query's token; the role repeat does not count position 0 and the previous position"
    )
    yield words(rule, "dim")


class _RoleRow(NamedTuple):
    """A row for a head or for uniform attention."""

    name: str
    attention: Attention
    role: str = ""
    head: str = ""
    look: str = ""


def _look(head: HeadRole, result: AttributionResult) -> str:
    """Return the token that the explained position attends to most, and its share of attention. A token that
    occurs several times is shown as @position. Return "" if several positions are explained."""
    if len(result.positions) > 1:
        return ""
    look = head.looks[0]
    label = result.labels[look.most_at]
    alone = result.labels.count(label) == 1
    return f"{two_decimals(look.share)} {token_label(label, LOOKED_AT) if alone else f'@{look.most_at}'}"


def _main_heads(result: AttributionResult, top: int) -> list[HeadRole]:
    """Return the heads that the tables of parts show, and the strongest heads of each role."""
    parts = {part.name for position in result.positions for part in position.by_difference()[:top]}
    strongest = most_of_each_role(result.roles)
    return [head for head in result.roles if head.name in parts or head in strongest]


def most_of_each_role(heads: Sequence[Head]) -> list[Head]:
    """Return the OF_EACH_ROLE heads of each role with the largest share of attention."""
    strongest = list[Head]()
    for role, share in ROLES.items():
        ranked = [head for head in heads if head.role == role]
        ranked.sort(key=lambda head: -(getattr(head.attention, share) or 0.0))
        strongest += ranked[:OF_EACH_ROLE]
    return strongest


def roles_of_all(heads: Sequence[Head], shown: Sequence[Head]) -> Iterator[Words]:
    """If not all heads are shown, count the heads of each role."""
    if len(shown) < len(heads):
        counts = Counter(head.role for head in heads)
        roles = ", ".join(f"{counts[role]:,} {ROLE_WORDS[role]}" for role in ROLES)
        yield words(f"of all {len(heads):,} heads: {roles}, {counts['none']:,} none")


def score_sections(result: ScoreByWriter, *, terms: int = 16) -> list[Section]:
    """Return the largest totals of the writers, the largest pairs, and the check of the sum."""
    columns = [Column(f"writer for the {n}", attrgetter(n), whole=True) for n in ("query", "key")]
    columns += fields(lambda value: signed(value, 4), {"part of the score": "value"})
    labels = " and key ".join(map(shown_token, result.labels))
    sections = [Section([words(f"{result.element} = {result.score:.6g}", "bold"), words(f"query {labels}")])]
    for title, shown, parts, count in (
        ("Query", columns[::2], result.queries, len(result.queries)),
        ("Key", columns[1:], result.keys, len(result.keys)),
        ("Pairs", columns, result.pairs, result.pair_count),
    ):
        best = sorted(parts, key=lambda part: -abs(part.value))[:terms]
        sections.append(Section([Table(shown, best)], title, f"{len(best)} of {count:,}"))
    verdict, style = ("equals", "green") if result.check.holds else ("DIFFERS from", "bold red")
    line = f"the sum of all pairs, {result.total:.6g}, {verdict} the traced score, {result.score:.6g}"
    return [*sections, Section([words(line, style)])]
