"""survey: what holds over a corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from ..architecture.model import LanguageModel
from ..arrays.threads import one_blas_thread
from ..corpus.corpus import Corpus, CorpusSelection, Told
from ..errors import InputError
from ..files import OwnFile, check_target, hold
from ..text.wording import abridged, counted
from .execution import ModelSource, Note
from .run import Report, begun, crew_for, survey_into
from .shard import order_for
from .state import Survey, check_same
from .survey_files import read_survey, survey_bytes

SAVING = 0.1  # of the time, at most, goes into saving what was measured so far


def survey(
    model: str | Path | ModelSource | LanguageModel, corpus: str | Path | Sequence[str] | CorpusSelection, *,
    events: Sequence[str] = (), histograms: Sequence[str] = (), top: int = 0, max_tokens: int | None = None,
    chat: bool = False, workers: int = 0, scheduler: str | None = None, shard: tuple[int, int] = (1, 1),
    out: str | Path | None = None, resume: bool = False, force: bool = False, field: str | None = None,
    limit: int | None = None, sample: int | None = None, seed: int | None = None,
    skip_bad: bool | None = None, report: Report = lambda done, run: None, note: Note = lambda text: None,
    reading: Told = lambda size: None,
) -> Survey:  # fmt: skip
    """Run a model over a corpus and keep statistics of its events, exactly, whatever the order.

    `corpus` is a file, a glob, a URL, several of them, or a CorpusSelection, of which `field`, `limit`,
    `sample`, `seed` and `skip_bad` are fields. `events` chooses whose channels are measured, `histograms` of
    which magnitudes are counted, `top` is how many examples each unit of the MLPs has. `workers` are
    processes of this machine and `scheduler` the address of a Dask cluster; both open the model for
    themselves, by its path. `shard` (I, N) reads the I-th of N parts. With `out` the survey is saved there as
    it grows, however it ends; with `resume` it goes on with what is there, and with `force` it is written
    over it. `report` is told how many documents are done, and how many of them by this call, `note` what
    became of workers, and `reading` how many bytes of the corpus were read and unpacked so far.

    Raises InputError where something asked for means nothing or contradicts the file to resume, RunError
    where workers end again and again or the file cannot be written, and what the reading of the model and
    the corpus raises.
    """
    path = None if out is None else Path(out)
    if resume and path is None:
        raise InputError("to resume is to go on with the file of out: name it")
    if not 1 <= shard[0] <= shard[1]:
        raise InputError(f"shard: expected I/N with I from 1 to N, found {shard[0]}/{shard[1]}")
    with nullcontext() if path is None else _held(path, resume, force) as file:
        source = ModelSource(str(model)) if isinstance(model, str | Path) else model
        opened = source.open() if isinstance(source, ModelSource) else source
        asked = {"field": field, "limit": limit, "sample": sample, "seed": seed, "skip_bad": skip_bad}
        given = {name: value for name, value in asked.items() if value is not None}
        texts = Corpus(_selection(corpus, given), reading)
        found = begun(opened, texts, order_for(opened, events, histograms, top, max_tokens, chat))
        if path is not None and path.exists() and resume:
            found = _resumed(path, found)
        crew = crew_for(found, source, opened, workers, scheduler, note)
        with one_blas_thread(), _saved(found, file) as keep:
            survey_into(found, texts, shard, opened, crew, keep, report, note)
            if found.whole and not found.read[0]:
                raise InputError(_why_nothing(found))
    return found


def _why_nothing(survey: Survey) -> str:
    """What is said of a corpus of which no text fits the model."""
    reasons = ", ".join(f"{found.texts:,} {reason}" for reason, found in sorted(survey.unfit.items()))
    texts, of = counted(survey.corpus.documents or 0, "text"), abridged(survey.corpus.sources)
    return f"{of}: none of {texts} fits {survey.model.origin} ({reasons}); a model is named before its corpus"


def _selection(
    corpus: str | Path | Sequence[str] | CorpusSelection, selected: dict[str, Any]
) -> CorpusSelection:
    if isinstance(corpus, CorpusSelection):
        return replace(corpus, **selected)
    sources = (corpus,) if isinstance(corpus, str | Path) else corpus
    return CorpusSelection(tuple(map(str, sources)), **selected)


@contextmanager
def _held(path: Path, resume: bool, force: bool) -> Iterator[OwnFile]:
    """Keep the file for this run. Raises InputError where it cannot be written, or another run writes it."""
    check_target(path, resume or force)
    with hold(path):
        check_target(path, resume or force)  # again, now that no other run changes it
        yield OwnFile(path, force)


def _resumed(path: Path, begun: Survey) -> Survey:
    """The survey of a file that is to go on. Raises InputError where it is of something else."""
    found = read_survey(path)
    read = found.corpus
    found.corpus = replace(read, documents=None, fingerprint=None, skipped={}, files=(), data="")
    check_same(str(path), found, "what is asked for", begun)
    found.corpus = read
    return found


@contextmanager
def _saved(survey: Survey, file: OwnFile | None) -> Iterator[Callable[[], None]]:
    """Write the file in the end, or where something was read before an exception. What it gives saves what
    was measured so far, as often as that costs little of the time."""
    before, whole, due, last = len(survey.blocks), False, 0.0, monotonic()

    def keep() -> None:
        nonlocal due, last
        if file is None or (now := monotonic()) - last < due or not survey.read[0]:
            return
        file.write(survey_bytes(survey))
        last = monotonic()
        due = (last - now) / SAVING

    try:
        yield keep
        whole = True
    finally:
        if file is not None and (whole or (len(survey.blocks) > before and survey.read[0])):
            file.write(survey_bytes(survey))
            file.check()
