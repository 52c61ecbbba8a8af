"""What a model's values are like over a corpus. Here stands by what a file is known to be a survey."""

from pathlib import Path

from ..untrusted_files import beginning


def is_survey(path: Path) -> bool:
    """Whether a file is a survey of ours, by its first bytes; a pipe is none, and not opened."""
    head = beginning(path, 128)
    return b'"survey"' in head and b"microgpt.survey" in head
