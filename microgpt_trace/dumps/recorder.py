"""Record the forward pass of a PyTorch decoder, and save the values under the names of our events.

naming/torch_modules.py lists the families of decoders. This file does not import torch.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..files import check_target
from ..naming.engine_names import RETURNED_SECOND, ROUTED, ROUTER, TURNED
from ..naming.torch_modules import numbered
from .stored_arrays import write_arrays
from .torch_decoder import TorchDecoder, expected_events, find_decoder, module_at

_CACHES = ("cache", "past_key_values", "past_key_value")  # names of the argument in versions of transformers
ROTARY = "apply_rotary_pos_emb"  # the function that rotates q and k, in the Python module of the attention
_NOWHERE = "attn.scores, attn.head*, probs, loss: no module returns these values"


@contextmanager
def record(model: Any, path: str | os.PathLike[str], *, force: bool = False) -> Iterator[TorchRecording]:
    """Record the forward pass that `model` makes inside the with block, and save the values as safetensors.

    `model` has an architecture of the catalogue, with or without a head, and may be inside another module.
    The file contains float32 values [T, width] under our event names, the tokens, and the positions of the
    logits. Narrower types are converted to float32 exactly, and float64 is rounded. The file does not contain
    attn.scores, because no hook can read scores. The heads, probs and loss are also missing, but can be
    computed from other events. The file contains attn.weights if attention returns weights (eager; before
    transformers 4.48 only with output_attentions=True).

    All arrays stay in memory until the end of the block. After an exception, no file is written. Hooks are
    always removed. Raises InputError if the model has other modules or active dropout, or if the file exists
    (unless `force`). Also raises InputError for a pass that cannot be compared with a trace: several texts,
    padding, cached tokens, or a second pass.
    """
    target = Path(path)
    check_target(target, force, "force=True overwrites it")
    recording = TorchRecording(find_decoder(model))
    _check_dropout(model)
    with ExitStack() as hooks:
        recording.listen(hooks)
        yield recording
    recording.check_complete()
    write_arrays(
        target, recording.arrays, text="", tokens=recording.tokens, positions=recording.positions,
        model=_describe(model) | {"left_out": recording.left_out}, overwrite=force,
    )  # fmt: skip


class TorchRecording:
    """The recorded arrays by event, the tokens, and the positions of the logits."""

    def __init__(self, decoder: TorchDecoder) -> None:
        self.arrays: dict[str, Array] = {}
        self.tokens: tuple[int, ...] = ()
        self.positions: tuple[int, ...] = ()
        self._decoder = decoder
        self._layer: int | None = None  # the layer that is being computed
        self._position_ids: Any = None  # the input of the position embedding, or None

    @property
    def left_out(self) -> list[str]:
        """A sentence for each group of missing events, with the reason."""
        family, layers = self._decoder.family, range(len(self._decoder.layers))
        reasons = {
            TURNED: f"the attention does not call {ROTARY} of its module",
            (RETURNED_SECOND,): "not returned; use eager attention with output_attentions=True",
            (family.activation,): "the activation is not a module",
        }
        missing = [
            f"{', '.join(name.removeprefix('layer#.') for name in names)}: {reason}"
            for names, reason in reasons.items()
            if numbered(names[0], 0) in family.plan
            and any(numbered(names[0], i) not in self.arrays for i in layers)
        ]
        return [_NOWHERE, *missing, *(["logits: the head did not run"] if not self.positions else [])]

    def check_complete(self) -> None:
        """Raise InputError if the model made no forward pass, or skipped a module."""
        if not self.tokens:
            raise InputError("nothing to save: the model made no forward pass inside record()")
        done = {*self.arrays, *({"embed.tok"} if "embed.scaled" in self.arrays else ())}
        missing = [name for name in expected_events(self._decoder) if name not in done]
        if missing:
            raise InputError(
                f"{missing[0]} and {len(missing) - 1} more events were not computed inside record(): the"
                " pass did not end, or the model does not call all its modules"
            )

    def listen(self, hooks: ExitStack) -> None:
        """Add hooks to the decoder. Closing `hooks` removes all hooks."""

        def before(module: Any, hook: Callable[[Any, Any, Any], None]) -> None:
            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

        def reads(module: Any, take: Callable[[Any], None]) -> None:
            before(module, lambda module, args, kwargs: take(args[0] if args else kwargs["input"]))

        def returns(module: Any, take: Callable[[Any], None]) -> None:
            hooks.callback(module.register_forward_hook(lambda module, args, output: take(output)).remove)

        decoder, family = self._decoder, self._decoder.family
        before(decoder.stack, _check_mask)
        reads(getattr(decoder.stack, family.embedding[0]), self._note_tokens)
        if family.positions:
            reads(getattr(decoder.stack, family.positions), self._note_positions)
        for name in family.embedding:
            module = getattr(decoder.stack, name)
            scales = hasattr(module, "embed_scale")  # newer versions of Gemma's embedding multiply
            returns(module, partial(self._take, "embed.scaled" if scales else family.outside[name]))
        for value in family.recorded:
            take = partial(self._take_output, value.events, value.path in family.architecture.heads_first)
            for module in self._distinct(value.path):
                (reads if value.of_input else returns)(module, take)
        for index, layer in enumerate(decoder.layers):
            before(layer, partial(self._enter_layer, index))
            returns(layer, self._leave_layer)
        for module in self._distinct(family.attention):
            returns(module, self._take_weights)
        returns(getattr(decoder.stack, family.norm), partial(self._take, family.outside[family.norm]))
        if decoder.head is not None:
            reads(decoder.head, self._take_positions)
            returns(decoder.head, partial(self._take, "logits"))
            returns(decoder.whole, self._take_final_logits)
        self._wrap_rotary(hooks)

    def _distinct(self, path: str) -> list[Any]:
        """Return the modules at a path in all layers. List a shared module only once."""
        decoder = self._decoder
        modules = [module_at(layer, path) for layer in decoder.layers if decoder.has(layer, path)]
        return list({id(module): module for module in modules}.values())

    def _wrap_rotary(self, hooks: ExitStack) -> None:
        """Replace the global function that rotates q and k, in the Python module of the attention class."""
        attentions = self._distinct(self._decoder.family.attention)
        for home in {id(home): home for home in map(_home_of, attentions)}.values():
            original = getattr(home, ROTARY, None)
            if original is not None:
                setattr(home, ROTARY, self._saving(original))
                hooks.callback(setattr, home, ROTARY, original)

    def _saving(self, rotary: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(rotary)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            rotated = rotary(*args, **kwargs)
            if self._layer is not None:  # the layer is None if another model of this class runs
                heads = kwargs.get("unsqueeze_dim", 1)  # 1 for [1, H, T, D], 2 for [1, T, H, D]
                for name, tensor in zip(TURNED, rotated, strict=True):
                    rows = tensor.transpose(1, 2) if heads == 1 else tensor
                    self._take(numbered(name, self._layer), rows)
            return rotated

        return wrapped

    def _note_tokens(self, ids: Any) -> None:
        """Save the tokens, which are the input of the embedding."""
        if self.tokens:
            raise InputError(
                "record() expected one forward pass, found a second pass: call model(tokens) once, or"
                " generate with max_new_tokens=1"
            )
        if ids.ndim != 2 or ids.shape[0] != 1 or not ids.shape[1] or ids.is_floating_point():
            raise InputError(
                f"input_ids: expected one text, whole numbers of shape (1, T), found {_dtype(ids)} of shape"
                f" {tuple(ids.shape)}"
            )
        self.tokens = tuple(ids[0].tolist())

    def _check_tokens(self) -> None:
        if not self.tokens:
            raise InputError("record() expected input_ids as the model's input, found embeddings")

    def _note_positions(self, ids: Any) -> None:
        self._check_tokens()
        self._position_ids = ids

    def _enter_layer(self, index: int, module: Any, args: Any, kwargs: Any) -> None:
        self._layer = index
        self._check_tokens()
        if index == 0:
            _check_start(args, kwargs, self._position_ids, len(self.tokens))

    def _leave_layer(self, output: Any) -> None:
        self._layer = None

    def _take_output(self, events: Sequence[str], heads_first: bool, output: Any) -> None:
        """Save the output (or the input) of a module: [1, T, ...], or [1, H, T, D] if `heads_first`. Split
        the output if it contains several events. A router also returns the shares and the numbers of the
        chosen experts."""
        if self._layer is None:  # the module was called outside the layers
            return
        tensor = _first(output)
        parts = list(self._parts(events, tensor.transpose(1, 2) if heads_first else tensor))
        if events == (ROUTER,) and isinstance(output, tuple) and len(output) == 1 + len(ROUTED):
            parts += zip(ROUTED, output[1:], strict=True)
        for event, part in parts:
            self._take(numbered(event, self._layer), part)

    def _parts(self, events: Sequence[str], tensor: Any) -> Iterator[tuple[str, Any]]:
        """Yield the part of each event. A fused product contains q, k and v or gate and up."""
        if len(events) == 1:
            yield events[0], tensor
            return
        heads = [1] * len(events)
        if len(events) == 3:
            config = getattr(self._decoder.stack, "config", None)
            queries = getattr(config, "num_attention_heads", 1)
            heads = [queries, *[getattr(config, "num_key_value_heads", None) or queries] * 2]
        width = tensor.shape[-1] // sum(heads)
        if self._decoder.family.architecture.names.by_head:
            tensor = tensor.unflatten(-1, (heads[0], len(events), width)).transpose(-3, -2).flatten(-3)
        yield from zip(events, tensor.split([count * width for count in heads], -1), strict=True)

    def _take_weights(self, output: Any) -> None:
        """Save the attention weights [1, H, T, T], the second output of eager attention."""
        weights, length = (output[1] if isinstance(output, tuple) else None), len(self.tokens)
        shape = tuple(getattr(weights, "shape", ()))
        if self._layer is not None and shape[-2:] == (length, length):
            self._keep(numbered(RETURNED_SECOND, self._layer), _values(weights)[0])

    def _take_positions(self, normed: Any) -> None:
        """Find the positions of the logits: all positions or the last N, as in the input of the head."""
        norm = self._decoder.family.outside[self._decoder.family.norm]
        if norm not in self.arrays:
            raise InputError("record() expected the decoder to run before the head")
        rows, stream = _values(normed)[0], self.arrays[norm]
        if not np.array_equal(rows, stream[len(stream) - len(rows) :], equal_nan=True):
            raise InputError("logits_to_keep: expected all positions or the last N, found other positions")
        self.positions = tuple(range(len(stream) - len(rows), len(stream)))

    def _take_final_logits(self, output: Any) -> None:
        """Rename the output of the head to logits.raw if the model scales or caps the logits."""
        logits, raw = getattr(output, "logits", None), self.arrays.get("logits")
        final = None if logits is None else _values(logits)[0]
        if raw is not None and final is not None and not np.array_equal(final, raw, equal_nan=True):
            self.arrays |= {"logits.raw": raw, "logits": final}

    def _take(self, name: str, output: Any) -> None:
        """Save a module's output [1, T, ...], or the first item of a tuple of outputs, as rows [T, width]."""
        tensor = _first(output)
        length = len(self.positions if name == "logits" else self.tokens)
        if tensor.ndim == 2:  # mixtures compute the positions of all texts side by side
            tensor = tensor[None]
        if tensor.shape[:2] != (1, length):
            raise InputError(f"{name}: expected shape (1, {length}, ...), found {tuple(tensor.shape)}")
        self._keep(name, _values(tensor).reshape(length, -1))

    def _keep(self, name: str, array: Array) -> None:
        if name in self.arrays:
            raise InputError(f"record() expected one forward pass, found {name} a second time")
        self.arrays[name] = array


def _check_dropout(model: Any) -> None:
    for name, module in model.named_modules():
        if type(module).__name__ == "Dropout" and module.training and module.p:
            raise InputError(f"{name} is active dropout of {module.p:.0%}: call model.eval() first")


def _home_of(attention: Any) -> Any:
    """Return the Python module that defines the `forward` method of an attention."""
    owner = next(kind for kind in type(attention).__mro__ if "forward" in vars(kind))
    return sys.modules[owner.__module__]


def _check_mask(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise InputError if the mask hides a token."""
    names = list(inspect.signature(module.forward).parameters)
    place = names.index("attention_mask") if "attention_mask" in names else 1
    mask = kwargs.get("attention_mask", args[place] if len(args) > place else None)
    if mask is None:
        return
    if getattr(mask, "ndim", None) != 2:
        found = f"shape {tuple(mask.shape)}" if hasattr(mask, "shape") else f"a {type(mask).__name__}"
        raise InputError(f"attention_mask: expected None, or ones of shape (1, T), found {found}")
    padding = int((mask == 0).sum())
    if padding:
        raise InputError(f"attention_mask: expected no padding, found {padding} zeros; remove the padding")


def _check_start(args: Sequence[Any], kwargs: Mapping[str, Any], position_ids: Any, length: int) -> None:
    """Raise InputError if the cache contains earlier tokens, or positions are not 0, 1, 2 ...

    `args` and `kwargs` are the arguments of layer 0, which receives the cache and the positions in every
    version of transformers. `position_ids` is the input of the position embedding.
    """
    caches = [kwargs[name] for name in _CACHES if kwargs.get(name) is not None]
    for cache in [*caches, *(arg for arg in args if hasattr(arg, "get_seq_length"))]:
        if int(cache.get_seq_length() if hasattr(cache, "get_seq_length") else len(cache)):
            raise InputError("record() expected an empty cache, found a cache with earlier tokens")
    for positions in (kwargs.get("position_ids"), position_ids):
        if positions is None:
            continue
        found = positions.detach().cpu().numpy()
        if not np.array_equal(found, np.broadcast_to(np.arange(length), found.shape)):
            raise InputError(f"position_ids: expected 0 to {length - 1}, found {found.ravel().tolist()}")


def _first(output: Any) -> Any:
    """Return the output of a module, or the first output of several."""
    return output[0] if isinstance(output, tuple) else output


def _values(tensor: Any) -> Array:
    """Return a float32 copy of a tensor of any device and dtype."""
    return np.array(tensor.detach().cpu().float().numpy())


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _describe(model: Any) -> dict[str, Any]:
    """Return the class, origin, types and versions of the recorded model, as plain data."""
    config = getattr(model, "config", None)
    return {
        "family": "recorded",
        "class": type(model).__name__,
        "origin": str(getattr(config, "_name_or_path", "") or type(model).__name__),
        "dtype": ", ".join(sorted({_dtype(parameter) for parameter in model.parameters()})),
        "attention": getattr(config, "_attn_implementation", None),
        "torch": getattr(sys.modules.get("torch"), "__version__", None),
        "transformers": getattr(sys.modules.get("transformers"), "__version__", None),
    }
