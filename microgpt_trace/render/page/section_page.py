"""Write the page of a result. Maps become pictures, and each name leads to a command that shows more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ...text.printable import on_one_line
from ..sections import ElementCell, Grid, Section, Table
from .markup import Markup, element
from .page import page
from .page_view import PageView
from .section_markup import section_markup

LONG, LONG_LINE = 60, 240  # longer titles have a small font, and longer commands can be scrolled


def section_page(
    title: str, line: str, sections: Sequence[Section],
    command: Callable[[str], str], view: PageView,
) -> str:  # fmt: skip
    """Return the HTML of a result's page. `line` is the command that wrote the page. `command(name)` returns
    a command that shows more about the name."""
    anchors = {number: anchor for number, (anchor, _) in view.tabs.items()}
    shown = cards(sections, anchors)
    at = view.before - 1
    body = [*shown[:at], element("div", id="views"), *shown[at:]]
    if view.tabs:
        links = [element("a", label, href=f"#{anchor}") for anchor, label in view.tabs.values()]
        tabs = element("nav", *links, id="tabs", class_="buttons", aria_label="positions")
        body.insert(min(view.tabs) - 1 + (min(view.tabs) > at), tabs)
    names = dict.fromkeys([*names_in(sections), *view.names])
    content = {
        **view.content,
        "commands": {name: command(name) for name in names},
        "grids": [_map(map_, own) for own in sections for map_ in own.blocks if isinstance(map_, Grid)],
        "added": [
            {"section": anchors.get(number, f"section-{number}"), "grids": grids}
            for number, grids in view.added.items()
        ],
        "facts": view.facts,
    }
    main = element("main", element("div", *body, id="results", class_="column"))
    everything = [header(title, line), main, *footer()]
    return page(f"{on_one_line(title)} · microgpt", everything, content, view.arrays, view.script)


def header(title: str, line: str, *below: Markup) -> Markup:
    """Return the header of a page: the title, the command if there is one, and the elements `below`."""
    long = {"class_": "long", "tabindex": "0"} if len(title) > LONG else {}  # keys can scroll a long title
    top = element(
        "div",
        element("h1", on_one_line(title), **long),
        element("button", "colours: auto", type="button", id="theme"),
        element("button", "?", type="button", id="help", aria_label="keyboard help"),
        class_="top",
    )
    command = {"class_": "command long", "tabindex": "0"} if len(line) > LONG_LINE else {"class_": "command"}
    shown = [element("p", element("code", line), **command)] if line else []
    return element("header", top, *shown, *below)


def footer(aria_live: str = "polite") -> list[Markup]:
    """Return the dialog that lists the keys, and the bar that shows the chosen element. `aria_live` is "off"
    if the views of the page announce the chosen element to screen readers."""
    bar = element("output", id="reading", aria_live=aria_live)
    return [element("dialog", id="keys", aria_label="Keyboard help"), bar]


def cards(sections: Sequence[Section], anchors: Mapping[int, str] | None = None) -> list[Markup]:
    """Return the HTML of each section. The id of a section is its anchor in `anchors`, or "section-N"."""
    named = anchors or {}
    return [section_markup(section, named.get(n, f"section-{n}")) for n, section in enumerate(sections, 1)]


def names_in(sections: Sequence[Section]) -> Iterator[str]:
    """Yield the names of events, sites and heads in rows and cells."""
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Grid):
            yield from (name for row in block.about for name in row if name)
        elif isinstance(block, Table):
            for row in block.rows:
                if block.about and (name := block.about(row)):
                    yield name
                cells = (column.cell(row) for column in block.columns)
                yield from (cell.about for cell in cells if isinstance(cell, ElementCell) and cell.about)


def _map(grid: Grid, section: Section) -> dict[str, Any]:
    """Return the data of a map. The label of a column is its tokens or, without tokens, its number."""
    first, *others = grid.heads
    columns = range(len(grid.numbers))
    return {
        "title": section.aside or section.title,
        "rows": [label for label, _ in grid.rows],
        "columns": ["/".join(row[n] for _, row in others if row[n]) or first[1][n] for n in columns],
        "across": [", ".join(f"{label} {row[n]}" for label, row in grid.heads if row[n]) for n in columns],
        "values": [values for _, values in grid.rows],
        "end": grid.end,
        "names": grid.about or [[""] * len(grid.numbers) for _ in grid.rows],
    }
