"""record: the forward pass of a PyTorch decoder, kept under the names of our events.

Knows the families of torch_modules.py. torch is the user's: it is reached by the model alone and imported
nowhere.
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
from .engine_names import RETURNED_SECOND, TURNED
from .event_names import numbered
from .stored_arrays import write_arrays
from .torch_modules import TorchDecoder, expected_events, find_decoder, module_at

_CACHES = ("cache", "past_key_values", "past_key_value")  # what versions of transformers call it
_NOWHERE = "attn.scores, attn.head*, probs, loss: no module gives them"


@contextmanager
def record(model: Any, path: str | os.PathLike[str], *, force: bool = False) -> Iterator[TorchRecording]:
    """Record the one forward pass that `model` makes inside, and save it as safetensors at the end.

    `model` is a decoder of Llama's, Mistral's, Qwen2's, Qwen3's or GPT-2's modules, with or without its
    head, wrapped or not. The file has our names, float32 values [T, width] (narrower types are widened
    exactly, float64 is rounded), the tokens and the positions of the logits. attn.scores are no value
    that a hook could see and are left out, as are the events that follow from others (heads, probs,
    loss); attn.weights are there where the attention returns them (eager; before transformers 4.48 only
    with output_attentions=True). After an exception nothing is written; hooks are removed in any case.
    All arrays stay in memory until then.

    Raises InputError for a model with other modules or with dropout at work, a file that exists (unless
    `force`), and for a pass that a trace cannot be compared with: several texts, padding, cached tokens, a
    second pass.
    """
    target = Path(path)
    check_target(target, force, "force=True overwrites it")
    recording = TorchRecording(find_decoder(model))
    _check_dropout(model)
    with ExitStack() as hooks:
        recording.listen(hooks)
        yield recording
    recording.check_whole()
    write_arrays(
        target, recording.arrays, text="", tokens=recording.tokens, positions=recording.positions,
        model=_describe(model) | {"left_out": recording.left_out}, overwrite=force,
    )  # fmt: skip


class TorchRecording:
    """What was recorded so far: `arrays` by event, the `tokens`, the `positions` of the logits."""

    def __init__(self, decoder: TorchDecoder) -> None:
        self.arrays: dict[str, Array] = {}
        self.tokens: tuple[int, ...] = ()
        self.positions: tuple[int, ...] = ()
        self._decoder = decoder
        self._layer: int | None = None  # the layer that is being computed
        self._asked: Any = None  # the positions that a table of them was asked for

    @property
    def left_out(self) -> list[str]:
        """The events that are missing, with the reason."""
        family = self._decoder.family
        reasons = {
            TURNED: f"the attention calls no {family.rotary} of its module" if family.rotary else "",
            (RETURNED_SECOND,): "not returned; eager attention does, asked for output_attentions",
            family.in_layer(family.activation): "the activation is no module" if family.activation else "",
        }
        said = [
            f"{', '.join(name.removeprefix('layer#.') for name in names)}: {reason}"
            for names, reason in reasons.items()
            if reason
            and any(numbered(names[0], i) not in self.arrays for i in range(len(self._decoder.layers)))
        ]
        return [_NOWHERE, *said, *(["logits: the head did not run"] if not self.positions else [])]

    def check_whole(self) -> None:
        """Raises InputError where no pass was made, or one that did not call every module."""
        if not self.tokens:
            raise InputError("nothing to save: the model made no forward pass inside record()")
        missing = [name for name in expected_events(self._decoder) if name not in self.arrays]
        if missing:
            raise InputError(
                f"{missing[0]} and {len(missing) - 1} more events were not computed inside record(): the"
                " pass did not end, or does not call the modules behind them"
            )

    def listen(self, hooks: ExitStack) -> None:
        """Hook the decoder until `hooks` closes."""

        def before(module: Any, hook: Callable[..., None]) -> None:
            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

        def after(module: Any, hook: Callable[..., None]) -> None:
            hooks.callback(module.register_forward_hook(hook).remove)

        decoder, family = self._decoder, self._decoder.family
        before(decoder.stack, _check_mask)
        before(getattr(decoder.stack, family.embedding[0]), self._begin)
        if family.positions:
            before(getattr(decoder.stack, family.positions), self._note_positions)
        for name in family.embedding:
            after(getattr(decoder.stack, name), partial(self._take, family.event(name)))
        for path, of_input, events in family.taps:
            for module in self._distinct(path):
                if of_input:
                    before(module, partial(self._take_input, events))
                else:
                    after(module, partial(self._take_output, events))
        for index, layer in enumerate(decoder.layers):
            before(layer, partial(self._enter_layer, index))
            after(layer, self._leave_layer)
        for module in self._distinct(family.attention):
            after(module, self._take_weights)
        after(getattr(decoder.stack, family.norm), partial(self._take, family.event(family.norm)))
        if decoder.head is not None:
            before(decoder.head, self._take_positions)
            after(decoder.head, partial(self._take, "logits"))
        self._wrap_rotary(hooks)

    def _distinct(self, path: str) -> list[Any]:
        """The modules at a path of every layer, each once: an activation may be shared by all."""
        found = [module_at(layer, path) for layer in self._decoder.layers]
        return list({id(module): module for module in found if module is not None}.values())

    def _wrap_rotary(self, hooks: ExitStack) -> None:
        """Listen to the function that turns q and k, which is a global of the attention's module."""
        attentions, rotary = self._distinct(self._decoder.family.attention), self._decoder.family.rotary
        if not rotary:
            return
        for home in {id(home): home for home in map(_home_of, attentions)}.values():
            original = getattr(home, rotary, None)
            if original is not None:
                setattr(home, rotary, self._listening(original))
                hooks.callback(setattr, home, rotary, original)

    def _listening(self, rotary: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(rotary)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            turned = rotary(*args, **kwargs)
            if self._layer is not None:  # else another model of the same class is running
                heads = kwargs.get("unsqueeze_dim", 1)  # [1, H, T, D], or 2: [1, T, H, D]
                for name, tensor in zip(TURNED, turned, strict=True):
                    rows = tensor.transpose(1, 2) if heads == 1 else tensor
                    self._take(numbered(name, self._layer), None, None, rows)
            return turned

        return wrapped

    def _begin(self, module: Any, args: Any, kwargs: Any) -> None:
        """The tokens: what the embedding is asked for."""
        if self.tokens:
            raise InputError(
                "record() takes one forward pass, and a second began: record model(tokens) by itself,"
                " or generate with max_new_tokens=1"
            )
        ids = args[0] if args else kwargs["input"]
        if ids.ndim != 2 or ids.shape[0] != 1 or not ids.shape[1] or ids.is_floating_point():
            raise InputError(
                f"input_ids: expected whole numbers of shape (1, T), one text, found {tuple(ids.shape)}"
                f" of {_dtype(ids)}"
            )
        self.tokens = tuple(ids[0].tolist())

    def _check_tokens(self) -> None:
        """Raises InputError where the embedding was not asked for tokens."""
        if not self.tokens:
            raise InputError("record() takes the tokens from input_ids, and the model was given embeddings")

    def _note_positions(self, module: Any, args: Any, kwargs: Any) -> None:
        self._check_tokens()
        self._asked = args[0] if args else kwargs["input"]

    def _enter_layer(self, index: int, module: Any, args: Any, kwargs: Any) -> None:
        self._layer = index
        self._check_tokens()
        if index == 0:
            _check_start(args, kwargs, self._asked, len(self.tokens))

    def _leave_layer(self, module: Any, args: Any, output: Any) -> None:
        self._layer = None

    def _take_input(self, events: Sequence[str], module: Any, args: Any, kwargs: Any) -> None:
        self._take_output(events, module, args, args[0])

    def _take_output(self, events: Sequence[str], module: Any, args: Any, output: Any) -> None:
        """Keep what a module of the layer gave, [1, T, width]; of several events side by side, each."""
        if self._layer is None:  # somebody uses the module by itself
            return
        tensor = _first(output)
        width = tensor.shape[-1] // len(events)
        for i, event in enumerate(events):
            part = tensor if len(events) == 1 else tensor[..., i * width : (i + 1) * width]
            self._take(numbered(event, self._layer), module, args, part)

    def _take_weights(self, module: Any, args: Any, output: Any) -> None:
        """What eager attention returns beside its output: [1, H, T, T]"""
        weights, length = (output[1] if isinstance(output, tuple) else None), len(self.tokens)
        shape = tuple(getattr(weights, "shape", ()))
        if self._layer is not None and shape[-2:] == (length, length):
            self._keep(numbered(RETURNED_SECOND, self._layer), _values(weights)[0])

    def _take_positions(self, module: Any, args: Any, kwargs: Any) -> None:
        """Which positions the head is asked for: all of them or the last few (logits_to_keep)."""
        normed = self._decoder.family.event(self._decoder.family.norm)
        if normed not in self.arrays:
            raise InputError("record() expected a pass of the decoder before the head, found none")
        rows, stream = _values(args[0])[0], self.arrays[normed]
        if not np.array_equal(rows, stream[len(stream) - len(rows) :], equal_nan=True):
            raise InputError("logits_to_keep: expected all positions or the last few, found others")
        self.positions = tuple(range(len(stream) - len(rows), len(stream)))

    def _take(self, name: str, module: Any, args: Any, output: Any) -> None:
        """Keep what a module gave, [1, T, ...] alone or first in a tuple, as rows [T, width]."""
        tensor = _first(output)
        length = len(self.positions if name == "logits" else self.tokens)
        if tensor.shape[:2] != (1, length):
            raise InputError(f"{name}: expected shape (1, {length}, ...), found {tuple(tensor.shape)}")
        self._keep(name, _values(tensor).reshape(length, -1))

    def _keep(self, name: str, array: Array) -> None:
        if name in self.arrays:
            raise InputError(f"record() takes one forward pass, and {name} was computed again")
        self.arrays[name] = array


def _check_dropout(model: Any) -> None:
    """Raises InputError where a module sets values to zero at random."""
    for name, module in model.named_modules():
        if type(module).__name__ == "Dropout" and module.training and module.p:
            raise InputError(f"{name} drops {module.p:.0%} at random: call model.eval() first")


def _home_of(attention: Any) -> Any:
    """The Python module whose functions an attention's forward calls."""
    owner = next(kind for kind in type(attention).__mro__ if "forward" in vars(kind))
    return sys.modules[owner.__module__]


def _check_mask(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises InputError unless every token may be seen."""
    names = list(inspect.signature(module.forward).parameters)
    place = names.index("attention_mask") if "attention_mask" in names else 1
    mask = kwargs.get("attention_mask", args[place] if len(args) > place else None)
    if mask is None:
        return
    if getattr(mask, "ndim", None) != 2:
        found = f"shape {tuple(mask.shape)}" if hasattr(mask, "shape") else f"a {type(mask).__name__}"
        raise InputError(f"attention_mask: expected none, or ones of shape (1, T), found {found}")
    padding = int((mask == 0).sum())
    if padding:
        raise InputError(f"attention_mask: expected no padding, found {padding} zeros: leave the padding out")


def _check_start(args: Sequence[Any], kwargs: Mapping[str, Any], asked: Any, length: int) -> None:
    """Raises InputError where tokens came before, or positions are not 0, 1, 2 ...; asked of the first
    layer, which is told both in every version, before it adds to the cache. `asked` are the positions that
    a table of them was asked for, if there is one."""
    caches = [kwargs[name] for name in _CACHES if kwargs.get(name) is not None]
    for cache in [*caches, *(given for given in args if hasattr(given, "get_seq_length"))]:
        if int(cache.get_seq_length() if hasattr(cache, "get_seq_length") else len(cache)):
            raise InputError("record() takes a text from its first token, and the cache holds earlier ones")
    for positions in (kwargs.get("position_ids"), asked):
        if positions is None:
            continue
        found = positions.detach().cpu().numpy()
        if not np.array_equal(found, np.broadcast_to(np.arange(length), found.shape)):
            raise InputError(f"position_ids: expected 0 to {length - 1}, found {found.ravel().tolist()}")


def _first(output: Any) -> Any:
    """What a module gave, alone or first in a tuple."""
    return output[0] if isinstance(output, tuple) else output


def _values(tensor: Any) -> Array:
    """A float32 copy of a tensor, whatever its device and dtype."""
    return np.array(tensor.detach().cpu().float().numpy())


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _describe(model: Any) -> dict[str, Any]:
    """What identifies the model that was recorded, as plain data."""
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
