"""Chat templates: what a model file wants around a person's message. Knows no vocabulary.

Templates are programs from foreign files: they run in jinja2's sandbox (`templates`), and that in a
process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from ..packages import check_installed
from .sandbox import MIB, Isolated, Limits

LIMITS = Limits(seconds=10, memory=512 * MIB)  # a template takes 0.1 s and 60 MiB, jinja2 included


def pick_template(templates: Mapping[str, str], path: Path) -> str:
    """The template for plain chat: the one named "default", or the only one. Raises InputError."""
    if not templates:
        raise InputError(f"{path}: the file has no chat template; leave --chat out")
    if "default" in templates:
        return templates["default"]
    if len(templates) > 1:
        raise InputError(
            f"{path}: none of its chat templates is the default: {', '.join(sorted(templates)):.200}"
        )
    return next(iter(templates.values()))


def template_process(limits: Limits = LIMITS) -> Isolated:
    """What renders templates."""
    return Isolated(f"{__package__}.templates:render", "its chat template", limits)


def render_chat(
    template: str, text: str, tokens: Mapping[str, str], path: Path, process: Isolated | None = None
) -> str:
    """The template with one message of the user, up to where the model's answer begins. `tokens` are the
    special tokens by the names that templates have for them ("bos_token").

    Raises InputError where jinja2 is missing or the template refuses the message, FileFormatError
    where the template is no template, fails, or takes too much time or memory.
    """
    check_installed("jinja2", "chat templates need")
    process = process or template_process()
    rendered: str = process(path, template, text, dict(tokens))
    return rendered
