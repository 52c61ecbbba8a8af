"""Patching as sections: grids of how much of the clean run each site restores, by layer and position or
head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from operator import attrgetter
from typing import Any

from ...attribution.results import Neuron, PromptsAttribution
from ...decoder.catalogue import leaving_kinds
from ...patching.patch_results import (
    FEW,
    PairsResult,
    PatchedPair,
    PatchResult,
    PatchTable,
    Spot,
    listed_parts,
    moves,
    parts_of,
    receivers_of,
    runs_above,
    tables_of,
)
from ...text.printable import shown_token
from ...text.wording import counted
from ..characters import token_label
from ..numbers import four_decimals, two_apart, two_decimals
from ..sections import (
    Bar,
    Column,
    Grid,
    Labelled,
    Section,
    SignedBar,
    Words,
    facts,
    fields,
    table_section,
    words,
)

HALF = 0.5
SHARES = {  # what the deviation of a check is a share of
    "path": "of the change", "embedding": "of the difference between the runs",
    "logits": "of the sum of the absolute values of the parts",
}  # fmt: skip
LEADING, LEAST = 3, 0.005  # number of largest sites to name, and the smallest value to name
MAX_PAIRS = 20  # largest number of pairs or prompts that are shown
MAX_TOKENS = 60  # largest number of tokens of a text that are shown
PARTS, ESTIMATES = "Restored by a part of the clean value", "Estimates of parts of events"
RESTORED = (
    "restored: the difference of a run, scaled to 0 for the corrupted run and to 1 for the clean run; values "
    "below 0 and above 1 are possible"
)
METHODS = {
    "writes": "what each part adds to the difference if the scales of all later norms stay fixed",
    "gradient": "L2 norm of the gradient of the difference; for a head, with respect to its attn.context",
    "gradient-x-input": "sum of gradient * value",
    "integrated": "integral of gradient * d value along a straight path to the token embeddings",
}

Value = Callable[[Any], float | None]
Heads = list[tuple[str, Callable[[int], str]]]  # header lines: label, and text of each column


def patch_sections(result: PatchResult) -> list[Section]:
    """Return the two runs, a grid for each kind of site with findings, and the self-check."""
    restored, estimated = attrgetter("restored"), result.method == "attribution"
    receivers = receivers_of(result.cells)
    title = "Estimate of what the clean value restores" if estimated else "Restored by the clean value"
    title = "Restored by paths" if receivers else title
    tables = _tables(result.cells, title, restored, _heads_of([result]))
    figures = [*fields(four_decimals, {"estimate" if estimated else "restored": "restored"}), _bar(restored)]
    figures += fields(four_decimals, {"difference": "difference"})
    if len(receivers) == 1 and len(result.cells) <= FEW:
        return [*_runs(result), *_list(title, result.cells, figures, f"to {receivers[0]}"), _check([result])]
    sections = [*_runs(result), *tables]
    listed, every = listed_parts(result.cells, restored), parts_of(result.cells)
    parts = ESTIMATES if estimated else title if receivers else PARTS
    sections += _list(parts, listed, figures, count=len(every))
    sections += _list("Largest neurons", result.neurons[:FEW], figures, count=result.neuron_count)
    sections += _confirmed(result)
    return [*sections, _check([result])]


def _confirmed(result: PatchResult) -> list[Section]:
    """Return a table of estimates beside exact patches. A line counts the estimates that fail."""
    words_of = {"": "", "sign": "wrong sign", "factor": "wrong by more than a factor of 2"}
    columns = [
        Column("site", attrgetter("site"), whole=True),
        *fields(four_decimals, {"estimate": "estimate", "exact": "restored"}),
        Column("", lambda cell: words_of[cell.fails], style=lambda cell: "bold red"),
    ]
    fails = sum(bool(cell.fails) for cell in result.confirmed)
    known = "" if result.correlation is None else f"correlation {result.correlation:.3f}; "
    line = f"{known}{fails or 'none'} of {counted(len(result.confirmed), 'estimate')} fail"
    title, site = "Estimates and exact patches", attrgetter("site")
    return table_section(title, columns, result.confirmed, line, about=site)


def pairs_sections(result: PairsResult) -> list[Section]:
    """Return the pairs, and the mean and the spread of every site."""
    heads, count, mean = _heads_of(result.pairs), len(result.pairs), attrgetter("mean")
    sections = [*_list_of_pairs(result)]
    estimated = result.method == "attribution"
    title = f"{'Estimate of what is restored' if estimated else 'Restored'}, mean of {counted(count, 'pair')}"
    sections += _tables(result.cells, title, mean, heads)
    if count > 1:
        spread = "Spread over the pairs (std)"
        sections += _tables(result.cells, spread, attrgetter("spread"), heads, findings=False)
    figures = [*fields(four_decimals, {"mean": "mean", "std": "spread"}), _bar(mean)]
    figures += fields("{:,}".format, {"pairs": "count"})
    parts = ESTIMATES if estimated else PARTS
    sections += _list(parts, listed_parts(result.cells, mean), figures, count=len(parts_of(result.cells)))
    return [*sections, _check(result.pairs)]


def attributed_sections(result: PromptsAttribution, *, top: int = 20) -> list[Section]:
    """Return the prompts, a grid for each kind of part, the largest parts and neurons, and the check."""
    prompts, mean, site = result.prompts, attrgetter("mean"), attrgetter("site")
    notes = dict.fromkeys(note for prompt in prompts for note in prompt.notes)
    about = [("model", result.model), ("method", METHODS[result.method]), *facts("note", notes)]
    columns = [
        Column("prompt", lambda p: " ".join(map(shown_token, p.labels[:MAX_TOKENS])), wrap=True),
        *fields(shown_token, {t: f"contrast.{t}_label" for t in ("target", "against")}, right=False),
        *fields("{:.2f}".format, {"difference": "difference"}),
    ]
    legend = f"difference: logit(target) - logit(against); at most {MAX_PAIRS} prompts are shown"
    sections = [Section([Labelled(about)]), *table_section("", columns, prompts[:MAX_PAIRS], legend)]
    heads: Heads = [("token", lambda position: _common([p.labels for p in prompts], position))]
    title = f"Attribution, mean of {counted(len(prompts), 'prompt')}" if len(prompts) > 1 else "Attribution"
    sections += _tables(result.cells, title, mean, heads, findings=False)
    best = sorted((cell for cell in result.cells if cell.position is None), key=lambda c: -abs(c.mean or 0.0))
    scale = max((abs(cell.mean or 0.0) for cell in best), default=0.0)
    paths = {"mean": "mean", "std": "spread"} if len(prompts) > 1 else {"value": "mean"}
    error = {"error": "error"} if result.method == "integrated" else {}  # by half the steps
    columns = [Column("part", site, whole=True), *fields(four_decimals, paths | error)]
    columns.append(
        Column("", lambda cell: SignedBar(cell.mean, scale or 1.0), whole=True, style="cyan", elastic=7)
    )
    legend = "error: half the steps change the value by at most this number" if error else ""
    sections += table_section("Largest parts, over all positions", columns, best[:top], legend, about=site)
    columns = [
        Column("neuron", attrgetter("site"), whole=True), *fields(four_decimals, {"value": "value", **error}),
        Column("most active at", lambda neuron: _activity(neuron, prompts[0].labels), wrap=True),
    ]  # fmt: skip
    gradient, raising = result.method == "gradient", [n for n in result.neurons if not n.value <= 0]
    title = "Neurons with the largest gradients" if gradient else "Neurons that raise the difference most"
    sections += table_section(title, columns, (result.neurons if gradient else raising)[:top])
    if prompts[0].check is not None:
        sections.append(_check(prompts))
    elif not result.ok:
        sections.append(Section([words("not all attributions are finite", "bold red")]))
    return sections


def _activity(neuron: Neuron, labels: Sequence[str]) -> str:
    places = zip(neuron.active_at, neuron.activations, strict=True)
    return ", ".join(f"{at} {shown_token(labels[at])} {two_decimals(value)}" for at, value in places)


def title_of(table: PatchTable[Any]) -> str:
    """Return the title of a map. The title says whether each site is one position or one head."""
    if table.across == "receiver":
        return table.title
    where = "at one position" if table.across == "position" else "of one head, at all positions"
    return f"{table.title} {where}" + "".join(f", to {name}" for name in table.receivers)


def _runs(result: PatchResult) -> Iterator[Section]:
    contrast = result.contrast
    pairs = [("model", result.model)]
    for which, run in (("clean", result.clean), ("corrupted", result.corrupt)):
        more = " …" * (len(run.labels) > MAX_TOKENS)
        pairs += facts(which, [" ".join(map(shown_token, run.labels[:MAX_TOKENS])) + more, *run.notes])
    target, against = contrast.target_label, contrast.against_label
    question = f"logit({shown_token(target)}) - logit({shown_token(against)})"
    place = f"after position {contrast.position} {shown_token(contrast.seen)}"
    yield Section([Labelled([*pairs, ("metric", f"{question} {place}")])])
    columns = [
        Column("run", lambda run: "clean" if run is result.clean else "corrupted"),
        *fields("{:.2f}".format, {"difference": "difference"}),
        Column("restored", lambda run: "1" if run is result.clean else "0", right=True),
        *fields(four_decimals, {f"P({token_label(target)})": "p_target"}),
        *fields(four_decimals, {f"P({token_label(against)})": "p_against"}),
    ]
    yield from table_section("", columns, [result.clean, result.corrupt], RESTORED)


def _list_of_pairs(result: PairsResult) -> Iterator[Section]:
    runs = (run for pair in result.pairs for run in (pair.clean, pair.corrupt))
    notes = list(dict.fromkeys(note for run in runs for note in run.notes))
    pairs = [("model", result.model), ("pairs", f"{len(result.pairs):,}")]
    if notes:
        more = f"; {counted(len(notes) - 1, 'more note')} in --json" * (len(notes) > 1)
        pairs.append(("note", notes[0] + more))
    yield Section([Labelled(pairs)])
    columns = [
        *fields(str, {"clean": "clean.text", "corrupted": "corrupt.text"}, right=False, wrap=True),
        Column("target", lambda p: shown_token(p.contrast.target_label)),
        Column("against", lambda p: shown_token(p.contrast.against_label)),
        *fields("{:.2f}".format, {"clean": "clean.difference", "corrupted": "corrupt.difference"}),
    ]
    left = len(result.pairs) - MAX_PAIRS
    more = f"; {counted(left, 'more pair')}, --json has all of them" if left > 0 else ""
    legend = f"columns at the right: logit(target) - logit(against) of each run{more}; {RESTORED}"
    yield from table_section("", columns, result.pairs[:MAX_PAIRS], legend)


def _heads_of(pairs: Sequence[PatchedPair]) -> Heads:
    """Return the lines above the columns of positions: the clean tokens, and the corrupted tokens that differ
    from the clean tokens. A token that is not the same in all pairs is omitted."""
    clean, corrupt = [p.clean.labels for p in pairs], [p.corrupt.labels for p in pairs]

    def corrupted(position: int) -> str:
        token = _common(corrupt, position)
        return token if token != _common(clean, position) else ""

    return [("clean", lambda position: _common(clean, position)), ("corrupted", corrupted)]


def _common(labels: Sequence[Sequence[str]], position: int) -> str:
    tokens = {row[position] for row in labels if position < len(row)}
    return token_label(tokens.pop()) if len(tokens) == 1 else ""


def _tables(
    cells: Sequence[Any], title: str, value: Value, heads: Heads, findings: bool = True
) -> Iterator[Section]:
    """Return a grid for each kind of site. If `findings` is set, add sentences about the values."""
    tables = tables_of(cells)
    values = (value(cell) for table in tables for _, row in table.rows for cell in row if cell)
    end = max([1.0, *(abs(number) for number in values if number is not None and math.isfinite(number))])
    for table in tables:
        by_position = table.across == "position"
        lines: Heads = [(table.across, str), *(heads if by_position else [])]
        lines = _receiver_lines(table.receivers) if table.across == "receiver" else lines
        grid = Grid(
            heads=[(head, [text(column) for column in table.columns]) for head, text in lines],
            numbers=table.receivers if table.across == "receiver" else table.columns,
            rows=[(label, [None if c is None else value(c) for c in row]) for label, row in table.rows],
            about=[["" if cell is None else cell.about for cell in row] for _, row in table.rows],
            end=end,
        )
        blocks = [grid, *(_findings(table, value, heads) if findings else ())]
        if table.across == "receiver" and any(None in row for _, row in table.rows):
            blocks.append(words("–: the receiver does not come after the sender"))
        yield Section(blocks, title, title_of(table))


def _receiver_lines(receivers: Sequence[str]) -> Heads:
    """Return the header lines of receivers. The parts of a name stand on separate lines: layer23, attn, q."""
    parts = zip_longest(*(name.split(".") for name in receivers), fillvalue="")
    lines: Heads = [("receiver" * (n == 0), line.__getitem__) for n, line in enumerate(parts)]
    return [("receiver", lambda column: ""), *lines]  # pages join all lines but the first


def _findings(table: PatchTable[Any], value: Value, heads: Heads) -> Iterator[Words]:
    """Describe where the residual stream restores more than half, and between which layers the effect moves
    to another position. For other events, or if no position restores more than half, name the sites with the
    largest values."""
    runs = list(runs_above(table, HALF, value)) if table.kind in leaving_kinds() else []
    for column, of_column in runs:
        rows = ", ".join(first if first == last else f"{first} to {last}" for first, last in of_column)
        tokens = "/".join(text for _, token in heads if (text := token(column)))
        place = f"position {column} {tokens}".rstrip()
        yield words(f"{place} restores more than half of the difference: {rows}")
    for here, there, before, after in moves(table, HALF, value) if runs else ():
        move = f"between {before} and {after} the effect moves from position {here} to {there}"
        yield words(move + _heads_hint(before, after))
    if not runs:
        yield words(_largest([cell for _, row in table.rows for cell in row if cell], value))


def _heads_hint(before: str, after: str) -> str:
    """Return a hint about the heads of the layer `after`, if this layer follows right after the row `before`.
    Then only the heads of this layer can have moved the effect."""
    layer = after.removeprefix("layer ")
    next_to = layer == "0" or (layer.isdigit() and before == f"layer {int(layer) - 1}")
    return f"; --sites 'layer{layer}.attn.head*' shows which heads move the effect" if next_to else ""


def _largest(cells: Sequence[Spot], value: Value) -> str:
    values = [(value(cell), cell) for cell in cells]
    finite = [(number, cell) for number, cell in values if number is not None and math.isfinite(number)]
    finite.sort(key=lambda pair: -abs(pair[0]))
    largest = [pair for pair in finite[:LEADING] if abs(pair[0]) >= LEAST] or finite[:1]
    sites = ", ".join(f"{cell.about} {two_decimals(number)}" for number, cell in largest)
    return f"largest: {sites}" if sites else "no value is finite"


def _list(
    title: str, cells: Sequence[Any], figures: Sequence[Column], aside: str = "", count: int = 0
) -> list[Section]:
    """Return a table of cells. The title says if these are only the largest of `count` cells."""
    columns = [Column("sender" if aside else "site", attrgetter("site"), whole=True), *figures]
    aside = f"the largest {len(cells)} of {count:,}" if count > len(cells) else aside
    return table_section(title, columns, cells, about=attrgetter("about"), aside=aside)


def _bar(restored: Value) -> Column:
    return Column("", lambda cell: Bar(restored(cell) or 0.0, 20), bar=True, style="cyan")


def _check(pairs: Sequence[Any]) -> Section:
    """Return the line of the self-check, with the largest deviation of all pairs or prompts."""
    worst = max((pair.check for pair in pairs), key=lambda c: _off(c.deviation) / c.tolerance)
    passed = sum(pair.check.holds is True for pair in pairs)
    style = "green" if passed == len(pairs) else "bold red"
    head = "Self-check holds" if passed == len(pairs) else "Self-check FAILED"
    many = f" in {passed:,} of {len(pairs):,}" if len(pairs) > 1 else ""
    deviation, allowed = two_apart(_off(worst.deviation), worst.tolerance)
    off = f"off by {deviation} {SHARES[worst.id]}, allowed {allowed}"
    detail = f"; {worst.detail}" if worst.detail else ""
    return Section([words(f"{head}{many}: {worst.claim}{detail} ({off})", style)])


def _off(deviation: float | None) -> float:
    return math.inf if deviation is None or math.isnan(deviation) else deviation
