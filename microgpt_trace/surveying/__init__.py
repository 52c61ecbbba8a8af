"""Surveys: statistics of a model's values over a corpus. This module recognises survey files."""

from pathlib import Path

from ..untrusted_files import beginning


def is_survey(path: Path) -> bool:
    """Return True if a file begins like a survey file. Return False for a pipe without opening it."""
    head = beginning(path, 128)
    return b'"survey"' in head and b"microgpt.survey" in head
