"""A survey from the command line: what is opened for it, how it is run, shown and kept.

Loaded by a survey alone.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, NoReturn

from ..corpus.corpus import Corpus, CorpusSelection
from ..errors import InputError, MicrogptError, RunError
from ..files import write_atomically
from ..interrupt import EXIT_CODE
from ..microgpt.documents import default_data
from ..readers.loading import is_model
from ..render.results.survey import imatrix_sections, survey_sections
from ..signals import handled
from ..surveying import is_survey
from ..surveying.execution import ModelSource
from ..surveying.imatrix import (
    check_inputs,
    imatrix_of,
    imatrix_report,
    is_imatrix,
    read_imatrix,
    write_imatrix,
)
from ..surveying.report import report_of
from ..surveying.state import Survey, merged
from ..surveying.survey import survey
from ..surveying.survey_files import read_survey, survey_bytes
from ..text.brief import brief
from ..text.wording import counted
from .named_model import MODEL_SUFFIXES, is_there, model_from, names_a_model
from .options import OfFile
from .output import check_apart, check_file, give_result, note
from .progress import rated_progress

if TYPE_CHECKING:
    from .survey_options import SurveyExecution, SurveyScope, SurveySource, SurveyTargets, SurveyTexts

COUNTING = 1.0  # seconds for the number of documents, which the progress shows
LONG = 1 << 22  # bytes of a text in the mean, from which on they are not counted: another one is in memory


def made_before(arguments: Sequence[str]) -> list[Path]:
    """The files of surveys that are named, if any is. Raises InputError where others stand among them."""
    paths = [Path(each) for each in arguments if is_there(each) and is_survey(Path(each))]
    if paths and len(paths) < len(arguments):
        other = next(each for each in arguments if Path(each) not in paths)
        raise InputError(
            f"{paths[0]} is a survey, {other} is none: surveys are shown or merged by themselves"
        )
    return paths


def named_imatrix(arguments: Sequence[str]) -> Path | None:
    """The importance matrix that is named, if one is, alone."""
    found = [Path(each) for each in arguments if each.endswith(".gguf") and is_imatrix(Path(each))]
    if found and len(arguments) > 1:
        raise InputError(f"{found[0]}: an importance matrix is shown by itself, with nothing beside it")
    return found[0] if found else None


def show_imatrix(path: Path, output: SurveyTargets) -> None:
    """Show an importance matrix that was made, of whatever program."""
    report = imatrix_report(str(path), read_imatrix(path))
    give_result(report, partial(imatrix_sections, report), output.as_json)


def show_made(paths: Sequence[Path], output: SurveyTargets) -> None:
    """Show surveys that were made, several of them as the one that they are parts of."""
    _check_targets(output)
    surveys = {str(path): read_survey(path) for path in paths}
    if len(surveys) < len(paths):
        raise InputError(f"{paths[0]}: named twice")
    found = merged(surveys) if len(surveys) > 1 else surveys[str(paths[0])]
    if output.out is not None:
        write_atomically(output.out, survey_bytes(found), output.force)
    _give(found, output)


def run_survey(
    source: SurveySource, texts: SurveyTexts, measured: SurveyScope, running: SurveyExecution,
    output: SurveyTargets, of_file: OfFile,
) -> None:  # fmt: skip
    """Run a model over a corpus and show what holds there."""
    shard = _shard(running.shard)
    _check_targets(output, running.resume)
    path, corpus = _model_and_corpus(source)
    seed = None if texts.sample is not None else texts.seed
    if path is not None and seed is not None:
        raise InputError(f"--seed is for an untrained model or for --sample, but {path} was named")
    model = model_from(path, seed, of_file)
    if not corpus:
        if "gradients" not in model.abilities:
            raise InputError(f"a corpus is needed beside {model.origin}: files, globs or URLs of texts, or -")
        corpus = (str(default_data()),)
    chosen = CorpusSelection(corpus, texts.field, texts.limit, texts.sample, texts.seed or 0, texts.skip_bad)
    if output.imatrix is not None:
        check_inputs(model, measured.events or (), output.imatrix_output)
    options = tuple(of_file.settings_given().items()) if path is not None else ()
    elsewhere = running.workers or running.scheduler is not None
    count = partial(_counted, chosen, shard[1])
    with (
        _kept_when_interrupted(output.out, running.resume),
        rated_progress("text", count) as (report, reading),
    ):
        found = survey(
            ModelSource(None if path is None else str(path), options, seed) if elsewhere else model, chosen,
            events=measured.events or (), histograms=measured.histograms or (), top=measured.top,
            max_tokens=texts.max_tokens, chat=texts.chat, workers=running.workers,
            scheduler=running.scheduler, shard=shard, out=output.out, resume=running.resume,
            force=output.force, report=report, note=note, reading=reading,
        )  # fmt: skip
    _give(found, output)


def _model_and_corpus(source: SurveySource) -> tuple[Path | None, tuple[str, ...]]:
    """The model's path, if one is named, and the files of the corpus."""
    first, *others = source.arguments or [""]
    is_one = Path(first).suffix in MODEL_SUFFIXES or (is_there(first) and is_model(Path(first)))
    named = source.model_file is None and is_one and names_a_model(first)
    model, corpus = (Path(first), others) if named else (source.model_file, source.arguments or [])
    for each in corpus:
        if is_there(each) and is_model(Path(each)):
            raise InputError(f"{each} is a model, no corpus: a model is named first, and one alone")
    return model, tuple(corpus)


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"0*([1-9][0-9]{0,8})/0*([1-9][0-9]{0,8})", text)
    if found is None or int(found[1]) > int(found[2]):
        raise InputError(f"--shard: expected I/N with I from 1 to N, like 3/32, found {brief(text)}")
    return int(found[1]), int(found[2])


def _counted(selection: CorpusSelection, parts: int) -> int | None:
    """How many documents there are in one of so many parts, where files tell that soon."""
    if any(source == "-" or "://" in source for source in selection.sources):
        return None
    count, until = 0, monotonic() + COUNTING

    def check(read: int) -> None:
        if monotonic() > until or read > LONG * (count + 1):
            raise RunError("counting takes too long")

    try:
        for _ in Corpus(selection, check):
            count += 1
    except MicrogptError:  # what is wrong with a text is told where it is read
        return None
    return -(-count // parts)


def _check_targets(output: SurveyTargets, resume: bool = False) -> None:
    """Raises InputError where a file could not be written."""
    check_apart([("--out", output.out), ("--imatrix", output.imatrix)])
    check_file(
        "--out", output.out, output.force or resume, "--force overwrites it, --resume goes on with it",
        is_own=is_survey, own="--force and --resume are for surveys",
    )  # fmt: skip
    check_file(
        "--imatrix", output.imatrix, output.force, is_own=is_imatrix,
        own="--force is for importance matrices",
    )  # fmt: skip


@contextmanager
def _kept_when_interrupted(out: Path | None, resume: bool) -> Iterator[None]:
    """A signal that asks to end leaves what was measured in the file."""

    def stop(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = None if out is None or resume else _written_at(out)
    try:
        with handled(stop):
            yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if out is None or _written_at(out) == before or not is_survey(out):
            raise
        done, _ = read_survey(out).read
        note(f"interrupted: {out} holds {counted(done, 'text')}; the same command with --resume goes on")
        raise SystemExit(EXIT_CODE) from None


def _written_at(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _give(found: Survey, output: SurveyTargets) -> None:
    """Write the importance matrix that was asked for; print what the survey found."""
    if output.imatrix is not None:
        write_imatrix(output.imatrix, imatrix_of(found, output.imatrix_output), output.force)
        if not found.whole:
            note(f"{output.imatrix} is of a part of the corpus, as the survey is")
    report = report_of(found)
    sections = partial(survey_sections, report, verbose=output.verbose, file=output.out)
    give_result(report, sections, output.as_json)
