"""A page: one file with its style, its script and what they show. Knows no command.

Nothing in it is asked for from elsewhere, and its policy lets nothing run or be fetched but what was put
there: the script stands in the packed data, and is run by a few lines where its hash is the one that the
policy names. Without scripts what is markup can be read.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from ...arrays.stats import Array
from .markup import Markup, element
from .packing import packed
from .script_text import script, starter, style


def page(
    title: str, body: Sequence[Markup], document: dict[str, Any] | None = None,
    arrays: Mapping[str, Array] | None = None, main: str = "main",
) -> str:  # fmt: skip
    """The file: a body of markup, and what a script shows of a document and its arrays where there is one."""
    scripts: list[Markup] = []
    hashes: list[str] = []
    if document is not None:
        code = script(main)
        hashes = [_hash(starter()), _hash(code)]
        data = packed(document, arrays or {}, code)
        scripts = [
            Markup(f'<script type="application/octet-stream" id="packed">{data}</script>'),
            Markup(f"<script>{starter()}</script>"),
        ]
    policy = "; ".join([
        "default-src 'none'", f"script-src {' '.join(hashes) or chr(39) + 'none' + chr(39)}",
        f"style-src {_hash(style())}", "img-src data:", "base-uri 'none'", "form-action 'none'",
    ])  # fmt: skip
    head = element(
        "head",
        Markup('<meta charset="utf-8">'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        element("title", title),
        Markup(f"<style>{style()}</style>"),
    )
    whole = element("html", head, element("body", *body, *scripts), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
