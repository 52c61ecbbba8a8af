"""Check that the chat template of an export prints what the template of its original prints.

Both templates render ten conversations, with and without the beginning of the model's answer. The ids are
`template.bos` and `template.NAME` for each conversation. If there are no two templates, the only id is
`template.missing`. Templates run in a separate process, because they are programs from untrusted files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

from ..errors import MicrogptError, check_installed
from ..text.printable import on_one_line
from ..vocabulary.sandbox import Isolated
from ..vocabulary.tokens import CHAT_TEMPLATES, LIMITS, Vocabulary, pick_template
from .certificate import CertificateCheck
from .opening import Side
from .shipped import shipped
from .text_ends import is_folder
from .vocabulary_checks import added, special_tokens

_AROUND = 30  # number of characters to show before and after a difference


class RenderedChat(NamedTuple):
    """What a template prints for a conversation: a text, or the reason why it refuses the conversation."""

    text: str
    refusal: str


Chats: TypeAlias = Sequence[RenderedChat]


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
    bos, reasons = _bos(ours, theirs, a, b), dict[str, tuple[Chats, Chats]]()
    if bos.status == "different":
        reasons["template.bos"] = _split_bos(ours, a)[1], _split_bos(theirs, b)[1]
    if a != b and special_tokens(ours, theirs)[0] == "different":
        reasons["vocabulary.special"] = render(ours, names_there), b
    checks = [bos]
    for i, name in enumerate(chats):
        both = [(j, a[j], b[j]) for j in (2 * i, 2 * i + 1)]
        differing = (j for j, x, y in both if x.text != y.text or bool(x.refusal) != bool(y.refusal))
        at = next(differing, None)
        if at is None:
            checks.append(CertificateCheck(f"template.{name}", "same"))
            continue
        why = next((check for check, (one, other) in reasons.items() if one[at] == other[at]), "")
        detail = f"{_difference(a[at], b[at])} {f'Follows from {why}.' if why else _copy(ours)}"
        checks.append(CertificateCheck(f"template.{name}", "different", detail))
    return checks


def _rendered(
    chats: Mapping[str, Any], vocabulary: Vocabulary, tokens: Mapping[str, str]
) -> list[RenderedChat]:
    """Render each chat with and without the beginning of the answer. As in transformers, a template named
    "tool_use" renders the chats with tools."""
    process = Isolated(f"{CHAT_TEMPLATES}:render_each", "its chat template", LIMITS)
    results = list[RenderedChat]()
    for chat in chats.values():
        template = vocabulary.templates.get("tool_use") if chat["tools"] else None
        template = template or pick_template(vocabulary.templates, vocabulary.path)
        both = [{**chat, "add_generation_prompt": answer} for answer in (True, False)]
        results += map(RenderedChat._make, process(vocabulary.path, template, both, tokens))
    return results


def _difference(a: RenderedChat, b: RenderedChat) -> str:
    """Show the first difference of two texts with the characters around the difference."""
    if a.refusal or b.refusal:
        side = "export" if a.refusal else "original"
        reason = on_one_line(a.refusal or b.refusal)
        return f"Only the {side}'s template refuses this conversation: {reason}."
    pairs = enumerate(zip(a.text, b.text, strict=False))
    at = next((i for i, (x, y) in pairs if x != y), min(len(a.text), len(b.text)))
    before = f"{'…' if at > _AROUND else ''}{on_one_line(a.text[max(at - _AROUND, 0) : at])}"
    one, two = (f'"{on_one_line(own.text[at : at + _AROUND])}"' for own in (a, b))
    return f'After "{before}", the export prints {one} and the original {two}.'


def _bos(ours: Vocabulary, theirs: Vocabulary, a: Chats, b: Chats) -> CertificateCheck:
    """Check that chats begin with BOS once, or equally often on both sides."""
    printed = _split_bos(ours, a)[0], _split_bos(theirs, b)[0]
    counts = [count + add for count, add in zip(printed, added("bos", ours, theirs), strict=True)]
    if counts[0] == counts[1] or max(counts) < 2 or not any(own.text for own in a):
        return CertificateCheck("template.bos", "same")
    todo = "Follows from vocabulary.special." if printed[0] == printed[1] else _copy(ours)
    sides = f"{counts[0]} in the export and {counts[1]} in the original"
    detail = f"Number of BOS that the template and the tokenizer put before a chat: {sides}. {todo}"
    return CertificateCheck("template.bos", "different", detail)


def _split_bos(vocabulary: Vocabulary, chats: Chats) -> tuple[int, list[RenderedChat]]:
    """Return how often BOS begins the first text that is not empty, and the chats after all BOS."""
    bos = "" if vocabulary.bos_id is None else vocabulary.decode([vocabulary.bos_id])
    beginning = re.compile(f"(?:{re.escape(bos)})*")
    rest = [chat._replace(text=beginning.sub("", chat.text, count=1)) for chat in chats]
    lost = (len(c.text) - len(own.text) for c, own in zip(chats, rest, strict=True) if c.text)
    return next(lost, 0) // max(len(bos), 1), rest
