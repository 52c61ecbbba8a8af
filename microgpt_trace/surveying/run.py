"""How a corpus goes through a model: block by block, with the same result however it is run."""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from ..architecture.model import LanguageModel
from ..corpus.corpus import Corpus, CorpusSelection, Document
from ..corpus.sources import CHUNK, STDIN
from ..errors import InputError, MicrogptError, RunError
from ..signals import uninterrupted
from ..text.wording import abridged
from .dask_cluster import on_cluster
from .execution import Assignment, Block, Crew, ModelSource, Note, run_here, side_by_side
from .shard import survey_shard
from .state import Measured, Survey, SurveyedCorpus, SurveyOrder, surveyed_model
from .worker_processes import in_processes

BLOCK = 8  # documents, at least: what is read as a whole or not at all
MOST_BLOCKS = 16  # of a shard
SECONDS = 10.0  # of computing for each result, at least, where a shard may be so large: it costs a merge
SHARES = 2  # shards that each worker should have left, so that all end together
AHEAD = SHARES * MOST_BLOCKS  # blocks for each worker that are read before they are run
HELD = 1 << 25  # bytes of texts after which no more are read ahead
MOST_OF_A_NAME = 256  # bytes of training data in the mean, the line that holds it included
Report = Callable[[int, int], None]  # how many documents are done, and how many of them by this run


def begun(model: LanguageModel, corpus: Corpus, order: SurveyOrder) -> Survey:
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


def survey_into(
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
    with crew as workers:
        tasks = Tasks(blocks, workers)
        with closing(side_by_side(iter(tasks), workers, note)) as results:
            for result in results:
                tasks.learn(result)
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


def crew_for(
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


class Tasks:
    """Blocks joined to what a crew is given at a time: the more the faster they are, and the fewer the fewer
    are left, so that workers end together."""

    def __init__(self, blocks: Iterator[Block], crew: Crew) -> None:
        self._blocks, self._crew = blocks, crew
        self._seconds = SECONDS  # of a block, as far as is known

    def learn(self, result: Measured) -> None:
        """How long blocks take."""
        self._seconds = result.seconds / len(result.blocks)

    def __iter__(self) -> Iterator[list[Block]]:
        ahead, held = deque[Block](), 0
        while True:
            count = max(1, self._crew.size())
            while len(ahead) < AHEAD * count and held < HELD and (block := next(self._blocks, None)):
                ahead.append(block)
                held += block.held
            if not ahead:
                return
            worth = int(SECONDS * count / max(self._seconds, 1e-9))
            size = max(1, min(MOST_BLOCKS, worth, len(ahead) // (SHARES * count)))
            task = [ahead.popleft() for _ in range(min(len(ahead), size * self._crew.parts))]
            held -= sum(block.held for block in task)
            yield task


def _plain(source: str) -> str:
    """A source without its folder, which differs from machine to machine."""
    return source if "://" in source else Path(source).name
