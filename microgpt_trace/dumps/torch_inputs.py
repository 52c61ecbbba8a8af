"""Read the inputs of a pass of a PyTorch decoder, and describe the model. This file does not import torch."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError

_CACHES = ("cache", "layer_past", "past_key_values", "past_key_value")  # names in versions of transformers


def whole_numbers(tensor: Any) -> Array:
    """Return an int64 copy of a tensor of whole numbers."""
    return np.array(tensor.detach().cpu().numpy(), np.int64)


def mask_of(stack: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the attention mask [B, S] in the arguments of the stack, or None, or a dict of prepared masks.
    Raises InputError for other masks."""
    names = list(inspect.signature(stack.forward).parameters)
    place = names.index("attention_mask") if "attention_mask" in names else 1
    mask = kwargs.get("attention_mask", args[place] if len(args) > place else None)
    if mask is not None and not isinstance(mask, dict) and getattr(mask, "ndim", None) != 2:
        found = f"shape {tuple(mask.shape)}" if hasattr(mask, "shape") else f"a {type(mask).__name__}"
        raise InputError(f"attention_mask: expected None, or a mask of shape (B, S), found {found}")
    return mask


def cached_tokens(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the number of tokens in the cache, from the arguments of layer 0."""
    caches = [kwargs[name] for name in _CACHES if kwargs.get(name) is not None]
    caches += [arg for arg in args if hasattr(arg, "get_seq_length")]
    lengths = [own.get_seq_length() if hasattr(own, "get_seq_length") else own[0].shape[-2] for own in caches]
    return max(map(int, lengths), default=0)


def check_comparable(inputs: Mapping[str, Array], cached: int) -> None:
    """Raise InputError for several texts, padding, cached tokens, or positions other than 0, 1, 2 ..."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask", np.ones(1))
    expected, problem = np.arange(ids.shape[1]), ""
    positions = inputs.get("position_ids", expected)
    if len(ids) > 1:
        problem = f"input_ids: expected one text, of shape (1, T), found {ids.dtype} of shape {ids.shape}"
    elif padding := int((mask == 0).sum()):
        problem = f"attention_mask: expected no padding, found {padding} zeros"
    elif cached:
        problem = "record() expected an empty cache, found a cache with earlier tokens"
    elif not np.array_equal(positions.ravel(), expected):
        problem = f"position_ids: expected 0 to {len(expected) - 1}, found {positions.ravel().tolist()}"
    if problem:
        raise InputError(f"{problem}; steps=True records such passes")


def adapters_of(model: Any) -> list[str]:
    """Return a note about the active adapters of PEFT, whose modules contain the modules of the model."""
    wrappers = [own for own in model.modules() if {"base_layer", "original_module"} & own._modules.keys()]
    active = [own for own in wrappers if not getattr(own, "disable_adapters", False)]
    names = {name for own in active for name in (*own.active_adapters, *getattr(own, "merged_adapters", ()))}
    return [f"adapters of PEFT are active: {', '.join(sorted(names))}"] if names else []


def describe(model: Any) -> dict[str, Any]:
    """Return the class, origin, types and versions of the recorded model, as plain data."""
    config = getattr(model, "config", None)
    types = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
    return {
        "family": "recorded",
        "class": type(model).__name__,
        "origin": str(getattr(config, "_name_or_path", "") or type(model).__name__),
        "dtype": ", ".join(sorted(types)),
        "attention": getattr(config, "_attn_implementation", None),
        "torch": getattr(sys.modules.get("torch"), "__version__", None),
        "transformers": getattr(sys.modules.get("transformers"), "__version__", None),
    }
