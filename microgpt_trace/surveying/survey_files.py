"""Survey files: safetensors of all tallies, with what they are of as JSON in the metadata.

A tensor is called by its tally, the kind of that, and its part: "layer0.mlp.act/total.sum" is the sum of
each channel, rounded once, and "layer0.mlp.act/total.sum.rest" what that lacks, so that reading and merging
lose nothing. The bytes are the same for the same survey.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..errors import FileFormatError
from ..text.brief import brief
from ..text.json_reading import from_json
from ..untrusted_files import check_regular
from .state import Survey
from .survey_mark import is_survey
from .survey_reading import survey_of

FORMAT = "microgpt.survey-file/2"
OLDER = "microgpt.survey-file/1"  # whose digest is of the tensors alone
ENTRIES = 1 << 22  # values of the metadata


def survey_bytes(survey: Survey) -> bytes:
    """The bytes of a survey's file."""
    from safetensors.numpy import save

    tensors: dict[str, Array] = {}
    for name, tally in survey.tallies.items():
        for part, array in tally.arrays().items():
            tensors[f"{name}.{tally.KIND}{'.' * bool(part)}{part}"] = np.ascontiguousarray(array)
    said: dict[str, Any] = {
        "format": FORMAT,
        "model": asdict(survey.model),
        "corpus": asdict(survey.corpus),
        "order": asdict(survey.order),
        "block_size": survey.block_size,
        "blocks": None
        if survey.whole
        else {str(block): survey.blocks[block] for block in sorted(survey.blocks)},
        "unfit": {reason: survey.unfit[reason] for reason in sorted(survey.unfit)},
        "arithmetic": survey.arithmetic,
    }
    return save(tensors, {"survey": json.dumps(said | {"digest": _digest(tensors, said)})})


def _digest(tensors: Mapping[str, Array], said: Mapping[str, Any]) -> str:
    """Tells whether a byte of the tensors, or anything that is said of them, has changed."""
    digest = blake2b(digest_size=16)
    if said["format"] != OLDER:
        digest.update(json.dumps(said).encode() + b"\0")
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


def read_survey(path: str | Path) -> Survey:
    """The survey of a file. Raises FileFormatError, naming it, where it is none or damaged."""
    path = Path(path)
    check_regular(path, "a survey")
    tensors, said = _contents(path)
    try:
        return survey_of(said, tensors)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(
            f"{path}: expected a whole survey, found it damaged ({brief(str(error))})"
        ) from error


def _contents(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not is_survey(path):
        raise FileFormatError(f"{path}: expected a survey, as `microgpt survey --out` writes it")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        said = from_json(metadata.get("survey", ""), most=ENTRIES)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path}: expected a survey, found it damaged ({brief(str(error))})") from error
    if not isinstance(said, dict) or said.get("format") not in (FORMAT, OLDER):
        found = said.get("format") if isinstance(said, dict) else said
        raise FileFormatError(f"{path}: expected {FORMAT}, found {brief(found)}")
    if said.pop("digest", None) != _digest(tensors, said):
        raise FileFormatError(f"{path}: expected a survey as it was written, found some of it changed")
    return tensors, said
