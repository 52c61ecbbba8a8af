"""Read and write survey files: safetensors files of all tallies, with JSON metadata that describe the survey.

The name of a tensor consists of the name of its tally, the kind of the tally, and a part. For example,
"layer0.mlp.act/total.sum" is the sum of each channel, rounded once. "layer0.mlp.act/total.sum.rest" is the
rounding error of each sum, so that reading and merging lose no precision. Equal surveys have equal bytes.

Reading checks the types of all fields, and the names and shapes of the tallies, because reports rely on them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from hashlib import blake2b
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from ..arrays.exact_sum import LARGEST
from ..arrays.stats import Array
from ..errors import FileFormatError
from ..measuring.attention_meter import COUNTS, EVENLY
from ..measuring.head_tokens import HeadTokenMeter
from ..measuring.meter import Meter
from ..measuring.prediction_meter import PREDICTIONS
from ..measuring.streams import STREAMS
from ..measuring.tallies import NOBODY, Counts, Ranges, Sums, Tally, TopList
from ..plans.plan import layer_of
from ..surveying import is_survey
from ..text.brief import brief
from ..text.json_reading import from_json
from ..untrusted_files import check_regular
from .shard import meters_of, tallies_of
from .state import Survey, SurveyedCorpus, SurveyedModel, SurveyOrder, Unfit

FORMAT = "microgpt.survey-file/2"
OLDER = "microgpt.survey-file/1"  # an older format, whose digest covers only the tensors
REST = "rest"  # name of the optional part with the rounding errors of sums
ENTRIES = 1 << 22  # largest number of values in the metadata
PARTS = (("",), ("train", "held out"))  # a corpus has one part without a name, or two parts
MOST_BLOCKS = 1 << 22  # largest number of blocks, because memory stores a number per block
MOST = 2.0**62  # upper limit of the sum of a tally's counts
TOTAL = 1e150  # largest sum of values, because the square of a sum must fit in float64
GROWTH = 700.0  # largest logarithm of a norm's growth, because exp(710) overflows in float64
Arrays = dict[str, Array]


# --- Writing ----------------------------------------------------------------------------------


def survey_bytes(survey: Survey) -> bytes:
    """Return the bytes of a survey's file."""
    from safetensors.numpy import save

    tensors = {
        _tensor(name, tally, part): np.ascontiguousarray(array)
        for name, tally in survey.tallies.items()
        for part, array in tally.arrays().items()
    }
    blocks = {str(block): digest for block, digest in sorted(survey.blocks.items())}
    metadata: dict[str, Any] = {
        "format": FORMAT,
        **{part: asdict(getattr(survey, part)) for part in ("model", "corpus", "order")},
        "block_size": survey.block_size,
        "blocks": None if survey.whole else blocks,
        "unfit": dict(sorted(survey.unfit.items())),
        "arithmetic": survey.arithmetic,
    }
    return save(tensors, {"survey": json.dumps(metadata | {"digest": _digest(tensors, metadata)})})


def _tensor(name: str, tally: Tally, part: str) -> str:
    """Return the name of the tensor for a part of a tally."""
    return f"{name}.{tally.KIND}{'.' * bool(part)}{part}"


def _digest(tensors: Mapping[str, Array], metadata: Mapping[str, Any]) -> str:
    """Return a hash of the tensors and metadata. Any changed byte changes the hash."""
    digest = blake2b(digest_size=16)
    if metadata["format"] != OLDER:
        digest.update(json.dumps(metadata).encode() + b"\0")
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()


# --- Reading ----------------------------------------------------------------------------------


def read_survey(path: str | Path) -> Survey:
    """Read a survey file. Raises FileFormatError if the file is not a survey or is damaged."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    check_regular(path, "a survey")
    if not is_survey(path):
        raise FileFormatError(f"{path}: expected a survey, as written by `microgpt survey --out`")
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = from_json(file.metadata()["survey"], most=ENTRIES)
        if metadata["format"] not in (FORMAT, OLDER):
            raise FileFormatError(f"{path}: expected {FORMAT}, found {brief(metadata['format'])}")
        if metadata.pop("digest") != _digest(tensors, metadata):
            raise FileFormatError(f"{path}: expected an unchanged survey file, found changed bytes")
        return _survey(metadata, tensors)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"{path}: the survey file is damaged ({brief(str(error))})") from error


def _survey(metadata: Mapping[str, Any], tensors: Mapping[str, Array]) -> Survey:
    """Build the survey. Raises ValueError, TypeError, LookupError or AttributeError for invalid contents."""
    survey = Survey(
        model=_as(SurveyedModel, metadata["model"]), corpus=_as(SurveyedCorpus, metadata["corpus"]),
        order=_as(SurveyOrder, metadata["order"]), block_size=_as(int, metadata["block_size"]),
        unfit=_as(Mapping[str, Unfit], metadata["unfit"]),
        arithmetic=_as(tuple[str, ...], metadata["arithmetic"]),
    )  # fmt: skip
    survey.blocks = _blocks(survey, metadata["blocks"])
    survey.tallies = _tallies(survey, tensors)
    return survey


def _as(hint: Any, value: Any) -> Any:
    """Convert a JSON value to the type `hint`, such as a list to a tuple. For a dataclass, the value is an
    object with exactly the same fields. Raises ValueError for other values."""
    if isinstance(hint, type) and is_dataclass(hint):
        fields = get_type_hints(hint)
        if not isinstance(value, dict) or value.keys() != fields.keys():
            raise ValueError(f"expected {', '.join(fields)}, found {brief(value)}")
        return hint(**{name: _as(kind, value[name]) for name, kind in fields.items()})
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple and isinstance(value, list):
        hints = args[:1] * len(value) if args[-1] is ... else args
        return tuple(_as(own, item) for own, item in zip(hints, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {key: _as(args[1], item) for key, item in value.items()}
    if origin is UnionType:
        return None if value is None else _as(args[0], value)
    if hint is Unfit and isinstance(value, list):
        return Unfit(*_as(tuple[int, int, str], value))
    if hint is Any or (origin is None and type(value) is hint):
        return value
    raise ValueError(f"expected {getattr(hint, '__name__', hint)}, found {brief(value)}")


def _blocks(survey: Survey, value: Any) -> dict[int, str]:
    """Return the hash of each read block, by block number. If `value` is None, all blocks were read."""
    size, documents = survey.block_size, survey.corpus.documents
    if size < 1 or (documents is not None and documents < 1) or survey.order.examples < 0:
        raise ValueError(f"blocks of {size}, {documents} documents, {survey.order.examples} examples")
    count = MOST_BLOCKS if documents is None else -(-documents // size)
    if count > MOST_BLOCKS:
        raise ValueError(f"expected at most {MOST_BLOCKS:,} blocks, found {count:,}")
    if value is None and documents is not None:
        return dict.fromkeys(range(count), "")
    blocks = {int(block): digest for block, digest in _as(Mapping[str, str], value).items()}
    if not all(0 <= block < count for block in blocks):
        raise ValueError(f"expected blocks below {count:,}, found {brief([*blocks])}")
    return blocks


def _tallies(survey: Survey, tensors: Mapping[str, Array]) -> dict[str, Tally]:
    """Build the tallies that the order requires. Raises ValueError if the tensors do not match."""
    order, tallies, unused = survey.order, dict[str, Tally](), {*tensors}
    for name in order.units:  # check first, because the meters allocate lists of `order.examples` entries
        shape = tensors[f"{name}/top.top.value"].shape
        if shape[1:] != (order.examples,):
            raise ValueError(f"{name}: expected lists of {order.examples:,} examples, found shape {shape}")
    for name, tally in tallies_of(_meters(survey, tensors), Counts(2)).items():
        parts = (*tally.arrays(), *[REST] * isinstance(tally, Sums))
        names = {part: _tensor(name, tally, part) for part in parts}
        arrays = {part: tensors[own] for part, own in names.items() if part != REST or own in tensors}
        _check(name, tally, arrays)
        tally.restore(arrays)
        tallies[name] = tally
        unused -= {*names.values()}
    if unused:
        raise ValueError(f"the tensor {min(unused)} does not belong to the survey")
    _check_values(tallies)
    return tallies


def _check_values(tallies: Mapping[str, Any]) -> None:
    """Raise ValueError for impossible numbers, such as a negative sum of squares."""
    for name, tally in tallies.items():
        _, _, measure = name.rpartition("/")
        if measure == "squares" and (tally.values() < 0).any():
            raise ValueError(f"{name}: a sum of squares is below 0")
        if measure == "total" and (np.abs(tally.values()) > TOTAL).any():
            raise ValueError(f"{name}: a sum is too large")
        if measure in COUNTS and tally.values() > tallies[f"{EVENLY}/{measure}"].values():
            raise ValueError(f"{name}: more than {EVENLY}/{measure}")
    if f"{STREAMS}/rows" in tallies:
        growth, rows = (tallies[f"{STREAMS}/{measure}"].values() for measure in ("growth", "rows"))
        if (np.abs(growth) > GROWTH * rows).any():
            raise ValueError(f"{STREAMS}/growth: more than {GROWTH:g} per row")


def _meters(survey: Survey, tensors: Mapping[str, Array]) -> list[Meter]:
    """Rebuild the meters that measured the survey."""
    model, events = survey.model, survey.order.events
    channels = {name: len(tensors[f"{name}/values.count"]) for name in events}
    weights = [name for name in events if model.kinds[name] == "Softmax"]
    windows = {name: model.windows[layer_of(name)] for name in weights}  # type: ignore[index]
    stored = {name.rpartition("/")[0] for name in tensors if name.endswith("/token_loss.sum")}
    routed = (name for name in events if f"{name}/routed.count" in tensors and layer_of(name) is not None)
    routers = dict.fromkeys(routed, "")  # no events of choices, because these meters measure nothing
    parts = [own for own in PARTS if stored == {f"{PREDICTIONS}{'.' * bool(part)}{part}" for part in own}]
    meters = meters_of(survey.order, channels, windows, routers, model.streams, len(model.labels), parts[0])
    by_token = any(name.endswith("/from.count") for name in tensors)
    return [meter for meter in meters if by_token or not isinstance(meter, HeadTokenMeter)]


def _check(name: str, tally: Tally, arrays: Arrays) -> None:
    """Raise ValueError if the shapes, types or values of arrays are invalid for the tally."""
    for part, array in tally.arrays().items():
        if (arrays[part].shape, arrays[part].dtype) != (array.shape, array.dtype):
            raise ValueError(f"{name}: expected {array.shape} {array.dtype}, found {arrays[part].shape}")
    if isinstance(tally, Sums):
        rest = arrays.get(REST, np.empty((0, *tally.shape)))
        if rest.shape[1:] != tally.shape or rest.dtype != np.float64:
            raise ValueError(f"{name}: expected the shape {tally.shape}, found {rest.shape}")
        if not all((np.abs(sums) < LARGEST).all() for sums in (arrays[""], rest)):
            raise ValueError(f"{name}: a sum is not finite or too large")
    elif isinstance(tally, Counts) and not ((arrays[""] >= 0).all() and arrays[""].sum(dtype=float) < MOST):
        raise ValueError(f"{name}: a count is below 0 or too large")
    elif isinstance(tally, Ranges) and any(np.isnan(ends).any() for ends in arrays.values()):
        raise ValueError(f"{name}: a smallest or largest value is not a number")
    elif isinstance(tally, TopList):
        if (arrays["document"] < NOBODY).any() or np.isnan(arrays["value"]).any():
            raise ValueError(f"{name}: an entry has no document or no value")
        if any((arrays[place] < 0).any() for place in ("row", "position", "channel")):
            raise ValueError(f"{name}: the row, position or channel of an entry is below 0")
        for excerpt in arrays["excerpt"].reshape(-1, arrays["excerpt"].shape[-1]):
            excerpt.tobytes().decode()
