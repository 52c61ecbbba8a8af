"""Markup: elements of a page from text that comes from strangers. Knows no section."""

from __future__ import annotations

from html import escape

from ...text.printable import on_one_line


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def text(content: str) -> Markup:
    """Content as text: nothing of it is markup, and what has no shape of its own is spelled out."""
    return Markup(escape(on_one_line(content)))


def element(tag: str, *children: str, **attributes: str | bool | None) -> Markup:
    """An element. Children that are no Markup are text; an attribute of None or False is left out, one of
    True has no value, and an underscore in its name is a dash (class_ is class)."""
    said = "".join(_attribute(name, value) for name, value in attributes.items())
    return Markup(f"<{tag}{said}>{inner(children)}</{tag}>")


def inner(children: tuple[str, ...] | list[str]) -> Markup:
    """Children one behind the other."""
    return Markup("".join(own if isinstance(own, Markup) else text(own) for own in children))


def _attribute(name: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(on_one_line(str(value)))}"'
