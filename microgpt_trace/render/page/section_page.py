"""The page of a result as sections: maps become pictures, and what a name is about leads to a command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...text.printable import on_one_line
from ..sections import Section
from .frame import cards, header, reading
from .markup import Markup, element
from .page import page
from .page_view import NOTHING, PageView
from .section_data import maps_in, names_in


def section_page(
    title: str, line: str, sections: Sequence[Section],
    command: Callable[[str], str] | None = None, view: PageView = NOTHING,
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
        "commands": {} if command is None else {name: command(name) for name in names},
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
