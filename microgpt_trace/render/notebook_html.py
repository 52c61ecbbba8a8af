"""Write the HTML of a result for a notebook. Long sections are folded. The page of a trace is shown in a
sandboxed frame.

A notebook strips SVG and style sheets from untrusted results. This HTML therefore draws bars and curves as
characters, and every element has inline styles. Backgrounds are translucent, so that they fit light and dark
notebooks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

from ..errors import MicrogptError
from ..models.language_model import LanguageModel
from ..text.printable import command, on_one_line
from ..tracing.result import Trace
from .characters import bar, dot_plot, signed_bar, sparkline
from .page.markup import Drawings, Markup, element
from .page.section_markup import SHADES, block_markup, classes
from .page.trace_page import trace_page
from .sections import Block, Labelled, Section, Table, Words, words
from .shown import sections_of

WIDTH = 110  # estimated number of characters per line
LONG = 40  # a section with more lines is folded
LONG_ABOVE_PAGE = 16  # a section with more lines is folded if the page below shows this section too
MOST = 2_000_000  # largest number of characters of a page in a notebook cell
EACH = 4.55  # average number of characters that a number takes in a page
UNSAVED = "MODEL"  # stands for the model's file in command lines if the model was not saved
SAVE_IT = f"In command lines, {UNSAVED} is the file that save(model, ...) writes."


def result_html(result: Any) -> str:
    """Return the HTML of a result as a plain str, because marimo requires a plain str. The frame comes last,
    because a notebook strips the frame of an untrusted result."""
    try:
        sections = sections_of(result)
    except MicrogptError as error:  # reading the vocabulary of a model may fail here
        sections = [Section([words(str(error), "bold red")])]
    page, hints = Markup(), list[Markup]()
    if isinstance(result, Trace) and result.traced_model is not None:
        page = _framed_page(result, result.traced_model, sections)
        hints = _page_hints(result, result.traced_model, framed=bool(page))
    most = LONG_ABOVE_PAGE if page else LONG
    body = (_section(section, most) for section in sections)
    return str(with_styles_inline(element("div", *body, page, *hints, class_="result")))


def _section(section: Section, most: int) -> Markup:
    """Return a section that can be folded. A section of more than `most` lines is folded at first."""
    blocks = [block_markup(block, IN_NOTEBOOK) for block in section.blocks]
    lines = sum(map(_line_count, section.blocks))
    title = section.title or (f"{lines:,} lines" if lines > most else "")
    head = [element("span", title, class_=f"title {classes(section.style)}")] if title else []
    aside = [element("small", f" {section.aside}")] if section.aside else []
    if head and blocks:
        return element("details", element("summary", *head, *aside), *blocks, open=lines <= most)
    return element("div", *head, *aside, *blocks, class_="section")


def _line_count(block: Block) -> int:
    """Estimate the lines of a block."""
    if isinstance(block, Table):
        return len(block.rows)
    if isinstance(block, Words):
        return 1 + sum(len(text) for text, _ in block.spans) // WIDTH
    return len(block.pairs) if isinstance(block, Labelled) else 1


def _framed_page(trace: Trace, model: LanguageModel, sections: Sequence[Section]) -> Markup:
    """Return the page in a sandboxed frame. Scripts in the frame cannot access the notebook or the notebook's
    network. Returns empty markup if the page would show no numbers or too many numbers. The page of a
    microGPT also contains the parameters, and computes events from the parameters."""
    count = sum(array.size for array in trace.arrays.values())
    if model.trainable:
        count += model.config.parameter_count
    if not 0 < count * EACH <= MOST:
        return Markup()
    made_by = f"trace of {on_one_line(trace.input.text) or 'tokens'}, {on_one_line(model.origin)}"
    text, tokens = _input_arguments(trace, model)
    again = {"before": [_file_of(model)], "text": text, "after": tokens}
    page = trace_page(trace, model, sections, made_by, again)
    title = escape(f"microgpt trace: {on_one_line(trace.input.text)}")
    frame = f'<iframe title="{title}" class="frame" sandbox="allow-scripts" srcdoc="{escape(page)}"></iframe>'
    return Markup(frame if len(page) <= MOST else "")


def _page_hints(trace: Trace, model: LanguageModel, framed: bool) -> list[Markup]:
    """Return the command that writes the page, unless `framed`. Explain MODEL if the model has no file."""
    file, (text, tokens) = _file_of(model), _input_arguments(trace, model)
    words = [file] if text is None else [file, text]
    line = command("trace", words, [*tokens, "--html", "trace.html"])
    hints = [] if framed else [element("p", "Write a page with every number: ", element("code", line))]
    return [*hints, *[element("p", element("small", SAVE_IT))] * (file == UNSAVED)]


def _input_arguments(trace: Trace, model: LanguageModel) -> tuple[str | None, list[str]]:
    """Return the input text and options for a command line. For a production model, return the tokens in the
    option --tokens instead of a text, because a chat template may have changed the text."""
    if not model.takes_prompts:
        return trace.input.text, []
    return None, ["--tokens", ",".join(map(str, trace.input.tokens))]


def _file_of(model: LanguageModel) -> str:
    """Return the file of the model, or UNSAVED if the model has no file."""
    with suppress(OSError, ValueError):
        if model.origin and Path(model.origin).exists():
            return model.origin
    return UNSAVED


def _drawn(text: str) -> Markup:
    return element("span", text, class_="drawn")


BAR, SIGNED, SPARK, PLOT = 12, 21, 30, 100  # characters of a bar, a signed bar, a sparkline, a plot
IN_NOTEBOOK = Drawings(
    share_bar=lambda share: _drawn(bar(share, BAR)),
    signed_bar=lambda value, scale: _drawn(signed_bar(value, scale, SIGNED)),
    sparkline=lambda values: _drawn(sparkline(values, SPARK)),
    dots=lambda plot: element("div", *(element("div", line) for line in dot_plot(plot, PLOT)), class_="plot"),
    reference=lambda text, name: element("span", text, title=name),  # a notebook cannot link to a page
)

MONO = "font-family: Menlo, Consolas, 'DejaVu Sans Mono', monospace"
DIM = "opacity: .75"
FAINT, LINE = "rgba(127, 127, 127, .18)", "rgba(127, 127, 127, .45)"
OWN = "rgb(74, 134, 216)"
STRONGEST = 0.5  # opacity of the darkest shade, low enough to read the text
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
    ".frame": f"width: 100%; height: 820px; border: 1px solid {LINE}; margin-top: 6px",
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
    """Replace the classes of all elements by inline styles."""
    return Markup(_START.sub(_styled, markup))


def _styled(start: re.Match[str]) -> str:
    tag, attributes = start.groups()
    selectors = (tag, *(f".{name}" for group in _CLASS.findall(attributes) for name in group.split()))
    styles = [STYLES[name] for name in selectors if name in STYLES] + _STYLE.findall(attributes)
    declarations = (part.split(": ", 1) for part in "; ".join(styles).split("; ") if part)
    style = "; ".join(f"{name}: {value}" for name, value in dict(declarations).items())  # the last value wins
    rest = _STYLE.sub("", _CLASS.sub("", attributes))
    return f'<{tag}{rest} style="{style}">' if style else f"<{tag}{rest}>"
