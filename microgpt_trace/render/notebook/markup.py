"""Markup that a notebook leaves as it is: it strips SVG and style sheets.

Drawings are the characters that a terminal shows, and styles stand in the elements themselves. Background and
ink are the notebook's, light or dark; a ground of our own lets enough of both through.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from ..characters import bar, dot_plot, signed_bar, sparkline
from ..page.markup import Drawings, Markup, element
from ..page.section_markup import SHADES
from ..sections import DotPlot

BAR, SIGNED, SPARK, PLOT = 12, 21, 30, 100  # characters of each


def _drawn(text: str) -> Markup:
    return element("span", text, class_="drawn")


def _share_bar(share: float) -> Markup:
    return _drawn(bar(share, BAR))


def _signed_bar(value: float, scale: float) -> Markup:
    return _drawn(signed_bar(value, scale, SIGNED))


def _sparkline(values: Sequence[float | None]) -> Markup:
    return _drawn(sparkline(values, SPARK))


def _dots(plot: DotPlot) -> Markup:
    return element("div", *(element("div", line) for line in dot_plot(plot, PLOT)), class_="plot")


def _titled(shown: str, name: str) -> Markup:
    """A notebook has nowhere to lead to: the name shows where one points."""
    return element("span", shown, title=name)


IN_NOTEBOOK = Drawings(_share_bar, _signed_bar, _sparkline, _dots, _titled)


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


@lru_cache(4096)
def _merged(declarations: str) -> str:
    """Of several declarations of one property the last."""
    found = dict(part.split(": ", 1) for part in declarations.split("; ") if part)
    return "; ".join(f"{name}: {value}" for name, value in found.items())
