"""The script and the style of pages, from the files that hold them."""

from __future__ import annotations

import re
from functools import cache
from graphlib import TopologicalSorter
from importlib.resources import files

FOLDER = files(__package__)
_IMPORT = re.compile(r'^import \{ ([^}]+) \} from "\./([a-z_]+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (\w+))", re.MULTILINE)
_COMMENT = re.compile(r"^\s*(?://.*|/\*\*(?:.|\n)*?\*/)\n|(?<=[;{,]) //.*$", re.MULTILINE)
_STYLE_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_STYLE_BLANKS = re.compile(r";? ?([{};,>]) ?|(?<=:) ")
_INDENT = re.compile(r"\n\s+")


@cache
def style() -> str:
    """The style sheet, without comments and blanks that say nothing."""
    text = _STYLE_COMMENT.sub("", FOLDER.joinpath("style.css").read_text("utf-8"))
    return _STYLE_BLANKS.sub(r"\1", " ".join(text.split()))


@cache
def starter() -> str:
    """What unpacks a script and runs it."""
    return _plain(FOLDER.joinpath("script", "starter.js").read_text("utf-8"))


@cache
def script(main: str) -> str:
    """A module and all that it imports as one script, without comments: each in a function of its own."""
    sources = _with_imports(main)
    order = TopologicalSorter(
        {name: [own for _, own in _IMPORT.findall(text)] for name, text in sources.items()}
    )
    modules = "\n".join(_as_function(name, sources[name]) for name in order.static_order())
    return f'"use strict";\n(() => {{\nconst M = {{}};\n{modules}\n}})();\n'


def _with_imports(main: str) -> dict[str, str]:
    """The text of a module and of all that it imports, by name."""
    found: dict[str, str] = {}
    names = [main]
    for name in names:
        if name not in found:
            found[name] = FOLDER.joinpath("script", f"{name}.js").read_text("utf-8")
            names += [own for _, own in _IMPORT.findall(found[name])]
    return found


def _as_function(name: str, text: str) -> str:
    exports = ", ".join(_EXPORT.findall(text))
    body = _IMPORT.sub(r"const { \1 } = M.\2;", _EXPORT.sub("", _plain(text)))
    return f"M.{name} = (() => {{\n{body}return {{ {exports} }};\n}})();"


def _plain(text: str) -> str:
    """A program without comments and indentation."""
    return _INDENT.sub("\n", _COMMENT.sub("", text))
