"""A page: one file with its style, its script and what they show. Knows no command.

Nothing in it is asked for from elsewhere, and its policy lets nothing run or be fetched but what was put
there: the script stands in the packed data, and is run by a few lines where its hash is the one that the
policy names. Without scripts what is markup can be read.
"""

from __future__ import annotations

import re
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

import numpy as np

from ...arrays.stats import Array
from ...text.json_writing import dump
from .markup import Markup, element


def page(
    title: str, body: Sequence[Markup], document: dict[str, Any], arrays: Mapping[str, Array], main: str
) -> str:
    """The file: a body of markup, and what the script `main` shows of a document and its arrays."""
    code, starter, style = script(main), _source("script/starter.js"), _source("style.css")
    data = packed(document, arrays, code)
    scripts = [
        Markup(f'<script type="application/octet-stream" id="packed">{data}</script>'),
        Markup(f"<script>{starter}</script>"),
    ]
    policy = "; ".join([
        "default-src 'none'", f"script-src {_hash(starter)} {_hash(code)}", f"style-src {_hash(style)}",
        "img-src data:", "base-uri 'none'", "form-action 'none'",
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
    whole = element("html", head, element("body", *body, *scripts), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


LEVEL = 9  # of deflate; at 6 a page of SmolLM2 is 0.4 % longer and written 0.1 s sooner


def packed(document: dict[str, Any], arrays: Mapping[str, Array], script: str) -> str:
    """A script, a JSON object and arrays by name (float32 or bytes), deflated, as base64.

    The document's member `arrays` tells where each lies: [first number, how many], and 1 where that is among
    the bytes behind the floats. The bytes of the floats stand in planes, the first of each number together,
    then the second ..., for those that tell sign and exponent are alike: 4.55 characters a number, where
    numbers as they lie take 5.
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
    whole = b"".join([sizes[0], code, sizes[1], text, planes, *others])
    return b64encode(zlib.compress(whole, LEVEL)).decode()


FOLDER = files(__package__)
_IMPORT = re.compile(r'^import \{ ([^}]+) \} from "\./([a-z_]+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (\w+))", re.MULTILINE)


def _source(name: str) -> str:
    return FOLDER.joinpath(name).read_text("utf-8")


def script(main: str) -> str:
    """A module and all that it imports as one script: each in a function of its own, behind its imports."""
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
    body = _IMPORT.sub(r"const { \1 } = M.\2;", _EXPORT.sub("", text))
    return f"M.{name} = (() => {{\n{body}return {{ {exports} }};\n}})();"
