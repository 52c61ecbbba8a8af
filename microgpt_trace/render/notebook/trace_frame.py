"""The page of a trace in a frame of a notebook, from which it reaches nothing; or how to get it as a file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path

from ...architecture.model import LanguageModel
from ...text.command_lines import command
from ...text.printable import on_one_line
from ...tracing.result import Trace
from ..page.markup import Markup, element
from ..sections import Section

MOST = 2_000_000  # characters of a page that a notebook is given
EACH = 4.55  # characters of a number in a page
UNSAVED = "MODEL"  # stands in command lines for the file of a model that is in none
SAVE_IT = f"{UNSAVED}, in command lines: the file that save(model, ...) writes."


def framed_page(trace: Trace, sections: Sequence[Section]) -> Markup:
    """The page in its frame; nothing where there is none that a notebook can bear."""
    model = trace.traced_model
    if model is None or not _is_shown(trace, model):
        return Markup()
    page = _page(trace, model, sections)
    return _frame(page, trace) if len(page) <= MOST else Markup()


def about_page(trace: Trace, framed: bool) -> list[Markup]:
    """The command that writes the page where it is not there, and what stands in it or on the page for a
    file."""
    model = trace.traced_model
    if model is None:
        return []
    said = [] if framed else [element("p", "Every number on a page: ", _command_line(trace, model))]
    return said if _file_of(model) != UNSAVED else [*said, element("p", element("small", SAVE_IT))]


def _is_shown(trace: Trace, model: LanguageModel) -> bool:
    """Whether a page would show numbers, and not too many: it runs a microGPT itself."""
    held = sum(array.size for array in trace.arrays.values())
    if "gradients" in model.abilities:
        held += model.config.parameter_count
    return 0 < held * EACH <= MOST


def _page(trace: Trace, model: LanguageModel, sections: Sequence[Section]) -> str:
    from ..page.trace_page import trace_page

    made_by = f"trace of {on_one_line(trace.input.text) or 'tokens'}, {on_one_line(model.origin)}"
    text, tokens = (None, _tokens(trace)) if "prompts" in model.abilities else (trace.input.text, [])
    return trace_page(
        trace, model, sections, made_by, {"before": [_file_of(model)], "text": text, "after": tokens}
    )


def _frame(page: str, trace: Trace) -> Markup:
    """Scripts run in it, as of a stranger: it has neither the notebook's address nor its network."""
    title = f"microgpt trace: {on_one_line(trace.input.text)}"
    said = f'title="{escape(title)}" class="frame" sandbox="allow-scripts"'
    return Markup(f'<iframe {said} srcdoc="{escape(page)}"></iframe>')


def _command_line(trace: Trace, model: LanguageModel) -> Markup:
    words, options = [_file_of(model), trace.input.text], ["--html", "trace.html"]
    if "prompts" in model.abilities:
        words, options = words[:1], [*_tokens(trace), *options]
    return element("code", command("trace", words, options))


def _tokens(trace: Trace) -> list[str]:
    """What was read, whatever it was made of: a text that a template was put around, for one."""
    return ["--tokens", ",".join(map(str, trace.input.tokens))]


def _file_of(model: LanguageModel) -> str:
    """The file that the model was read from, if it is there."""
    with suppress(OSError, ValueError):
        if model.origin and Path(model.origin).exists():
            return model.origin
    return UNSAVED
