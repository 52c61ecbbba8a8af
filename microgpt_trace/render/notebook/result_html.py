"""A result as a notebook shows it: its sections as tables, long ones folded, and of a trace its page in a
frame, from which it reaches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from ...architecture.model import LanguageModel
from ...errors import MicrogptError
from ...text.command_lines import command
from ...text.printable import on_one_line
from ...tracing.result import Trace
from ..page.markup import Markup, element
from ..page.section_markup import block_markup, classes
from ..sections import Block, Labelled, Section, Table, Words, words
from ..shown import sections_of
from .markup import IN_NOTEBOOK, with_styles_inline

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


MOST = 2_000_000  # characters of a page that a notebook is given
EACH = 4.55  # characters of a number in a page
UNSAVED = "MODEL"  # stands in command lines for the file of a model that is in none
SAVE_IT = f"{UNSAVED}, in command lines: the file that save(model, ...) writes."


def framed_page(trace: Trace, sections: Sequence[Section]) -> Markup:
    """The page in its frame; nothing where there is none that a notebook can bear."""
    model = trace.traced_model
    if model is None or not _is_shown(trace, model):
        return Markup()
    page = _page(trace, model, sections)
    return _frame(page, trace) if len(page) <= MOST else Markup()


def about_page(trace: Trace, framed: bool) -> list[Markup]:
    """The command that writes the page where it is not there, and what stands in it or on the page for a
    file."""
    model = trace.traced_model
    if model is None:
        return []
    said = [] if framed else [element("p", "Every number on a page: ", _command_line(trace, model))]
    return said if _file_of(model) != UNSAVED else [*said, element("p", element("small", SAVE_IT))]


def _is_shown(trace: Trace, model: LanguageModel) -> bool:
    """Whether a page would show numbers, and not too many: it runs a microGPT itself."""
    held = sum(array.size for array in trace.arrays.values())
    if "gradients" in model.abilities:
        held += model.config.parameter_count
    return 0 < held * EACH <= MOST


def _page(trace: Trace, model: LanguageModel, sections: Sequence[Section]) -> str:
    from ..page.trace_page import trace_page

    made_by = f"trace of {on_one_line(trace.input.text) or 'tokens'}, {on_one_line(model.origin)}"
    text, tokens = (None, _tokens(trace)) if "prompts" in model.abilities else (trace.input.text, [])
    return trace_page(
        trace, model, sections, made_by, {"before": [_file_of(model)], "text": text, "after": tokens}
    )


def _frame(page: str, trace: Trace) -> Markup:
    """Scripts run in it, as of a stranger: it has neither the notebook's address nor its network."""
    title = f"microgpt trace: {on_one_line(trace.input.text)}"
    said = f'title="{escape(title)}" class="frame" sandbox="allow-scripts"'
    return Markup(f'<iframe {said} srcdoc="{escape(page)}"></iframe>')


def _command_line(trace: Trace, model: LanguageModel) -> Markup:
    words, options = [_file_of(model), trace.input.text], ["--html", "trace.html"]
    if "prompts" in model.abilities:
        words, options = words[:1], [*_tokens(trace), *options]
    return element("code", command("trace", words, options))


def _tokens(trace: Trace) -> list[str]:
    """What was read, whatever it was made of: a text that a template was put around, for one."""
    return ["--tokens", ",".join(map(str, trace.input.tokens))]


def _file_of(model: LanguageModel) -> str:
    """The file that the model was read from, if it is there."""
    with suppress(OSError, ValueError):
        if model.origin and Path(model.origin).exists():
            return model.origin
    return UNSAVED
