"""By what a file is known to be a survey. Reads none."""

from pathlib import Path

BEGINNING = 128  # bytes of the file


def is_survey(path: Path) -> bool:
    """Whether a file is a survey of ours, by its first bytes; a pipe is none, and not opened."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(BEGINNING)
    except (OSError, ValueError):  # a NUL in the name
        return False
    return b'"survey"' in head and b"microgpt.survey" in head
