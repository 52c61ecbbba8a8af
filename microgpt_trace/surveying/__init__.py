"""Statistics of a model's values over a corpus. This module recognises survey files."""

from pathlib import Path

from ..untrusted_files import beginning


def is_survey(path: Path) -> bool:
    """Return True if the first bytes of a file are those of a survey. A pipe is not opened and never one."""
    head = beginning(path, 128)
    return b'"survey"' in head and b"microgpt.survey" in head
