"""What a notebook makes of a result's HTML, by a parser that shares nothing with what writes it."""

import re
from html.parser import HTMLParser
from itertools import groupby
from typing import NamedTuple

VOID = {"img", "br", "hr", "input", "meta", "link"}

# What JupyterLab 4 keeps of a notebook that is not trusted, as far as we use it.
KEPT_TAGS = {
    "div", "p", "span", "small", "code", "dl", "dt", "dd", "ul", "li", "details", "summary", "table",
    "caption", "thead", "tbody", "tr", "th", "td",
}  # fmt: skip
CELL = {"colspan", "rowspan", "scope"}
KEPT_ATTRIBUTES = {"*": {"style", "title"}, "details": {"open"}, "td": CELL, "th": CELL}
DROPPED = {"tabindex", "role", "aria-label", "data-share"}  # which nothing is the worse for
KEPT_STYLES = {
    "background", "background-color", "border", "border-bottom", "border-collapse", "color", "cursor",
    "display", "flex-wrap", "font-family", "font-size", "font-weight", "gap", "grid-column",
    "grid-template-columns", "height", "line-height", "margin", "margin-left", "margin-top", "max-width",
    "opacity", "overflow-wrap", "overflow-x", "overflow-y", "padding", "padding-left", "text-align",
    "vertical-align", "white-space", "width",
}  # fmt: skip


INLINE = ("span", "small", "code")


class Piece(NamedTuple):
    """A text with the elements around it, each as its tag and attributes."""

    text: str
    around: tuple[tuple[str, dict], ...]


def block_of(piece):
    """The element that a text is a line of."""
    return next((element for element in reversed(piece.around) if element[0] not in INLINE), None)


class Parsed(HTMLParser):
    """All elements, and the pieces of text in them."""

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
        """All of it, with a blank between blocks."""
        blocks = groupby(self.pieces, key=lambda piece: id(block_of(piece)))
        return " ".join("".join(piece.text for piece in pieces) for _, pieces in blocks)

    def of(self, tag):
        """The attributes of each element of that tag."""
        return [attributes for own, attributes in self.elements if own == tag]


def styles(attributes):
    """The declarations of an element."""
    said = [part.split(":", 1) for part in (attributes.get("style") or "").split(";") if part.strip()]
    return {name.strip(): value.strip() for name, value in said}


def stripped_of(parsed):
    """What of it a notebook that does not trust it takes away, and would be missed."""
    for tag, attributes in parsed.elements:
        if tag not in KEPT_TAGS:
            yield tag
        for name in set(attributes) - DROPPED - KEPT_ATTRIBUTES["*"] - KEPT_ATTRIBUTES.get(tag, set()):
            yield f"{tag} {name}"
        yield from (f"style {name}" for name in styles(attributes) if name not in KEPT_STYLES)


def color_of(text):
    """rgb() or rgba() as red, green, blue and opacity."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", text)]
    assert text.startswith(("rgb(", "rgba(")), text
    return (*numbers[:3], numbers[3] if len(numbers) == 4 else 1.0)


def laid_over(color, below):
    """A colour [4] on an opaque one [3]."""
    *own, opacity = color
    return tuple(opacity * a + (1 - opacity) * b for a, b in zip(own, below, strict=True))


def ink_and_paper(piece, ink, paper):
    """The colours of a text and of what is behind it, where a page has these."""
    opacity = 1.0
    for _, attributes in piece.around:
        own = styles(attributes)
        if own.get("background-color"):
            paper = laid_over(color_of(own["background-color"]), paper)
        if own.get("color", "inherit") != "inherit":
            ink = color_of(own["color"])[:3]
        opacity *= float(own.get("opacity", 1))
    return laid_over((*ink, opacity), paper), paper
