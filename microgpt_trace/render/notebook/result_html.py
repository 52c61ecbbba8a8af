"""A result as a notebook shows it: its sections as tables, long ones folded, and of a trace its page."""

from __future__ import annotations

from typing import Any

from ...errors import MicrogptError
from ...tracing.result import Trace
from ..page.markup import Markup, element
from ..page.section_markup import block_markup, classes
from ..sections import Block, Labelled, Section, Table, Words, words
from ..shown import sections_of
from .markup import IN_NOTEBOOK, with_styles_inline
from .trace_frame import about_page, framed_page

WIDTH = 110  # characters of a line, or nearly so
LONG = 40  # lines of a section that is folded until somebody opens it
LONG_ABOVE_PAGE = 16  # the same where a page below has it too


def result_html(result: Any) -> str:
    """The whole of it, as the plain text that marimo asks for. What a notebook strips that does not trust it
    (the frame) comes last."""
    try:
        sections = sections_of(result)
    except MicrogptError as error:  # a model's vocabulary is not read before
        sections = [Section([words(str(error), "bold red")])]
    page, said = Markup(), list[Markup]()
    if isinstance(result, Trace):
        page = framed_page(result, sections)
        said = about_page(result, framed=bool(page))
    most = LONG_ABOVE_PAGE if page else LONG
    shown = (_section(section, most) for section in sections)
    return str(with_styles_inline(element("div", *shown, page, *said, class_="result")))


def _section(section: Section, most: int) -> Markup:
    """A section that folds under its title, and is folded where it has more lines than that."""
    blocks = [block_markup(block, IN_NOTEBOOK) for block in section.blocks]
    lines = sum(map(_line_count, section.blocks))
    title = section.title or (f"{lines:,} lines" if lines > most else "")
    head = [element("span", title, class_=f"title {classes(section.style)}")] if title else []
    aside = [element("small", f" {section.aside}")] if section.aside else []
    if head and blocks:
        return element("details", element("summary", *head, *aside), *blocks, open=lines <= most)
    return element("div", *head, *aside, *blocks, class_="section")


def _line_count(block: Block) -> int:
    """As many lines as it has, or nearly so."""
    if isinstance(block, Table):
        return len(block.rows)
    if isinstance(block, Words):
        return 1 + sum(len(text) for text, _ in block.spans) // WIDTH
    return len(block.pairs) if isinstance(block, Labelled) else 1
