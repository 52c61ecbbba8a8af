"""The HTML of a result as a notebook shows it, read by an independent parser."""

import re
from html.parser import HTMLParser
from itertools import groupby
from typing import NamedTuple

VOID = {"img", "br", "hr", "input", "meta", "link"}

# Tags, attributes and styles of ours that JupyterLab 4 keeps in a notebook that is not trusted.
KEPT_TAGS = {
    "div", "p", "span", "small", "code", "dl", "dt", "dd", "ul", "li", "details", "summary", "table",
    "caption", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
CELL = {"colspan", "rowspan", "scope"}
KEPT_ATTRIBUTES = {"*": {"style", "title"}, "details": {"open"}, "td": CELL, "th": CELL}
DROPPED = {"tabindex", "role", "aria-label", "data-share"}  # the text can be read without them
KEPT_STYLES = {
    "background", "background-color", "border", "border-bottom", "border-collapse", "color", "cursor",
    "display", "flex-wrap", "font-family", "font-size", "font-weight", "gap", "grid-column",
    "grid-template-columns", "height", "line-height", "margin", "margin-left", "margin-top", "max-width",
    "opacity", "overflow-wrap", "overflow-x", "overflow-y", "padding", "padding-left", "text-align",
    "vertical-align", "white-space", "width",
}  # fmt: skip

INLINE = ("span", "small", "code")


class Piece(NamedTuple):
    """A text and the elements around it, each as (tag, attributes)."""

    text: str
    around: tuple[tuple[str, dict], ...]


def block_of(piece):
    """Return the innermost block element around a text, or None."""
    return next((element for element in reversed(piece.around) if element[0] not in INLINE), None)


class Parsed(HTMLParser):
    """The elements of an HTML text, and its pieces of text."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.pieces, self._open = [], [], []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes))
        assert len(element[1]) == len(attributes), f"an attribute twice: {attributes}"
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        if data.strip():
            self.pieces.append(Piece(data, tuple(self._open)))

    def text(self):
        """Return the whole text, with a space between blocks."""
        blocks = groupby(self.pieces, key=lambda piece: id(block_of(piece)))
        return " ".join("".join(piece.text for piece in pieces) for _, pieces in blocks)

    def of(self, tag):
        """Return the attributes of all elements with a tag."""
        return [attributes for name, attributes in self.elements if name == tag]


def styles(attributes):
    """Return the style declarations of an element, by property."""
    pairs = [part.split(":", 1) for part in (attributes.get("style") or "").split(";") if part.strip()]
    return {name.strip(): value.strip() for name, value in pairs}


def stripped_parts(parsed):
    """Yield each necessary tag, attribute and style that JupyterLab removes from an untrusted notebook."""
    for tag, attributes in parsed.elements:
        if tag not in KEPT_TAGS:
            yield tag
        for name in set(attributes) - DROPPED - KEPT_ATTRIBUTES["*"] - KEPT_ATTRIBUTES.get(tag, set()):
            yield f"{tag} {name}"
        yield from (f"style {name}" for name in styles(attributes) if name not in KEPT_STYLES)


def color_of(text):
    """Parse rgb() or rgba() as red, green, blue and opacity."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", text)]
    assert text.startswith(("rgb(", "rgba(")), text
    return (*numbers[:3], numbers[3] if len(numbers) == 4 else 1.0)


def blend(color, below):
    """Blend a colour with opacity [4] and the opaque colour below it [3]."""
    *rgb, opacity = color
    return tuple(opacity * a + (1 - opacity) * b for a, b in zip(rgb, below, strict=True))


def ink_and_paper(piece, ink, paper):
    """Return the colour of a text and of its background, on a page with these default colours."""
    opacity = 1.0
    for _, attributes in piece.around:
        style = styles(attributes)
        if style.get("background-color"):
            paper = blend(color_of(style["background-color"]), paper)
        if style.get("color", "inherit") != "inherit":
            ink = color_of(style["color"])[:3]
        opacity *= float(style.get("opacity", 1))
    return blend((*ink, opacity), paper), paper
