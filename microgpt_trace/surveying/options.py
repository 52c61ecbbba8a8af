"""The options of a survey, besides its model and the selection of texts, and the only rules about them."""

from __future__ import annotations

from pathlib import Path

from ..corpus.corpus import MOST
from ..errors import OptionError
from ..text.brief import brief
from ..text.frozen import frozen

MOST_EXAMPLES = 10_000  # largest number of examples of a unit. An example takes about 100 bytes.
MOST_WORKERS = 1024


@frozen(slots=False)
class SurveyOptions:
    """What a survey measures, which workers run it, and the file of the survey. The fields are arguments of
    the function `survey`, which explains them, and options of `microgpt survey`."""

    events: tuple[str, ...] = ()
    histograms: tuple[str, ...] = ()
    top: int = 0
    max_tokens: int | None = None
    chat: bool = False
    workers: int = 0
    scheduler: str | None = None
    shard: tuple[int, int] = (1, 1)
    out: Path | None = None
    resume: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        """Raise OptionError if a value is out of range or two values contradict each other."""
        limits = {"top": (0, MOST_EXAMPLES), "max_tokens": (1, MOST), "workers": (0, MOST_WORKERS)}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                found = brief(value)
                raise OptionError(f"{{{name}}}: expected {least:,} to {most:,}, found {{found}}", found=found)
        if not 1 <= self.shard[0] <= self.shard[1]:
            found = "/".join(map(str, self.shard))
            raise OptionError("{shard}: expected I/N with I from 1 to N, found {found}", found=found)
        if self.workers and self.scheduler is not None:
            raise OptionError("{workers} and {scheduler} cannot be combined: give only one")
        if self.resume and self.out is None:
            raise OptionError("{resume} needs {out}: {out} names the survey to continue")
        if self.resume and self.force:
            raise OptionError("{force} cannot be combined with {resume}: {resume} always replaces the file")
