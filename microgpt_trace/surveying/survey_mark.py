"""By what a file is known to be a survey. Reads none."""

from pathlib import Path

BEGINNING = 128  # bytes of the file


def is_survey(path: Path) -> bool:
    """Whether a file is a survey of ours, by its first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(BEGINNING)
    except OSError:
        return False
    return b'"survey"' in head and b"microgpt.survey" in head
