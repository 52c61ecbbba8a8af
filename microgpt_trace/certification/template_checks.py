"""Check that the chat template of an export prints what the template of its original prints.

Both templates render ten conversations, with and without the beginning of the model's answer. The ids are
`template.bos` and `template.NAME` for each conversation. If there are no two templates, the only id is
`template.missing`. Templates run in a separate process, because they are programs from untrusted files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, TypeAlias

from ..errors import MicrogptError, check_installed
from ..text.printable import on_one_line
from ..vocabulary.sandbox import Isolated
from ..vocabulary.tokens import LIMITS, Vocabulary, pick_template
from .certificate import CertificateCheck
from .opening import Side
from .shipped import shipped
from .text_ends import is_folder
from .vocabulary_checks import added, special_tokens

Rendered: TypeAlias = list[tuple[str, str]]  # for each conversation a text and "", or "" and a refusal
_AROUND = 30  # number of characters to show before and after a difference


def template_checks(export: Side, original: Side) -> list[CertificateCheck]:
    """Compare what the chat templates of an export and of its original print."""
    missing = partial(CertificateCheck, "template.missing")
    ours, theirs = export.vocabulary, original.vocabulary
    if ours is None or theirs is None:
        side = export if ours is None else original
        return [missing("not checked", side.vocabulary_problem or f"{side.origin} has no vocabulary.")]
    if not ours.templates and not theirs.templates:
        return [missing("same", "Neither side has a chat template.")]
    if not ours.templates or not theirs.templates:
        which, todo = ("export", "Remove it.") if ours.templates else ("original", _copy(ours))
        return [missing("different", f"Only the {which} has a chat template. {todo}")]
    try:
        check_installed("jinja2", "chat templates need")
        return _compared(ours, theirs)
    except MicrogptError as error:
        return [missing("not checked", str(error))]


def _copy(ours: Vocabulary) -> str:
    place = "chat_template.jinja" if is_folder(ours) else "the metadata as tokenizer.chat_template"
    return f"Copy the original's template into {place}."


def _compared(ours: Vocabulary, theirs: Vocabulary) -> list[CertificateCheck]:
    chats = shipped("conversations")
    render = partial(_rendered, chats)
    names, names_there = ours.names_in_templates(), theirs.names_in_templates()
    a = render(ours, names)
    alike = (ours.templates, names) == (theirs.templates, names_there)
    b = a if alike else render(theirs, names_there)
    bos, reasons = _bos(ours, theirs, a, b), {}
    if bos.status == "different":
        reasons["template.bos"] = [_split_bos(v, texts)[1] for v, texts in ((ours, a), (theirs, b))]
    if a != b and special_tokens(ours, theirs)[0] == "different":
        reasons["vocabulary.special"] = [render(ours, names_there), b]
    checks = [bos]
    for i, name in enumerate(chats):
        at = [j for j in (2 * i, 2 * i + 1) if a[j][0] != b[j][0] or bool(a[j][1]) != bool(b[j][1])]
        if not at:
            checks.append(CertificateCheck(f"template.{name}", "same"))
            continue
        why = next((reason for reason, (one, two) in reasons.items() if one[at[0]] == two[at[0]]), "")
        detail = f"{_difference(a[at[0]], b[at[0]])} {f'Follows from {why}.' if why else _copy(ours)}"
        checks.append(CertificateCheck(f"template.{name}", "different", detail))
    return checks


def _rendered(chats: Mapping[str, Any], vocabulary: Vocabulary, tokens: Mapping[str, str]) -> Rendered:
    """Render each chat with and without the beginning of the answer. As in transformers, a template named
    "tool_use" renders the chats with tools."""
    process = Isolated(f"{Vocabulary.__module__[:-6]}templates:render_each", "its chat template", LIMITS)
    results: Rendered = []
    for chat in chats.values():
        template = vocabulary.templates.get("tool_use") if chat["tools"] else None
        template = template or pick_template(vocabulary.templates, vocabulary.path)
        both = [{**chat, "add_generation_prompt": answer} for answer in (True, False)]
        results += map(tuple, process(vocabulary.path, template, both, tokens))
    return results


def _difference(a: tuple[str, str], b: tuple[str, str]) -> str:
    """Show the first difference of two texts with the characters around the difference."""
    if a[1] or b[1]:
        side = "export" if a[1] else "original"
        return f"Only the {side}'s template refuses this conversation: {on_one_line(a[1] or b[1])}."
    at = next(
        (i for i, (x, y) in enumerate(zip(a[0], b[0], strict=False)) if x != y), min(len(a[0]), len(b[0]))
    )
    before = f"{'…' if at > _AROUND else ''}{on_one_line(a[0][max(at - _AROUND, 0) : at])}"
    one, two = (f'"{on_one_line(text[at : at + _AROUND])}"' for text in (a[0], b[0]))
    return f'After "{before}", the export prints {one} and the original {two}.'


def _bos(ours: Vocabulary, theirs: Vocabulary, a: Rendered, b: Rendered) -> CertificateCheck:
    """Check that chats begin with BOS once, or equally often on both sides."""
    printed = _split_bos(ours, a)[0], _split_bos(theirs, b)[0]
    counts = [count + add for count, add in zip(printed, added("bos", ours, theirs), strict=True)]
    if counts[0] == counts[1] or max(counts) < 2 or not any(text for text, _ in a):
        return CertificateCheck("template.bos", "same")
    todo = "Follows from vocabulary.special." if printed[0] == printed[1] else _copy(ours)
    sides = f"{counts[0]} in the export and {counts[1]} in the original"
    detail = f"Number of BOS that the template and the tokenizer put before a chat: {sides}. {todo}"
    return CertificateCheck("template.bos", "different", detail)


def _split_bos(vocabulary: Vocabulary, texts: Rendered) -> tuple[int, Rendered]:
    """Return how often BOS begins the first text that is not empty, and the texts after all BOS."""
    bos = "" if vocabulary.bos_id is None else vocabulary.decode([vocabulary.bos_id])
    beginning = re.compile(f"(?:{re.escape(bos)})*")
    rest = [(beginning.sub("", text, count=1), refusal) for text, refusal in texts]
    lost = next((len(text) - len(own) for (text, _), (own, _) in zip(texts, rest, strict=True) if text), 0)
    return lost // max(len(bos), 1), rest
