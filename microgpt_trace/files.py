"""Files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import RunError


def write_atomically(path: Path, content: bytes) -> None:
    """Write next to `path` and rename into place: readers see the old file or the new one.

    Raises RunError naming the file where the disk or the folder does not let us.
    """
    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{path}: cannot write ({error.strerror}); nothing there was changed") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
