"""The page of a result as sections: maps become pictures, and what a name is about leads to a command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...text.printable import on_one_line
from ..sections import ElementCell, Grid, Section, Table
from .markup import Markup, element
from .page import page
from .page_view import PageView
from .section_markup import section_markup

LONG, LONG_LINE = 60, 240  # characters of a title and a command from which on it is small, or a box


def section_page(
    title: str, line: str, sections: Sequence[Section],
    command: Callable[[str], str], view: PageView,
) -> str:  # fmt: skip
    """One file. `line` is the command that made it, `command` gives what shows more of a name."""
    anchors = {number: anchor for number, (anchor, _) in view.tabs.items()}
    shown = cards(sections, anchors)
    at = view.before - 1
    body = [*shown[:at], element("div", id="views"), *shown[at:]]
    if view.tabs:
        body.insert(min(view.tabs) - 1 + (min(view.tabs) > at), _tabs(view.tabs.values()))
    names = dict.fromkeys([*names_in(sections), *view.names])
    content = {
        **view.content,
        "commands": {name: command(name) for name in names},
        "grids": list(maps_in(sections)),
        "added": [
            {"section": anchors.get(number, f"section-{number}"), "grids": grids}
            for number, grids in view.added.items()
        ],
        "facts": view.facts,
    }
    main = element("main", element("div", *body, id="said", class_="column"))
    whole = [header(title, line), main, *reading()]
    return page(f"{on_one_line(title)} · microgpt", whole, content, view.arrays, view.script)


def _tabs(tabs: Iterable[tuple[str, str]]) -> Markup:
    links = [element("a", label, href=f"#{anchor}") for anchor, label in tabs]
    return element("nav", *links, id="tabs", class_="buttons", aria_label="positions")


def header(title: str, line: str, *below: Markup) -> Markup:
    """The title, the command, and what a page shows before all else."""
    long = {"class_": "long", "tabindex": "0"} if len(title) > LONG else {}  # a box to scroll in
    top = element(
        "div",
        element("h1", on_one_line(title), **long),
        element("button", "colours: auto", type="button", id="theme"),
        element("button", "?", type="button", id="help", aria_label="keys"),
        class_="top",
    )
    command = {"class_": "command long", "tabindex": "0"} if len(line) > LONG_LINE else {"class_": "command"}
    return element("header", top, element("p", element("code", line), **command), *below)


def reading(aria_live: str = "polite") -> list[Markup]:
    """The bar in which a page says what is chosen, and the list of its keys. "off": its views read that."""
    bar = element("output", id="reading", aria_live=aria_live)
    return [element("dialog", id="keys", aria_label="Keys"), bar]


def cards(sections: Sequence[Section], anchors: Mapping[int, str] | None = None) -> list[Markup]:
    """Each section with an address of its own: that of its number, if it has one."""
    named = anchors or {}
    return [
        section_markup(own, named.get(number, f"section-{number}")) for number, own in enumerate(sections, 1)
    ]


def names_in(sections: Sequence[Section]) -> Iterator[str]:
    """What rows and cells are about."""
    for block in (block for own in sections for block in own.blocks):
        if isinstance(block, Grid):
            yield from (name for row in block.about for name in row if name)
        elif isinstance(block, Table):
            yield from _names_of(block)


def _names_of(table: Table) -> Iterator[str]:
    for row in table.rows:
        if table.about and (name := table.about(row)):
            yield name
        cells = (column.cell(row) for column in table.columns)
        yield from (cell.about for cell in cells if isinstance(cell, ElementCell) and cell.about)


def maps_in(sections: Sequence[Section]) -> Iterator[dict[str, Any]]:
    """Every map, in the order of the page."""
    for own in sections:
        yield from (_map(block, own.aside or own.title) for block in own.blocks if isinstance(block, Grid))


def _map(grid: Grid, title: str) -> dict[str, Any]:
    """A column is called by its tokens, or by what it counts."""
    first, *others = grid.heads
    columns = range(len(grid.numbers))
    return {
        "title": title,
        "rows": [label for label, _ in grid.rows],
        "columns": ["/".join(row[n] for _, row in others if row[n]) or first[1][n] for n in columns],
        "across": [", ".join(f"{label} {row[n]}" for label, row in grid.heads if row[n]) for n in columns],
        "values": [values for _, values in grid.rows],
        "end": grid.end,
        "names": grid.about or [[""] * len(grid.numbers) for _ in grid.rows],
    }
