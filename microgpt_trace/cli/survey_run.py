"""Runs a survey from the command line, and shows and saves the survey. Only `microgpt survey` loads this
module."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from time import monotonic

from ..corpus.corpus import Corpus, CorpusSelection
from ..errors import InputError, MicrogptError, RunError
from ..files import write_atomically
from ..interrupt import EXIT_CODE
from ..microgpt.documents import default_data
from ..plans.kinds import Experts
from ..readers.loading import MODEL_SUFFIXES, is_model
from ..render.results.survey_sections import imatrix_sections, survey_sections
from ..signals import interruptible
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
from ..surveying.options import SurveyOptions
from ..surveying.report import report_of
from ..surveying.state import Survey, merge_surveys
from ..surveying.survey import survey
from ..surveying.survey_files import read_survey, survey_bytes
from ..text.brief import brief
from ..text.wording import counted
from .common_options import FileSettings
from .named_model import is_there, model_from, names_a_model
from .option_checks import path_from
from .output import check_apart, check_file, note
from .progress_line import rated_progress
from .survey_options import SurveyExecution, SurveyScope, SurveySource, SurveyTargets, SurveyTexts

COUNTING = 1.0  # seconds to spend on counting the documents for the progress line
LONG = 1 << 22  # bytes: if texts are longer on average, skip the counting, because counting loads each text


def finished_surveys(arguments: Sequence[str]) -> list[Path]:
    """Return the arguments if all are finished surveys. Raises InputError if only some are surveys."""
    paths = [Path(each) for each in arguments if is_there(each) and is_survey(Path(each))]
    if paths and len(paths) < len(arguments):
        other = next(each for each in arguments if Path(each) not in paths)
        raise InputError(f"{paths[0]} is a survey, but {other} is not: expected only surveys")
    return paths


def named_imatrix(arguments: Sequence[str]) -> Path | None:
    """Return the importance matrix among the arguments, or None. Raises InputError for further arguments."""
    matrices = [Path(each) for each in arguments if each.endswith(".gguf") and is_imatrix(Path(each))]
    if matrices and len(arguments) > 1:
        raise InputError(f"{matrices[0]} is an importance matrix: leave out the other arguments")
    return matrices[0] if matrices else None


def show_imatrix(path: Path, output: SurveyTargets) -> None:
    """Show an importance matrix that was written by any program."""
    report = imatrix_report(str(path), read_imatrix(path))
    output.give(report, partial(imatrix_sections, report))


def show_surveys(paths: Sequence[Path], output: SurveyTargets) -> None:
    """Show one finished survey, or merge several surveys and show the result."""
    _check_targets(output)
    surveys = {str(path): read_survey(path) for path in paths}
    if len(surveys) < len(paths):
        raise InputError(f"{next(path for path in paths if paths.count(path) > 1)}: named twice")
    survey = merge_surveys(surveys) if len(surveys) > 1 else surveys[str(paths[0])]
    if output.out is not None:
        write_atomically(output.out, survey_bytes(survey), output.force)
    _give(survey, output)


def run_survey(
    source: SurveySource, texts: SurveyTexts, scope: SurveyScope, execution: SurveyExecution,
    output: SurveyTargets, settings: FileSettings,
) -> None:  # fmt: skip
    """Run a model over a corpus and show the report."""
    options = _options(texts, scope, execution, output)
    _check_targets(output, execution.resume)
    path, corpus = _model_and_corpus(source)
    seed = None if texts.sample is not None else texts.seed
    if path is not None and seed is not None:
        raise InputError(f"--seed is for an untrained model or for --sample, not for {path}")
    model = model_from(path, seed, settings)
    if not corpus:
        if not model.trainable:
            raise InputError(f"{model.origin} needs a corpus: files, globs, URLs, or - for standard input")
        corpus = (str(default_data()),)
    selection = CorpusSelection(
        corpus, texts.field, texts.limit, texts.sample, texts.seed or 0, texts.skip_bad
    )
    if output.imatrix is not None:
        check_inputs(model, options, output.imatrix_output)
    load_options = tuple(settings.load_settings().items()) if path is not None else ()
    elsewhere = options.workers or options.scheduler is not None
    count = partial(_count, selection, options.shard[1])
    with (
        _note_when_interrupted(output.out, execution.resume),
        rated_progress("text", count) as (report, reading),
    ):
        chosen = ModelSource(None if path is None else str(path), load_options, seed) if elsewhere else model
        result = survey(chosen, selection, **vars(options), report=report, note=note, reading=reading)
    _give(result, output)


def _options(
    texts: SurveyTexts, scope: SurveyScope, execution: SurveyExecution, output: SurveyTargets
) -> SurveyOptions:
    given = {name: value for own in (texts, scope, execution, output) for name, value in vars(own).items()}
    values = {own.name: given[own.name] for own in fields(SurveyOptions)}
    lists = {name: tuple(given[name] or ()) for name in ("events", "histograms")}
    return SurveyOptions(**values | lists | {"shard": _shard(execution.shard)})


def _model_and_corpus(source: SurveySource) -> tuple[Path | None, tuple[str, ...]]:
    """Return the path of the model (if a model is named) and the files of the corpus."""
    first, *others = source.arguments or [""]
    is_one = Path(first).suffix in MODEL_SUFFIXES or (is_there(first) and is_model(Path(first)))
    is_small = first == "small" and bool(others)
    named = source.model is None and (is_small or (is_one and names_a_model(first)))
    model, corpus = (path_from(first), others) if named else (source.model, source.arguments or [])
    for each in corpus:
        if is_there(each) and is_model(Path(each)):
            raise InputError(f"{each}: expected a file of the corpus, found a model")
    return model, tuple(corpus)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"0*([1-9][0-9]{0,8})/0*([1-9][0-9]{0,8})", text)
    if match is None:
        raise InputError(f"--shard: expected I/N with I from 1 to N, such as 3/32, found {brief(text)}")
    return int(match[1]), int(match[2])


def _count(selection: CorpusSelection, shards: int) -> int | None:
    """Return the number of documents in one shard, or None if counting takes too long."""
    if any(source == "-" or "://" in source for source in selection.sources):
        return None
    count, until = 0, monotonic() + COUNTING

    def check(read: int) -> None:
        if monotonic() > until or read > LONG * (count + 1):
            raise RunError("counting takes too long")

    try:
        for _ in Corpus(selection, check):
            count += 1
    except MicrogptError:  # slow counting, or a malformed text that the survey will report
        return None
    return -(-count // shards)


def _check_targets(output: SurveyTargets, resume: bool = False) -> None:
    """Raise InputError for an output file that cannot be written."""
    check_apart([("--out", output.out), ("--imatrix", output.imatrix)])
    hint = "--force overwrites the file, --resume continues the survey"
    check_file("--out", output.out, output.force or resume, hint, is_own=is_survey, own="a survey")
    check_file("--imatrix", output.imatrix, output.force, is_own=is_imatrix, own="an importance matrix")


@contextmanager
def _note_when_interrupted(out: Path | None, resume: bool) -> Iterator[None]:
    """Stop on a signal, and print the number of texts in the file of the survey."""

    before = None if out is None or resume else _written_at(out)
    try:
        with interruptible():
            yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if out is None or _written_at(out) == before or not is_survey(out):
            raise
        done, _ = read_survey(out).read
        note(f"interrupted: {out} contains {counted(done, 'text')}; add --resume to the command to continue")
        raise SystemExit(EXIT_CODE) from None


def _written_at(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None


def _give(survey: Survey, output: SurveyTargets) -> None:
    """Write the importance matrix, if requested, and print the report."""
    if output.imatrix is not None:
        write_imatrix(output.imatrix, imatrix_of(survey, output.imatrix_output), output.force)
        if not survey.whole:
            note(f"The survey and {output.imatrix} cover only a part of the corpus.")
        if Experts.__name__ in survey.model.kinds.values():
            note(f"{output.imatrix} has no experts, because a survey does not sum the inputs of each expert.")
    report = report_of(survey)
    output.give(report, partial(survey_sections, report, verbose=output.verbose, file=output.out))
