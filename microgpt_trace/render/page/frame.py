"""What every page has: its head with the command that made it, and sections as cards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...text.printable import on_one_line
from ..sections import Section
from .markup import Markup, element
from .section_markup import section_markup

LONG, LONG_LINE = 60, 240  # characters of a title and a command from which on it is small, or a box


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
