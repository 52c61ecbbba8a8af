"""A result as a notebook shows it: its sections as tables, long ones folded, and of a trace its page in a
frame, from which it reaches nothing.

A notebook that does not trust a result strips SVG and style sheets. So drawings are the characters that a
terminal shows, and styles stand in the elements themselves. Background and ink are the notebook's, light or
dark; a ground of our own lets enough of both through.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from ..architecture.model import LanguageModel
from ..errors import MicrogptError
from ..text.printable import command, on_one_line
from ..tracing.result import Trace
from .characters import bar, dot_plot, signed_bar, sparkline
from .page.markup import Drawings, Markup, element
from .page.section_markup import SHADES, block_markup, classes
from .sections import Block, Labelled, Section, Table, Words, words
from .shown import sections_of

WIDTH = 110  # characters of a line, or nearly so
LONG = 40  # lines of a section that is folded until somebody opens it
LONG_ABOVE_PAGE = 16  # the same where a page below has it too
MOST = 2_000_000  # characters of a page that a notebook is given
EACH = 4.55  # characters of a number in a page
UNSAVED = "MODEL"  # stands in command lines for the file of a model that is in none
SAVE_IT = f"{UNSAVED}, in command lines: the file that save(model, ...) writes."


def result_html(result: Any) -> str:
    """The whole of it, as the plain text that marimo asks for. What a notebook strips that does not trust it
    (the frame) comes last."""
    try:
        sections = sections_of(result)
    except MicrogptError as error:  # a model's vocabulary is not read before
        sections = [Section([words(str(error), "bold red")])]
    page, said = Markup(), list[Markup]()
    if isinstance(result, Trace) and result.traced_model is not None:
        page = _framed_page(result, result.traced_model, sections)
        said = _about_page(result, result.traced_model, framed=bool(page))
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


def _framed_page(trace: Trace, model: LanguageModel, sections: Sequence[Section]) -> Markup:
    """The page in its frame, where its scripts run as a stranger's: it has neither the notebook's address nor
    its network. Nothing where a page would show no numbers (it runs a microGPT itself), or too many."""
    held = sum(array.size for array in trace.arrays.values())
    if "gradients" in model.abilities:
        held += model.config.parameter_count
    if not 0 < held * EACH <= MOST:
        return Markup()
    from .page.trace_page import trace_page

    made_by = f"trace of {on_one_line(trace.input.text) or 'tokens'}, {on_one_line(model.origin)}"
    text, tokens = _read(trace, model)
    again = {"before": [_file_of(model)], "text": text, "after": tokens}
    page = trace_page(trace, model, sections, made_by, again)
    title = escape(f"microgpt trace: {on_one_line(trace.input.text)}")
    frame = f'<iframe title="{title}" class="frame" sandbox="allow-scripts" srcdoc="{escape(page)}"></iframe>'
    return Markup(frame if len(page) <= MOST else "")


def _about_page(trace: Trace, model: LanguageModel, framed: bool) -> list[Markup]:
    """The command that writes the page where it is not there, and what stands in it or on the page for a
    file."""
    file, (text, tokens) = _file_of(model), _read(trace, model)
    words = [file] if text is None else [file, text]
    line = command("trace", words, [*tokens, "--html", "trace.html"])
    said = [] if framed else [element("p", "Every number on a page: ", element("code", line))]
    return [*said, *[element("p", element("small", SAVE_IT))] * (file == UNSAVED)]


def _read(trace: Trace, model: LanguageModel) -> tuple[str | None, list[str]]:
    """The text that a command reads, or the option that has its tokens, whatever these were made of: a text
    that a template was put around, for one."""
    if "prompts" not in model.abilities:
        return trace.input.text, []
    return None, ["--tokens", ",".join(map(str, trace.input.tokens))]


def _file_of(model: LanguageModel) -> str:
    """The file that the model was read from, if it is there."""
    with suppress(OSError, ValueError):
        if model.origin and Path(model.origin).exists():
            return model.origin
    return UNSAVED


def _drawn(text: str) -> Markup:
    return element("span", text, class_="drawn")


BAR, SIGNED, SPARK, PLOT = 12, 21, 30, 100  # characters of each drawing
IN_NOTEBOOK = Drawings(
    share_bar=lambda share: _drawn(bar(share, BAR)),
    signed_bar=lambda value, scale: _drawn(signed_bar(value, scale, SIGNED)),
    sparkline=lambda values: _drawn(sparkline(values, SPARK)),
    dots=lambda plot: element("div", *(element("div", line) for line in dot_plot(plot, PLOT)), class_="plot"),
    reference=lambda shown, name: element("span", shown, title=name),  # there is nowhere to lead to
)


MONO = "font-family: Menlo, Consolas, 'DejaVu Sans Mono', monospace"
DIM = "opacity: .75"  # of the ink that the notebook has
FAINT, LINE = "rgba(127, 127, 127, .18)", "rgba(127, 127, 127, .45)"
OWN = "rgb(74, 134, 216)"
STRONGEST = 0.5  # opacity of the darkest shade, on which the notebook's ink can still be read
SHADE = "rgba(74, 134, 216, {:.3f})"

STYLES = {
    "p": "margin: 2px 0; overflow-wrap: anywhere",
    "details": "margin: 6px 0",
    "summary": "cursor: pointer",
    "small": DIM,
    "code": f"{MONO}; font-size: 12px; color: inherit; background-color: {FAINT}; padding: 1px 4px",
    "dl": "margin: 2px 0",
    "dt": f"margin: 0; font-weight: normal; {DIM}",
    "dd": "grid-column: 2; margin: 0; overflow-wrap: anywhere",
    "ul": "margin: 2px 0 2px 20px; padding: 0",
    "table": f"border-collapse: collapse; margin: 2px 0; {MONO}; font-size: 12px; color: inherit",
    "thead": f"border-bottom: 1px solid {LINE}",
    "tr": "background: none",
    "caption": f"text-align: left; padding: 0 8px 0 0; color: inherit; {DIM}",
    "th": f"padding: 1px 8px; text-align: left; font-weight: normal; border: none; {DIM}",
    "td": "padding: 1px 8px; text-align: left; vertical-align: top; border: none",
    ".n": "text-align: right; white-space: nowrap",
    ".whole": "white-space: nowrap",
    ".wide": "overflow-x: auto; overflow-y: hidden; max-width: 100%",
    ".planes": "display: flex; flex-wrap: wrap; gap: 12px",
    ".fact": "display: grid; grid-template-columns: 108px auto",
    ".indented": "padding-left: 20px",
    ".result": "font-size: 13px; line-height: 1.4",
    ".section": "margin: 6px 0",
    ".title": "font-weight: 600",
    ".frame": f"width: 100%; height: 640px; border: 1px solid {LINE}; margin-top: 6px",
    ".is-bold": "font-weight: 600",
    ".is-dim": DIM,
    ".is-red": "background-color: rgba(220, 50, 40, .3)",
    ".is-green": "background-color: rgba(40, 160, 90, .3)",
    ".drawn": f"white-space: pre; {MONO}; color: {OWN}",
    ".plot": f"white-space: pre; {MONO}; font-size: 12px",
    **{f".shade-{n}": f"background-color: {SHADE.format(STRONGEST * n / SHADES)}" for n in range(SHADES + 1)},
}
_START = re.compile(r"<(\w+)((?: [\w-]+(?:=\"[^\"]*\")?)*)>")
_CLASS, _STYLE = re.compile(r' class="([^"]*)"'), re.compile(r' style="([^"]*)"')


def with_styles_inline(markup: Markup) -> Markup:
    """The markup with the styles of its tags and classes in each element, and without the classes."""
    return Markup(_START.sub(_styled, markup))


def _styled(start: re.Match[str]) -> str:
    tag, attributes = start.groups()
    classes, own = _CLASS.findall(attributes), _STYLE.findall(attributes)
    names = (tag, *(f".{name}" for found in classes for name in found.split()))
    said = _merged("; ".join([*(STYLES[name] for name in names if name in STYLES), *own]))
    rest = _STYLE.sub("", _CLASS.sub("", attributes))
    return f'<{tag}{rest} style="{said}">' if said else f"<{tag}{rest}>"


def _merged(declarations: str) -> str:
    """Of several declarations of one property the last."""
    found = dict(part.split(": ", 1) for part in declarations.split("; ") if part)
    return "; ".join(f"{name}: {value}" for name, value in found.items())
