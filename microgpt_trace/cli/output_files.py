"""What may be written where: no model, and nothing that the command reads, is lost to an option."""

from __future__ import annotations

from os.path import realpath  # which does not mind a loop of links, as Path.resolve does
from pathlib import Path

from ..errors import FileFormatError, InputError
from ..files import check_target
from ..readers.loading import format_of, is_model
from ..text.command_lines import quoted
from ..timeline.log import is_log
from ..untrusted_files import read_json

_OF_A_MODEL = ("model.safetensors", "model.safetensors.index.json", "tokenizer.json")


def refuse_over_model(option: str, path: Path, model: Path | None = None) -> None:
    """Raises InputError for a target that is the command's model, a production model, or in the folder of
    one: not even --force writes there."""
    is_model = any(map(_is_model_folder, {path.parent, Path(realpath(path)).parent}))
    is_model = is_model or (model is not None and realpath(model) == realpath(path))
    if path.is_file():
        with path.open("rb") as file:
            is_model = is_model or file.read(3) in (b"GGU", b"APR")
    if is_model:
        raise InputError(f"{option} {path}: a model is there")


def _is_model_folder(folder: Path) -> bool:
    """Whether a config.json is there that a Hugging Face model has, and not that of some other program."""
    if not (folder / "config.json").is_file():
        return False
    if any((folder / name).exists() for name in _OF_A_MODEL):
        return True
    try:
        config = read_json(folder / "config.json")
    except FileFormatError:
        return True
    return "model_type" in config or "architectures" in config


def check_training_targets(
    target: Path, log: Path | None, data: Path | None, resume: Path | None, force: bool
) -> None:
    """Raises InputError where `train` would lose something by its checkpoint or its log."""
    resumes_target = resume is not None and resume.exists() and target.exists() and target.samefile(resume)
    goes_on = f"--resume {quoted(str(target))} goes on with it"
    check_target(target, force or resumes_target, f"--force overwrites it, {goes_on}")
    _refuse_over_data("--out", target, data)
    refuse_over_model("--out", target)
    if target.exists() and not _is_checkpoint(target):
        raise InputError(f"--out {target}: --force overwrites checkpoints, and this is none")
    if log is None:
        return
    if realpath(log) == realpath(target):
        raise InputError(f"--log {log}: the checkpoint is to be written there")
    check_target(log, force or resume is not None)
    _refuse_over_data("--log", log, data)
    refuse_over_model("--log", log)
    if log.exists() and not is_log(log):
        raise InputError(f"--log {log}: expected the log of a training run, found something else")


def _refuse_over_data(option: str, path: Path, data: Path | None) -> None:
    if data is not None and realpath(data) == realpath(path):
        raise InputError(f"{option} {path}: --data reads it")


def _is_checkpoint(path: Path) -> bool:
    try:
        return not path.stat().st_size or (is_model(path) and format_of(path) == "checkpoint")
    except FileFormatError:
        return False
