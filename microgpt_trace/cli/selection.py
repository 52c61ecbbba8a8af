"""Which events of a trace are shown, serialised and saved: one selection for all three."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InputError
from ..hooks.names import ALIASES, glob_pattern, select_names
from ..text.wording import counted

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel
    from ..tracing.result import Trace
    from .trace_options import DrawnOfTrace, Shown, Written


@dataclass(frozen=True)
class Request:
    """What is shown of a model's trace, and where it goes."""

    model: LanguageModel
    shown: Shown
    written: Written
    drawn: DrawnOfTrace
    layers: Sequence[int]  # those of --layers, none without it

    def selected(self, verbose: bool = False) -> list[str]:
        """The events asked for by name, else those of the overview or, if `verbose`, all but those that cost
        a computation of their own; and of these the chosen layers'."""
        verbose = verbose or self.shown.verbose
        specs = self.model.hooks.specs
        asked = self.shown.layer and select_names(self.shown.layer, list(specs))
        names = asked or [n for n, s in specs.items() if (verbose and not s.extra) or s.overview]
        if not self.layers:
            return names
        found = [
            name for name in names if specs[name].layer in (self.layers if asked else [None, *self.layers])
        ]
        if not found:
            raise InputError("--layers has none of the events that --layer names")
        return found

    def kept(self, result: Trace, verb: str, where: str = "") -> str:
        """How many arrays were kept, and where that is not all which options keep others."""
        count = len(result)
        if self.shown.layer:
            return f"{counted(count, 'array')}{where}"
        total = self._of_all(result)
        heads = any(spec.extra for spec in self.model.hooks.specs.values()) and "--layer '*.head*'"
        if count == total:
            return f"{counted(count, 'array')}{where}" + (f"; {heads} {verb} the heads" if heads else "")
        more = f"; --verbose {verb} {total:,}" + (f", {heads} the heads" if heads else "")
        return f"{count:,} of {counted(total, 'array')}{where}{more}"

    def _of_all(self, result: Trace) -> int:
        """How many arrays the same request with --verbose keeps."""
        names = self.selected(verbose=True)
        parameters = [name for name in names if self.model.hooks.specs[name].parameter == name]
        computed = len(names) - len(parameters) - ("loss" in names and result.loss is None)
        of_phase = {"forward": computed, "backward": len(names), "update": len(parameters)}
        return sum(of_phase[phase] for phase in {event.phase for event in result})


def with_stages(model: LanguageModel, names: list[str]) -> list[str]:
    """Those of the names that a stage of apr stands for."""
    stages = [glob_pattern(glob) for globs in ALIASES.values() for glob in globs]
    found = [name for name in names if any(stage.fullmatch(name) for stage in stages)]
    if not found:
        raise InputError("--save-aprt: none of the chosen events is a stage of apr")
    return found


def layers_of(text: str | None, count: int) -> list[int]:
    """ "3-5" is three layers, "3,7" two."""
    if text is None:
        return []
    chosen: list[int] = []
    for part in text.split(","):
        bounds = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part)
        if bounds is None:
            raise InputError(f"--layers: expected something like 3-5 or 0,7, found {text!r}")
        first, last = int(bounds[1]), int(bounds[2] or bounds[1])
        if last < first:
            raise InputError(f"--layers {text}: {part} ends before it begins")
        if last >= count:
            raise InputError(f"--layers {text}: this model has layers 0 to {count - 1}")
        chosen += range(first, last + 1)
    return chosen
