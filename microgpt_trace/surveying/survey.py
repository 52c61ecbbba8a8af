"""Measure a model over a corpus. The result does not depend on the number of processes or on a cluster."""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from time import monotonic
from typing import Any

from ..arrays.threads import one_blas_thread
from ..corpus.corpus import Corpus, CorpusSelection, Document, ReportBytes
from ..corpus.sources import CHUNK, STDIN
from ..errors import InputError, MicrogptError, RunError
from ..files import OwnFile, check_target, hold
from ..models.language_model import LanguageModel
from ..signals import uninterrupted
from ..text.wording import abridged, counted
from .dask_cluster import on_cluster
from .execution import Assignment, Block, Crew, ModelSource, Note, run_here, run_tasks
from .options import SurveyOptions
from .shard import order_for, survey_shard
from .state import Survey, SurveyedCorpus, SurveyOrder, check_same, surveyed_model
from .survey_files import read_survey, survey_bytes
from .worker_processes import in_processes

BLOCK = 8  # smallest number of documents in a block
NAME_BYTES = 256  # largest number of bytes per training name. A larger corpus is not the training data.
Report = Callable[[int, int], None]  # receives the numbers of documents finished in total and by this run
SAVING = 0.1  # largest share of the time that saving may take
CHANGED = "the texts changed{} since this survey began; restore them, or start a new survey with --force"


def survey(
    model: str | Path | ModelSource | LanguageModel, corpus: str | Path | Sequence[str] | CorpusSelection, *,
    events: Sequence[str] = (), histograms: Sequence[str] = (), top: int = 0, max_tokens: int | None = None,
    chat: bool = False, workers: int = 0, scheduler: str | None = None, shard: tuple[int, int] = (1, 1),
    out: str | Path | None = None, resume: bool = False, force: bool = False, field: str | None = None,
    limit: int | None = None, sample: int | None = None, seed: int | None = None,
    skip_bad: bool | None = None, report: Report = lambda done, run: None, note: Note = lambda text: None,
    reading: ReportBytes = lambda size: None,
) -> Survey:  # fmt: skip
    """Run a model over a corpus and keep exact statistics of its events.

    `corpus` is a CorpusSelection, or one or several files, globs or URLs. `field`, `limit`, `sample`, `seed`
    and `skip_bad` replace fields of the selection. `shard` (I, N) reads the I-th of N parts. `events` selects
    the events whose channels are measured, and `histograms` selects the events whose magnitudes are counted,
    by names or globs. `top` is the number of examples for each unit of an MLP.

    `workers` is a number of processes, and `scheduler` is the address of a Dask cluster. Workers need the
    path of the model, because every worker opens the model. The survey is saved to the file `out` from time
    to time, and at the end even after an error. `resume` continues the survey in `out`, and `force`
    overwrites the file. Three functions report progress. `report` receives the total number of finished
    documents and the number finished by this call. `note` receives messages about workers. `reading` receives
    the number of bytes of the corpus that were read so far.

    Raises InputError if an argument is invalid or contradicts the file to resume, RunError if workers end
    again and again or the file cannot be written, and the errors of opening the model and the corpus.
    """
    options = SurveyOptions(
        tuple(events), tuple(histograms), top, max_tokens, chat, workers, scheduler, shard,
        None if out is None else Path(out), resume, force,
    )  # fmt: skip
    if not isinstance(corpus, CorpusSelection):
        corpus = CorpusSelection(tuple(map(str, (corpus,) if isinstance(corpus, str | Path) else corpus)))
    changes = {"field": field, "limit": limit, "sample": sample, "seed": seed, "skip_bad": skip_bad}
    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    selection, path = replace(corpus, **given), options.out
    with nullcontext() if path is None else _target_file(path, resume, force) as file:
        source = ModelSource(str(model)) if isinstance(model, str | Path) else model
        opened = source.open() if isinstance(source, ModelSource) else source
        result = _new_survey(opened, selection, order_for(opened, options))
        if path is not None and path.exists() and resume:
            result = _resume(path, result)
        crew = _crew_for(result, source, opened, options, note)
        with one_blas_thread(), _saving(result, file) as save:
            texts = Corpus(selection, reading)
            _survey_into(result, texts, shard, opened, crew, save, report, note)
            if result.whole and not result.read[0]:
                raise InputError(_nothing_fits(result))
    return result


def _nothing_fits(survey: Survey) -> str:
    """Return the error message for a corpus without a text that fits the model."""
    reasons = ", ".join(f"{unfit.texts:,} {reason}" for reason, unfit in sorted(survey.unfit.items()))
    texts, sources = counted(survey.corpus.documents or 0, "text"), abridged(survey.corpus.sources)
    fits = f"none of {texts} fits {survey.model.origin} ({reasons})"
    return f"{sources}: {fits}; name the model before its corpus"


@contextmanager
def _target_file(path: Path, resume: bool, force: bool) -> Iterator[OwnFile]:
    """Lock the file for this run. Raises InputError if the file cannot be written or is locked."""
    check_target(path, resume or force)
    with hold(path):
        check_target(path, resume or force)  # check again, because no other run can change the file now
        yield OwnFile(path, force)


def _resume(path: Path, request: Survey) -> Survey:
    """Read the survey to continue. Raises InputError if the options of the file and of `request` differ."""
    survey = read_survey(path)
    corpus = survey.corpus
    survey.corpus = replace(corpus, documents=None, fingerprint=None, skipped={}, files=(), data="")
    check_same("the request", request, str(path), survey)
    survey.corpus = corpus
    return survey


@contextmanager
def _saving(survey: Survey, file: OwnFile | None) -> Iterator[Callable[[], None]]:
    """Write the file at the end, or after an exception if new blocks were read. Yields a function that saves
    the survey if the last save is old enough."""
    before, done, pause, last = len(survey.blocks), False, 0.0, monotonic()

    def save() -> None:
        nonlocal pause, last
        if file is None or (now := monotonic()) - last < pause or not survey.read[0]:
            return
        file.write(survey_bytes(survey))
        last = monotonic()
        pause = (last - now) / SAVING

    try:
        yield save
        done = True
    finally:
        if file is not None and (done or (len(survey.blocks) > before and survey.read[0])):
            file.write(survey_bytes(survey))
            file.check()


# --- Block by block ---------------------------------------------------------------------------


def _new_survey(model: LanguageModel, selection: CorpusSelection, order: SurveyOrder) -> Survey:
    """Return a survey without documents."""
    sources = tuple(map(_without_folder, selection.sources))
    corpus = SurveyedCorpus(sources, selection.field, selection.limit, selection.sample, selection.seed)
    empty = survey_shard(model, order, [])  # provides the tallies of a part without documents
    return Survey(
        model=surveyed_model(model, order), corpus=corpus, order=order, tallies=empty.tallies,
        block_size=max(BLOCK, model.pack_size),
    )  # fmt: skip


def _survey_into(
    survey: Survey, corpus: Corpus, shard: tuple[int, int], model: LanguageModel,
    crew: AbstractContextManager[Crew], save: Callable[[], None], report: Report, note: Note,
) -> None:  # fmt: skip
    """Run the documents of a shard that the survey lacks, and add their results to the survey. `crew` runs
    the documents, and `save` is called after each result. A signal ends the run only between two results, so
    that the survey stays valid. Raises InputError if the corpus has changed since the survey began."""
    if survey.corpus.fingerprint is not None and STDIN not in corpus.selection.sources:
        deque(corpus, maxlen=0)  # read the corpus to its end
        _check_unchanged(survey, corpus)
    reader = _BlockReader(corpus, survey.block_size, model)
    before, done = len(survey.blocks) * survey.block_size, 0
    with crew as workers, closing(run_tasks(_unread(survey, reader, shard), workers, note)) as results:
        for result in results:
            with uninterrupted():
                survey.merge(result)
                save()
            done += len(result.blocks) * survey.block_size
            report(before + done, done)
    _check_unchanged(survey, corpus)
    survey.corpus = replace(
        survey.corpus, documents=corpus.documents, fingerprint=corpus.fingerprint,
        skipped={reason: (rows, first) for reason, (rows, first) in sorted(corpus.skipped.items())},
        files=reader.first_documents(), data=_data(survey, corpus.selection, model) or reader.data,
    )  # fmt: skip


def _data(survey: Survey, selection: CorpusSelection, model: LanguageModel) -> str:
    """Return the checksum of all names in the sources, if the selection takes only a part of the names.
    Return "" if the selection takes all names, if the model's training data are unknown, or if the sources
    are unreadable or much larger than the training data."""
    names = re.match(r"[0-9]{1,9}(?= names, )", survey.model.trained_on)
    takes_all = selection.limit is None and selection.sample is None
    if names is None or takes_all or STDIN in selection.sources:
        return ""
    most = CHUNK + NAME_BYTES * int(names[0])

    def check(size: int) -> None:
        if size > most:
            raise RunError("larger than the training data")

    with suppress(MicrogptError):
        corpus = Corpus(replace(selection, limit=None, sample=None), check)
        reader = _BlockReader(corpus, survey.block_size, model)
        deque(reader, maxlen=0)
        return reader.data
    return ""


def _check_unchanged(survey: Survey, corpus: Corpus) -> None:
    """Raise InputError if the corpus has changed since the survey read the whole corpus."""
    before, counts = survey.corpus, ""
    if before.documents not in (None, corpus.documents):
        counts = f" from {before.documents:,} to {corpus.documents:,} documents"
    if before.fingerprint not in (None, corpus.fingerprint):
        raise InputError(f"{abridged(before.sources)}: {CHANGED.format(counts)}")


def _crew_for(
    survey: Survey, source: ModelSource | LanguageModel, model: LanguageModel, options: SurveyOptions,
    note: Note,
) -> AbstractContextManager[Crew]:  # fmt: skip
    """Return the workers: this process, worker processes, or the cluster of a scheduler. Raises InputError if
    the model has no path for workers."""
    if not options.workers and options.scheduler is None:
        return nullcontext(Crew(partial(run_here, model.for_many_passes(), survey.order)))
    if not isinstance(source, ModelSource):
        raise InputError("workers: expected the path of a model that each worker can open, found a model")
    assignment = Assignment.of(source, survey.model.fingerprint, survey.order)
    if options.scheduler is not None:
        return on_cluster(assignment, options.scheduler, note)
    return in_processes(assignment, options.workers)


def _without_long_text(model: LanguageModel, most: int, digest: blake2b, document: Document) -> Document:
    """Add a document to the hash of its block. If the text has more than `most` characters, return a document
    with the reason and a shorter text. The shorter text is the name that training would read."""
    digest.update(f"{len(document.text)} ".encode())
    digest.update(document.text.encode())
    if len(document.text) <= most:
        return document
    (reason,) = model.read_many([document.text])
    return document._replace(text="".join(model.training_texts([document.text])), unfit=str(reason))


class _BlockReader:
    """The documents of a corpus in blocks of `size`. While reading, it collects the first document of each
    file, and a checksum of the names, which identifies the training data of a microGPT."""

    def __init__(self, corpus: Corpus, size: int, model: LanguageModel) -> None:
        self._corpus, self._size, self._model = corpus, size, model
        self.files: dict[str, int] = {}
        self._names = self._crc = 0

    @property
    def data(self) -> str:
        return f"{self._names} names, crc32 {self._crc:08x}" if self._names else ""

    def first_documents(self) -> tuple[tuple[str, int], ...]:
        """Return each file and its first document's number. Folders are removed if the names stay unique."""
        short = [*map(_without_folder, self.files)]
        names = short if len({*short}) == len(short) else self.files
        return tuple(zip(names, self.files.values(), strict=True))

    def __iter__(self) -> Iterator[Block]:
        remaining, most = iter(self._corpus), self._model.longest_text
        while True:
            digest, documents = blake2b(digest_size=8), list[Document]()
            short = partial(_without_long_text, self._model, most, digest)
            documents += map(short, islice(remaining, self._size))
            if not documents:
                return
            for document in documents:
                self.files.setdefault(document.file, document.number)
            if names := self._model.training_texts([document.text for document in documents]):
                joined = "\n" * bool(self._names) + "\n".join(names)
                self._crc = zlib.crc32(joined.encode(), self._crc)
                self._names += len(names)
            yield Block(documents[0].number // self._size, documents, digest.hexdigest())


def _unread(survey: Survey, blocks: Iterable[Block], shard: tuple[int, int]) -> Iterator[Block]:
    """Yield the blocks of a shard that the survey has not read. Raises InputError if a block has changed."""
    for block in blocks:
        digest = survey.blocks.get(block.number)
        if digest is None:
            if block.number % shard[1] == shard[0] - 1:
                yield block
        elif digest not in ("", block.digest):
            first, last = block.documents[0], block.documents[-1]
            raise InputError(f"{first.place} to {last.place}: {CHANGED.format('')}")


def _without_folder(source: str) -> str:
    """Return a path without its folder, which may differ between machines. Return a URL unchanged."""
    return source if "://" in source else Path(source).name
