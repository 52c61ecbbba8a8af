"""The files of recorded passes: one file, or a folder with step0.safetensors, step1.safetensors ..."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from ..files import check_new_folder, check_target, write_into


@contextmanager
def pass_files(path: Path, steps: bool, force: bool) -> Iterator[Iterator[Path]]:
    """Yield an iterator over the paths to write: `path` itself, or with `steps` one file for each pass.

    The files of steps are in a temporary folder until the end of the with block. If the block fails, they are
    removed. With `force`, they replace all step files of the folder `path`. Raises InputError if the file
    exists, or the folder has content, and `force` is not set.
    """
    if not steps:
        check_target(path, force, "force=True overwrites it")
        yield iter([path])
        return
    if not force:
        check_new_folder(path)
    with write_into(path, force) as folder:
        yield (folder / f"step{number}.safetensors" for number in count())
        for old in path.glob("step*.safetensors"):
            if not (folder / old.name).exists():
                old.unlink()
