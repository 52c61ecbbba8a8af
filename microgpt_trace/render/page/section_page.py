"""The page of a result as sections, which needs no script but for colours and copying."""

from __future__ import annotations

from collections.abc import Sequence

from ...text.printable import on_one_line
from ..sections import Section
from .frame import cards, header
from .markup import element
from .page import page


def section_page(title: str, line: str, sections: Sequence[Section]) -> str:
    """One file. `line` is the command that made it."""
    main = element("main", element("div", *cards(sections), id="said", class_="column"))
    return page(f"{on_one_line(title)} · microgpt", [header(title, line), main], {}, main="sections")
