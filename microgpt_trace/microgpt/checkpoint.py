"""Save and load checkpoints: a Model and the state of its training.

A checkpoint is a safetensors file with the tensor names and the [out, in] layout of microgpt.py. The metadata
have the config, the vocabulary and the state of training. Weights without metadata can be loaded too. Without
metadata, the dimensions follow from the shapes, and the model's `assumed` lists all assumptions in words.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np

from ..arrays.stats import Array, DType
from ..errors import FileFormatError, InputError
from ..files import OwnFile
from ..plans.config_checks import check_whole_number
from ..text.brief import brief
from ..text.json_reading import from_json
from ..untrusted_files import check_regular
from .model import Model, Schedule, TrainingState, check_microgpt
from .parameters import LAYER_PARAMETERS, Config, Parameters, aligned
from .tokenizer import Tokenizer

FORMAT = "microgpt.checkpoint/1"
MOMENTS = ("adam.m_sum", "adam.v_sum")  # sums of gradients, and of squared gradients, without 1 - beta
ASSUMED_HEADS = 4  # the number of heads, for weights without metadata
MAX_BYTES = 1 << 30  # enough for 90 million parameters and the training state, all in memory


def save(model: Model, path: str | Path | OwnFile) -> None:
    """Write a checkpoint, completely or not at all. Raises RunError if the file cannot be written."""
    from safetensors.numpy import save as to_bytes

    check_microgpt(model, "save")
    tensors = {name: np.ascontiguousarray(array) for name, array in model.params.items()}
    metadata = {
        "format": FORMAT,
        "config": json.dumps(asdict(model.config)),
        "vocabulary": json.dumps({"chars": model.tokenizer.chars, "bos": model.tokenizer.bos}),
    }
    state = model.training
    if state is not None:
        fields = {name: getattr(state, name) for name in ("step", "data", "run_id")}
        metadata["training"] = json.dumps({**fields, "schedule": asdict(state.schedule)})
        if state.moments is not None:
            tensors |= dict(zip(MOMENTS, np.split(state.moments, 2), strict=True))
    file = path if isinstance(path, OwnFile) else OwnFile(Path(path), overwrite=True)
    file.write(to_bytes(tensors, metadata))


def load(
    path: str | Path, *, n_head: int | None = None, bos: Literal["first", "last"] | None = None
) -> Model:
    """Read a checkpoint that `save` wrote, or weights without metadata that have the names of microgpt.py.
    `n_head` and `bos` complete weights without metadata. For a checkpoint, `n_head` and `bos` must agree with
    the file. Raises FileFormatError or InputError with the name of the file."""
    path = Path(path)
    tensors, metadata = _read(path)
    if "config" not in metadata and metadata.get("format") != FORMAT:  # PyTorch programs write format "pt"
        config, tokenizer, assumed = _infer(path, tensors, n_head, bos)
        training = None
    else:
        config, tokenizer, training = _declared(path, metadata)
        assumed = ()
        for option, value, stored in (("--n-head", n_head, config.n_head), ("--bos", bos, tokenizer.bos)):
            if value not in (None, stored):
                raise InputError(f"{option} {value} contradicts {path}, which has {stored}")
    if config.n_layer > len(tensors):
        raise FileFormatError(f"{path}: {config.n_layer} layers in the metadata, but {len(tensors)} tensors")
    shapes = config.shapes()
    if unknown := sorted(tensors.keys() - shapes.keys() - set(MOMENTS)):
        raise FileFormatError(f"{path}: expected only tensors of a microGPT, found {brief(unknown[0])} too")
    dtypes = {tensors[name].dtype for name in shapes if name in tensors}
    dtype = np.float64 if dtypes == {np.dtype(np.float64)} else np.float32
    if not dtypes <= {np.dtype(np.float32), np.dtype(np.float64)} or len(dtypes) > 1:
        stored_as = ", ".join(sorted(map(str, dtypes)))
        assumed = (*assumed, f"weights stored as {stored_as} become {np.dtype(dtype).name}")
    flat = np.concatenate([_flat(path, tensors, name, shape, dtype) for name, shape in shapes.items()])
    if training is not None and not tensors.keys().isdisjoint(MOMENTS):
        moments = [_flat(path, tensors, name, (flat.size,), dtype) for name in MOMENTS]
        training = replace(training, moments=np.concatenate(moments))
    return Model(Parameters(config, aligned(flat)), tokenizer, str(path), training, assumed)


def _read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    size = check_regular(path, "a checkpoint file")
    if size > MAX_BYTES:
        raise FileFormatError(f"{path}: expected a checkpoint of at most {MAX_BYTES:,} bytes, found {size:,}")
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        reason = brief(str(error).splitlines()[0])
        raise FileFormatError(
            f"{path}: expected a safetensors checkpoint, found {size:,} bytes of something else ({reason})"
        ) from error
    except (OSError, TypeError) as error:
        raise FileFormatError(f"{path}: cannot read the checkpoint ({error})") from error


def _declared(path: Path, metadata: dict[str, str]) -> tuple[Config, Tokenizer, TrainingState | None]:
    if metadata.get("format") != FORMAT:
        raise FileFormatError(f"{path}: expected format {FORMAT}, found {brief(metadata.get('format'))}")
    try:
        config = Config(**from_json(metadata["config"]))
        tokenizer = Tokenizer(**from_json(metadata["vocabulary"]))
        training = None
        if "training" in metadata:
            state = from_json(metadata["training"])
            schedule = Schedule(**state["schedule"])
            step, data = state["step"], state["data"]
            check_whole_number("step", step, 0, schedule.steps + 1)
            for key in ("data", "run_id"):  # older checkpoints may lack run_id
                if not isinstance(state.get(key, ""), str):
                    raise InputError(f"{key}: expected text, found {brief(state[key])}")
            training = TrainingState(schedule, step, data, run_id=state.get("run_id", ""))
    except (KeyError, TypeError, ValueError, InputError) as error:
        reason = f"{error!s:.200}"
        raise FileFormatError(f"{path}: the metadata do not describe a microGPT ({reason})") from error
    if tokenizer.vocab_size != config.vocab_size:
        raise FileFormatError(
            f"{path}: the vocabulary has {tokenizer.vocab_size} tokens, but vocab_size is {config.vocab_size}"
        )
    return config, tokenizer, training


def _infer(
    path: Path, tensors: dict[str, Array], n_head: int | None, bos: Literal["first", "last"] | None
) -> tuple[Config, Tokenizer, tuple[str, ...]]:
    missing = [n for n in ("wte", "wpe", "layer0.mlp_fc1") if n not in tensors or tensors[n].ndim != 2]
    if missing:
        found = ", ".join(name[:80] for name in sorted(tensors)[:4]) or "nothing"
        raise FileFormatError(f"{path}: expected a microGPT with a matrix {missing[0]!r}, found {found}")
    vocab_size, width = tensors["wte"].shape
    plain = Tokenizer(bos=bos or "first")
    if vocab_size != plain.vocab_size:
        raise FileFormatError(
            f"{path}: expected a vocabulary in the metadata, or {plain.vocab_size} tokens (a..z and BOS), "
            f"found {vocab_size} tokens without metadata"
        )
    assumed = []
    if n_head is None:
        n_head = ASSUMED_HEADS
        assumed.append(f"{n_head} heads (--n-head)")
        if width % n_head:
            raise FileFormatError(f"{path}: width {width} is not a multiple of 4 heads; give --n-head")
    if bos is None:
        assumed.append("BOS first, a = 1 (--bos first|last)")
    layers = next(i for i in count() if f"layer{i}.{LAYER_PARAMETERS[0]}" not in tensors) or 1
    try:
        sizes = len(tensors["wpe"]), len(tensors["layer0.mlp_fc1"])
        config = Config(vocab_size, width, n_head, layers, *sizes)
    except InputError as error:
        raise FileFormatError(f"{path}: the shapes are not those of a microGPT ({error})") from error
    return config, plain, tuple(assumed)


def _flat(path: Path, tensors: dict[str, Array], name: str, shape: tuple[int, ...], dtype: DType) -> Array:
    """Return a tensor as a flat array. Raises FileFormatError if the tensor is missing or has another shape
    or type."""
    if name not in tensors:
        raise FileFormatError(f"{path}: tensor {name!r} is missing")
    tensor = tensors[name]
    if tensor.shape != shape or tensor.dtype.kind != "f":
        raise FileFormatError(
            f"{path}: tensor {name!r}: expected float32 {list(shape)}, "
            f"found {tensor.dtype} {list(tensor.shape)}"
        )
    return tensor.astype(dtype).ravel()
