"""Survey files: safetensors of all tallies, with what they are of as JSON in the metadata.

A tensor is called by its tally, the kind of that, and its part: "layer0.mlp.act/total.sum" is the sum of
each channel, rounded once, and "layer0.mlp.act/total.sum.rest" what that lacks, so that reading and merging
lose nothing. The bytes are the same for the same survey.

Whatever is made of a survey that was read relies on the checks here: records have the types of their fields,
and tallies are those, of those shapes, that the order asks of such a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from ..architecture.plans.plan import layer_of
from ..arrays.exact_sum import LARGEST
from ..arrays.stats import Array
from ..errors import FileFormatError
from ..measuring.heads import COUNTS, EVENLY
from ..measuring.meter import Meter
from ..measuring.predictions import PREDICTIONS
from ..measuring.streams import STREAMS
from ..measuring.tallies import NOBODY, Counts, Ranges, Sums, Tally, TopList
from ..text.brief import brief
from ..text.json_reading import from_json
from ..untrusted_files import check_regular
from . import is_survey
from .shard import meters_of, tallies_of
from .state import Survey, SurveyedCorpus, SurveyedModel, SurveyOrder, Unfit

FORMAT = "microgpt.survey-file/2"
OLDER = "microgpt.survey-file/1"  # whose digest is of the tensors alone
REST = "rest"  # the part that sums may have besides
ENTRIES = 1 << 22  # values of the metadata
PARTS = (("",), ("train", "held out"))  # of a corpus
MOST_BLOCKS = 1 << 22  # of a survey: each has a number in memory
MOST = 2.0**62  # of what is counted, all together
TOTAL = 1e150  # of values, whose squares are numbers
GROWTH = 700.0  # the largest logarithm of a norm's growth: float64 has none of much more
Arrays = dict[str, Array]
Record = TypeVar("Record")


# --- Writing ----------------------------------------------------------------------------------


def survey_bytes(survey: Survey) -> bytes:
    """The bytes of a survey's file."""
    from safetensors.numpy import save

    tensors = {
        _tensor(name, tally, part): np.ascontiguousarray(array)
        for name, tally in survey.tallies.items()
        for part, array in tally.arrays().items()
    }
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


def _tensor(name: str, tally: Tally, part: str) -> str:
    """What a part of a tally is called."""
    return f"{name}.{tally.KIND}{'.' * bool(part)}{part}"


def _digest(tensors: Mapping[str, Array], said: Mapping[str, Any]) -> str:
    """Tells whether a byte of the tensors, or anything that is said of them, has changed."""
    digest = blake2b(digest_size=16)
    if said["format"] != OLDER:
        digest.update(json.dumps(said).encode() + b"\0")
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


# --- Reading ----------------------------------------------------------------------------------


def read_survey(path: str | Path) -> Survey:
    """The survey of a file. Raises FileFormatError, naming it, where it is none or damaged."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    check_regular(path, "a survey")
    if not is_survey(path):
        raise FileFormatError(f"{path}: expected a survey, as `microgpt survey --out` writes it")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            said = from_json(file.metadata()["survey"], most=ENTRIES)
        if said["format"] not in (FORMAT, OLDER):
            raise FileFormatError(f"{path}: expected {FORMAT}, found {brief(said['format'])}")
        if said.pop("digest") != _digest(tensors, said):
            raise FileFormatError(f"{path}: expected a survey as it was written, found some of it changed")
        return survey_of(said, tensors)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path}: expected a survey, found it damaged ({brief(str(error))})") from error


def survey_of(said: Mapping[str, Any], tensors: Mapping[str, Array]) -> Survey:
    """The survey of metadata and tensors. Raises ValueError, or what looking for something raises, where they
    are those of none."""
    survey = Survey(
        model=record_of(SurveyedModel, said["model"]), corpus=record_of(SurveyedCorpus, said["corpus"]),
        order=record_of(SurveyOrder, said["order"]), block_size=_as(int, said["block_size"]),
        unfit=_as(Mapping[str, Unfit], said["unfit"]), arithmetic=_as(tuple[str, ...], said["arithmetic"]),
    )  # fmt: skip
    survey.blocks = _blocks(survey, said["blocks"])
    survey.tallies = _tallies(survey, tensors)
    return survey


def record_of(kind: type[Record], said: Any) -> Record:
    """A record of a JSON object that has its fields and no others, each of its type."""
    hints = get_type_hints(kind)
    if not isinstance(said, dict) or said.keys() != hints.keys():
        raise ValueError(f"expected {', '.join(hints)}, found {brief(said)}")
    return kind(**{name: _as(hint, said[name]) for name, hint in hints.items()})


def _as(hint: Any, said: Any) -> Any:
    """A JSON value as a type has it: lists become tuples."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(said, list):
        hints = args[:1] * len(said) if args[-1] is ... else args
        return tuple(_as(own, value) for own, value in zip(hints, said, strict=True))
    if origin is Mapping and isinstance(said, dict):
        return {key: _as(args[1], value) for key, value in said.items()}
    if origin is UnionType:
        return None if said is None else _as(args[0], said)
    if hint is Unfit and isinstance(said, list):
        return Unfit(*_as(tuple[int, int, str], said))
    if hint is Any or (origin is None and type(said) is hint):
        return said
    raise ValueError(f"expected {getattr(hint, '__name__', hint)}, found {brief(said)}")


def _blocks(survey: Survey, said: Any) -> dict[int, str]:
    """Which blocks were read: where it does not say, all."""
    size, documents = survey.block_size, survey.corpus.documents
    if size < 1 or (documents is not None and documents < 1) or survey.order.examples < 0:
        raise ValueError(f"blocks of {size}, {documents} documents, {survey.order.examples} examples")
    count = MOST_BLOCKS if documents is None else -(-documents // size)
    if count > MOST_BLOCKS:
        raise ValueError(f"at most {MOST_BLOCKS:,} blocks are read, found {count:,}")
    if said is None and documents is not None:
        return dict.fromkeys(range(count), "")
    blocks = {int(block): digest for block, digest in _as(Mapping[str, str], said).items()}
    if not all(0 <= block < count for block in blocks):
        raise ValueError(f"blocks {brief([*blocks])} of {count:,}")
    return blocks


def _tallies(survey: Survey, tensors: Mapping[str, Array]) -> dict[str, Tally]:
    """The tallies that the survey must have, and no others."""
    order, found, left = survey.order, dict[str, Tally](), {*tensors}
    for name in order.units:  # before lists so long are made
        shape = tensors[f"{name}/top.top.value"].shape
        if shape[1:] != (order.examples,):
            raise ValueError(
                f"{name}: lists of shape {shape}, where {order.examples:,} examples were asked for"
            )
    for name, tally in tallies_of(_meters(survey, tensors), Counts(2)).items():
        parts = (*tally.arrays(), *[REST] * isinstance(tally, Sums))
        names = {part: _tensor(name, tally, part) for part in parts}
        arrays = {part: tensors[own] for part, own in names.items() if part != REST or own in tensors}
        _check(name, tally, arrays)
        found[name] = tally.of(arrays)
        left -= {*names.values()}
    if left:
        raise ValueError(f"{min(left)} is one too many")
    _check_values(found)
    return found


def _check_values(tallies: Mapping[str, Any]) -> None:
    """Raises ValueError for numbers that nothing adds up to, of which no report can be made."""
    for name, tally in tallies.items():
        _, _, measured = name.rpartition("/")
        if measured == "squares" and (tally.values() < 0).any():
            raise ValueError(f"{name}: a sum of squares is below 0")
        if measured == "total" and (np.abs(tally.values()) > TOTAL).any():
            raise ValueError(f"{name}: a sum is too large")
        if measured in COUNTS and tally.values() > tallies[f"{EVENLY}/{measured}"].values():
            raise ValueError(f"{name}: more than {EVENLY}/{measured}")
    if f"{STREAMS}/rows" in tallies:
        growth, rows = (tallies[f"{STREAMS}/{measured}"].values() for measured in ("growth", "rows"))
        if (np.abs(growth) > GROWTH * rows).any():
            raise ValueError(f"{STREAMS}/growth: more than {GROWTH:g} for each of {STREAMS}/rows")


def _meters(survey: Survey, tensors: Mapping[str, Array]) -> list[Meter]:
    """What measured it, by what the survey says of its model and how many channels were counted."""
    model, events = survey.model, survey.order.events
    channels = {name: len(tensors[f"{name}/values.count"]) for name in events}
    weights = [name for name in events if model.kinds[name] == "Softmax"]
    windows = {name: model.windows[layer_of(name)] for name in weights}  # type: ignore[index]
    own = {name.rpartition("/")[0] for name in tensors if name.endswith("/token_loss.sum")}
    corpus_parts = [some for some in PARTS if own == {f"{PREDICTIONS}{'.' * bool(p)}{p}" for p in some}]
    return meters_of(survey.order, channels, windows, model.streams, len(model.labels), corpus_parts[0])


def _check(name: str, tally: Tally, found: Arrays) -> None:
    """Raises ValueError where arrays are not such as the tally has, of sums with what these lack."""
    for part, array in tally.arrays().items():
        if (found[part].shape, found[part].dtype) != (array.shape, array.dtype):
            raise ValueError(f"{name}: expected {array.shape} {array.dtype}, found {found[part].shape}")
    if isinstance(tally, Sums):
        rest = found.get(REST, np.empty((0, *tally.shape)))
        if rest.shape[1:] != tally.shape or rest.dtype != np.float64:
            raise ValueError(f"{name}: expected what sums of {tally.shape} lack, found {rest.shape}")
        if not all((np.abs(sums) < LARGEST).all() for sums in (found[""], rest)):
            raise ValueError(f"{name}: a sum is not finite, or too large")
    elif isinstance(tally, Counts) and not ((found[""] >= 0).all() and found[""].sum(dtype=float) < MOST):
        raise ValueError(f"{name}: a count is below 0, or too large")
    elif isinstance(tally, Ranges) and any(np.isnan(ends).any() for ends in found.values()):
        raise ValueError(f"{name}: an end of a range is no number")
    elif isinstance(tally, TopList):
        _check_list(name, found)


def _check_list(name: str, found: Arrays) -> None:
    if (found["document"] < NOBODY).any() or np.isnan(found["value"]).any():
        raise ValueError(f"{name}: an entry of no document, or without a value")
    if any((found[place] < 0).any() for place in ("row", "position", "channel")):
        raise ValueError(f"{name}: an entry whose row, position or channel is below 0")
    for excerpt in found["excerpt"].reshape(-1, found["excerpt"].shape[-1]):
        excerpt.tobytes().decode()
