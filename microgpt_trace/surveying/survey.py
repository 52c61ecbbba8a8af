"""survey: what holds over a corpus.

The corpus goes through the model block by block, with the same result however it is run.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

from ..architecture.model import LanguageModel
from ..arrays.threads import one_blas_thread
from ..corpus.corpus import Corpus, CorpusSelection, Document, ReportBytes
from ..corpus.sources import CHUNK, STDIN
from ..errors import InputError, MicrogptError, RunError
from ..files import OwnFile, check_target, hold
from ..signals import uninterrupted
from ..text.wording import abridged, counted
from .dask_cluster import on_cluster
from .execution import Assignment, Block, Crew, ModelSource, Note, run_here, side_by_side
from .shard import order_for, survey_shard
from .state import Survey, SurveyedCorpus, SurveyOrder, check_same, surveyed_model
from .survey_files import read_survey, survey_bytes
from .worker_processes import in_processes

BLOCK = 8  # documents, at least: what is read as a whole or not at all
MOST_OF_A_NAME = 256  # bytes of training data in the mean, the line that holds it included
Report = Callable[[int, int], None]  # how many documents are done, and how many of them by this run
SAVING = 0.1  # of the time, at most, goes into saving what was measured so far


def survey(
    model: str | Path | ModelSource | LanguageModel, corpus: str | Path | Sequence[str] | CorpusSelection, *,
    events: Sequence[str] = (), histograms: Sequence[str] = (), top: int = 0, max_tokens: int | None = None,
    chat: bool = False, workers: int = 0, scheduler: str | None = None, shard: tuple[int, int] = (1, 1),
    out: str | Path | None = None, resume: bool = False, force: bool = False, field: str | None = None,
    limit: int | None = None, sample: int | None = None, seed: int | None = None,
    skip_bad: bool | None = None, report: Report = lambda done, run: None, note: Note = lambda text: None,
    reading: ReportBytes = lambda size: None,
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
    with nullcontext() if path is None else _kept_file(path, resume, force) as file:
        source = ModelSource(str(model)) if isinstance(model, str | Path) else model
        opened = source.open() if isinstance(source, ModelSource) else source
        asked = {"field": field, "limit": limit, "sample": sample, "seed": seed, "skip_bad": skip_bad}
        given = {name: value for name, value in asked.items() if value is not None}
        texts = Corpus(_selection(corpus, given), reading)
        found = _begun(opened, texts, order_for(opened, events, histograms, top, max_tokens, chat))
        if path is not None and path.exists() and resume:
            found = _resumed(path, found)
        crew = _crew_for(found, source, opened, workers, scheduler, note)
        with one_blas_thread(), _saved(found, file) as keep:
            _survey_into(found, texts, shard, opened, crew, keep, report, note)
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
def _kept_file(path: Path, resume: bool, force: bool) -> Iterator[OwnFile]:
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


# --- Block by block ---------------------------------------------------------------------------


def _begun(model: LanguageModel, corpus: Corpus, order: SurveyOrder) -> Survey:
    """A survey of which nothing was read yet."""
    asked = corpus.selection
    read = SurveyedCorpus(
        tuple(map(_plain, asked.sources)), asked.field, asked.limit, asked.sample, asked.seed
    )
    found = Survey(
        model=surveyed_model(model, order), corpus=read, order=order, block_size=max(BLOCK, model.pack_size)
    )
    found.take(survey_shard(model, order, []))  # a share may have no document
    return found


def _survey_into(
    survey: Survey, corpus: Corpus, shard: tuple[int, int], model: LanguageModel,
    crew: AbstractContextManager[Crew], keep: Callable[[], None], report: Report, note: Note,
) -> None:  # fmt: skip
    """Read what a survey has not read yet of the I-th of N parts of its corpus, `shard`. The crew computes,
    `keep` is called whenever the survey has grown, and `model` is asked what it and its training would take
    of texts.

    What was read stays read where this ends early: by an exception, between two results. Raises InputError
    where a document that was read is now another one.
    """
    if survey.corpus.fingerprint is not None and STDIN not in corpus.selection.sources:
        deque(corpus, maxlen=0)  # to its end
        _check_known(survey, corpus)
    noted = _Noted(model)
    blocks = _unread(survey, noted.blocks(_blocks(corpus, survey.block_size, model)), shard)
    before, run = len(survey.blocks) * survey.block_size, 0
    with crew as workers, closing(side_by_side(blocks, workers, note)) as results:
        for result in results:
            with uninterrupted():
                survey.take(result)
                keep()
            run += len(result.blocks) * survey.block_size
            report(before + run, run)
    _check_known(survey, corpus)
    found = {reason: (skipped.rows, skipped.first) for reason, skipped in sorted(corpus.skipped.items())}
    survey.corpus = replace(
        survey.corpus, documents=corpus.documents, fingerprint=corpus.fingerprint, skipped=found,
        files=noted.named(), data=_data(survey, corpus.selection, model) or noted.data,
    )  # fmt: skip


def _data(survey: Survey, asked: CorpusSelection, model: LanguageModel) -> str:
    """The checksum of all names in the sources, where only some were asked for and the model was trained on
    known data; "" where there is more to read than such data take, or where it cannot be read."""
    known = re.match(r"[0-9]{1,9}(?= names, )", survey.model.trained_on)
    partly = asked.limit is not None or asked.sample is not None
    if known is None or not partly or STDIN in asked.sources:
        return ""
    noted, most = _Noted(model), CHUNK + MOST_OF_A_NAME * int(known[0])

    def check(read: int) -> None:
        if read > most:
            raise RunError("more than the names of such data")

    whole = Corpus(replace(asked, limit=None, sample=None), check)
    with suppress(MicrogptError):
        deque(noted.blocks(_blocks(whole, survey.block_size, model)), maxlen=0)
        return noted.data
    return ""


def _check_known(survey: Survey, corpus: Corpus) -> None:
    """Raises InputError where a corpus that was read to its end is now another one."""
    known, counts = survey.corpus, ""
    if known.documents not in (None, corpus.documents):
        counts = f" ({known.documents:,} documents, now {corpus.documents:,})"
    if known.fingerprint not in (None, corpus.fingerprint):
        raise InputError(
            f"{abridged(known.sources)}: other texts than the survey to go on with has read there" + counts
        )


def _crew_for(
    survey: Survey, source: ModelSource | LanguageModel, model: LanguageModel, processes: int,
    scheduler: str | None, note: Note,
) -> AbstractContextManager[Crew]:  # fmt: skip
    """Who computes: this process, so many of this machine, or a cluster by the address of its scheduler.

    Raises InputError where a model that stands in the memory of this process is to be opened by others.
    """
    if not processes and scheduler is None:
        return nullcontext(Crew(partial(run_here, model.for_many_passes(), survey.order)))
    if not isinstance(source, ModelSource):
        raise InputError("workers open the model for themselves: give the path of its file")
    if processes and scheduler is not None:
        raise InputError("workers of this machine and a scheduler: give one of the two")
    assignment = Assignment.of(source, survey.model.fingerprint, survey.order)
    if scheduler is not None:
        return on_cluster(assignment, scheduler, note)
    return in_processes(assignment, processes)


def _blocks(corpus: Corpus, size: int, model: LanguageModel) -> Iterator[Block]:
    """The documents of a corpus in blocks of fixed numbers. Of a text that is too long for the model nothing
    is held but why it does not fit, and what training would take of it."""
    remaining = iter(corpus)
    while True:
        digest, documents = blake2b(digest_size=8), list[Document]()
        documents += map(partial(_held, model, digest), islice(remaining, size))
        if not documents:
            return
        yield Block(documents[0].number // size, documents, digest.hexdigest())


def _held(model: LanguageModel, digest: blake2b, document: Document) -> Document:
    digest.update(f"{len(document.text)} ".encode())
    digest.update(document.text.encode())
    if len(document.text) <= model.longest_text:
        return document
    (reason,) = model.read_many([document.text])
    return document._replace(text="".join(model.training_texts([document.text])), unfit=str(reason))


class _Noted:
    """What is noted of documents while they pass: with which of them each file begins, and the checksum by
    which a microGPT knows the names that it was trained on."""

    def __init__(self, model: LanguageModel) -> None:
        self.files: dict[str, int] = {}
        self._taken, self._names, self._crc = model.training_texts, 0, 0

    @property
    def data(self) -> str:
        return f"{self._names} names, crc32 {self._crc:08x}" if self._names else ""

    def named(self) -> tuple[tuple[str, int], ...]:
        """The files without their folders, where that tells them apart, and the first document of each."""
        plain = {_plain(name) for name in self.files}
        as_is = len(plain) < len(self.files)
        return tuple((name if as_is else _plain(name), first) for name, first in self.files.items())

    def blocks(self, blocks: Iterator[Block]) -> Iterator[Block]:
        for block in blocks:
            for document in block.documents:
                self.files.setdefault(document.file, document.number)
            if names := self._taken([document.text for document in block.documents]):
                joined = "\n" * bool(self._names) + "\n".join(names)
                self._crc = zlib.crc32(joined.encode(), self._crc)
                self._names += len(names)
            yield block


def _unread(survey: Survey, blocks: Iterator[Block], shard: tuple[int, int]) -> Iterator[Block]:
    """The blocks of a part of the corpus that the survey has not read. Raises InputError where one is not
    what it was."""
    for block in blocks:
        known = survey.blocks.get(block.number)
        if known is None:
            if block.number % shard[1] == shard[0] - 1:
                yield block
        elif known not in ("", block.digest):
            first, last = block.documents[0], block.documents[-1]
            raise InputError(
                f"{first.place} to {last.place}: other texts than the survey to go on with has read there"
            )


def _plain(source: str) -> str:
    """A source without its folder, which differs from machine to machine."""
    return source if "://" in source else Path(source).name
