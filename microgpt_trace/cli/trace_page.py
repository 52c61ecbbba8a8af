"""The page of `trace`: what it holds of the run beside what was asked for, and writing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..text.command_lines import quoted
from ..tracing.trace import trace
from .option_checks import command_line
from .options import AprSettings, BareWeights

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..hooks.event import Phase
    from ..render.page.encodings import Held
    from ..tracing.result import Trace
    from .selection import Request


def page_order(
    context: typer.Context, html: Path | None, path: Path | None, seed: int | None, bare: BareWeights,
    apr: AprSettings,
) -> PageOrder | None:  # fmt: skip
    """What --html asks for, if it is given."""
    if html is None:
        return None
    said = {"--seed": seed, "--n-head": bare.n_head, "--bos": bare.bos, "--rope-pairs": apr.rope_pairs}
    return PageOrder(command_line(context), path, said, apr.settings or [])


@dataclass
class PageOrder:
    """The command that asks for a page, the model that it names, and what else of it `explain` takes."""

    line: str
    path: Path | None
    options: Mapping[str, Any]
    settings: Sequence[str]
    _recorded: Mapping[str, Held] = field(default_factory=dict)

    def trace(
        self, model: LanguageModel, names: list[str], kept: list[str], options: dict[str, Any],
        request: Request, layers: Sequence[int],
    ) -> tuple[Trace, Trace]:  # fmt: skip
        """The trace that the page shows, and the one that was asked for: a microGPT's with all its gradients,
        of a production model what the page has room for."""
        from ..render.page.recorder import PageRecorder
        from ..tracing.narrowing import narrowed

        phases: tuple[Phase, ...] = ("forward", "backward", "update")
        if "gradients" in model.abilities:
            if not options["step"]:
                phases = ("forward", "backward") if options["backward"] else ("forward",)
            whole = trace(model, values=True, **{**options, "step": True})
        else:
            recorder = PageRecorder(model, request.drawn.html_budget, layers)
            extra = [name for name in names if model.hooks.specs[name].extra]
            usual = [name for name, spec in model.hooks.specs.items() if not spec.extra]
            with model.hooks.subscribe(recorder, *recorder.names):
                whole = trace(model, names=[*usual, *extra], values=kept, **options)
            self._recorded = recorder.kept
        return whole, narrowed(whole, set(names), set(kept), phases)

    def write(self, model: LanguageModel, whole: Trace, asked: Trace, request: Request) -> None:
        """Write the page: in words what was asked for, and to look at all that it holds."""
        from ..render.page.trace_page import trace_page
        from ..render.trace import trace_sections

        more = "" if "gradients" in model.abilities else "--html-budget or --layers"
        sections = trace_sections(asked, verbose=request.shown.verbose, overview=not request.shown.layer)
        text = trace_page(whole, model, sections, self.line, self.again(whole, model), self._recorded, more)
        request.drawn.put_page(text)

    def again(self, whole: Trace, model: LanguageModel) -> dict[str, Any]:
        """The words before and behind the element in a command that explains it."""
        said = [(option, value) for option, value in self.options.items() if value is not None]
        said += [("--set", setting) for setting in self.settings]
        words = [(option, str(getattr(value, "value", value))) for option, value in said]
        after = [part for option, word in words for part in (option, quoted(word))]
        before = [] if self.path is None else [str(self.path)]
        if "prompts" in model.abilities:
            after += ["--tokens", ",".join(map(str, whole.input.tokens))]
            return {"before": before, "text": None, "after": after}
        return {"before": before, "text": whole.input.text, "after": after}
