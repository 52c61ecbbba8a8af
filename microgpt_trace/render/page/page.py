"""A page is one HTML file with its style, its script and its data.

The page loads no other file. The content security policy allows only the style and scripts of the page, by
their hashes. The main script is part of the packed data, and a short script unpacks and starts the main
script. The body can be read without scripts.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

import numpy as np

from ...arrays.stats import Array
from ...text.json_writing import dump
from ..colors import SCALES
from .markup import Markup, element


def page(
    title: str, body: Sequence[Markup], document: dict[str, Any], arrays: Mapping[str, Array], main: str
) -> str:
    """Return the HTML of a page with this body. The script `main` is called with `document` and `arrays`."""
    starter, style = _source("script/starter.js"), _scales() + _source("style.css")
    more_style = _types_of_scales() + _source("views.css")
    code = f"{ADD_STYLE}({dump(more_style)});\n{script(main)}"
    data = packed(document, arrays, code)
    scripts = [
        Markup(f'<script type="application/octet-stream" id="packed">{data}</script>'),
        Markup(f"<script>{starter}</script>"),
    ]
    policy = "; ".join([
        "default-src 'none'", f"script-src {_hash(starter)} {_hash(code)}",
        f"style-src {_hash(style)} {_hash(more_style)}", "img-src data:", "base-uri 'none'",
        "form-action 'none'",
    ])  # fmt: skip
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    )
    return f"<!doctype html>\n{element('html', head, element('body', *body, *scripts), lang='en')}\n"


def _scales() -> str:
    """Return the stops of the colour scales as CSS properties."""
    return f":root{{{''.join(f'{name}:light-dark({light},{dark});' for name, light, dark in _stops())}}}\n"


def _types_of_scales() -> str:
    """Return the types of these properties, which scripts need to read the properties as colours."""
    rule = '@property {}{{syntax:"<color>";inherits:true;initial-value:{}}}'
    return "".join(rule.format(name, light) for name, light, _ in _stops())


def _stops() -> Iterator[tuple[str, str, str]]:
    """Yield the name of each stop with its light and its dark colour."""
    for kind, stops in SCALES.items():
        yield from ((f"--{kind}-{n}", *pair) for n, pair in enumerate(zip(*stops, strict=True)))


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


# The style of the views is packed with the script, because only the script makes views.
ADD_STYLE = (
    '((text) => document.head.append(Object.assign(document.createElement("style"), { textContent: text })))'
)
LEVEL = 9  # deflate level; at level 6, a page of SmolLM2 is 0.4 % larger and written 0.1 s faster


def packed(document: dict[str, Any], arrays: Mapping[str, Array], script: str) -> str:
    """Pack a script, a JSON object and named arrays of float32 or bytes, with deflate and base 85.

    The member `arrays` of the document contains the place of each array. The place of a float array is [first
    number, count]. Bytes follow all floats, and the place of a byte array is [first byte, count, 1]. Floats
    are stored as four planes: the first byte of every number, then the second bytes, and so on. Bytes of
    signs and exponents are similar and compress well, so that a number takes 4.3 characters.
    """
    floats, others = list[bytes](), list[bytes]()
    counts, places = {False: 0, True: 0}, dict[str, list[int]]()
    for name, array in arrays.items():
        is_bytes = array.dtype == np.uint8
        places[name] = [counts[is_bytes], array.size, *[1] * is_bytes]
        counts[is_bytes] += array.size
        (others if is_bytes else floats).append(array.astype(np.uint8 if is_bytes else "<f4").tobytes())
    planes = np.frombuffer(b"".join(floats), np.uint8).reshape(-1, 4).T.tobytes()
    text, code = dump({**document, "arrays": places}).encode(), script.encode()
    sizes = [np.array(numbers, "<u4").tobytes() for numbers in ([len(code)], [len(text), counts[False]])]
    data = b"".join([sizes[0], code, sizes[1], text, planes, *others])
    return in_base_85(zlib.compress(data, LEVEL))


def in_base_85(data: bytes) -> str:
    """Write each 4 bytes as 5 characters, from "#" to "x" without "<". The first 5 characters are the number
    of bytes.

    >>> in_base_85(b"abc")
    '####&@;F<#'
    """
    words = np.frombuffer(np.array(len(data), ">u4").tobytes() + data + bytes(-len(data) % 4), ">u4")
    digits = np.stack([words // 85**power % 85 for power in (4, 3, 2, 1, 0)], axis=1).astype(np.uint8) + 35
    return (digits + (digits >= ord("<"))).tobytes().decode("ascii")


FOLDER = files(__package__)
_IMPORT = re.compile(r'^import \{([^}]+)\} from "\./([a-z_]+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (\w+))", re.MULTILINE)


_COMMENT = re.compile(r"^\t*(?://[^\n]*|/\*.*?\*/)\n| // [^\n]*$", re.MULTILINE | re.DOTALL)
_INDENT = re.compile(r"^\t+", re.MULTILINE)


def _source(name: str) -> str:
    """Return a script or style without comments and indents, which a page does not need."""
    return _INDENT.sub("", _COMMENT.sub("", FOLDER.joinpath(name).read_text("utf-8")))


@cache  # the closure below would keep 200 kB for each page of a class
def script(main: str) -> str:
    """Join a module and its imports into one script. Each module becomes a function, after its imports."""
    sources = dict[str, str]()

    def add(name: str) -> None:
        text = _source(f"script/{name}.js")
        for _, imported in _IMPORT.findall(text):
            if imported not in sources:
                add(imported)
        sources[name] = text

    add(main)
    modules = "\n".join(_as_function(name, text) for name, text in sources.items())
    return f'"use strict";\n(() => {{\nconst M = {{}};\n{modules}\n}})();\n'


def _as_function(name: str, text: str) -> str:
    exports = ", ".join(_EXPORT.findall(text))
    body = _IMPORT.sub(r"const {\1} = M.\2;", _EXPORT.sub("", text))
    return f"M.{name} = (() => {{\n{body}return {{ {exports} }};\n}})();"
