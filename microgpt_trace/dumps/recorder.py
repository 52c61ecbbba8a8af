"""Record the forward pass of a PyTorch decoder, and save the values under the names of our events.

naming/torch_modules.py lists the families of decoders. This file does not import torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..files import pass_files
from ..naming.engine_names import RETURNED_SECOND, ROUTED, ROUTER, TURNED
from ..naming.torch_modules import numbered, of_any_layer
from .stored_arrays import write_arrays
from .torch_decoder import TorchDecoder, check_dropout, expected_events, find_decoder, home_of, module_at
from .torch_inputs import adapters_of, cached_tokens, check_comparable, describe, mask_of, whole_numbers

ROTARY = "apply_rotary_pos_emb"  # the function that rotates q and k, in the Python module of the attention
MEDIA = ("pixel_values", "pixel_values_videos", "input_features")
_NOWHERE = "attn.scores, attn.head*, probs, loss: no module returns these values"


@contextmanager
def record(
    model: Any, path: str | os.PathLike[str], *, force: bool = False, steps: bool = False
) -> Iterator[TorchRecording]:
    """Record the forward pass that `model` makes inside the with block, and save the values as safetensors.

    `model` has an architecture of the catalogue, with or without a head, and may be inside another module.
    The file contains float32 values [T, width] under our event names, the tokens, and the positions of the
    logits. Narrower types are converted to float32 exactly, and float64 is rounded. The file does not contain
    attn.scores, because no hook can read scores. The heads, probs and loss are also missing, but can be
    computed from other events. The file contains attn.weights [H, T, S] if attention returns weights (eager;
    before transformers 4.48 only with output_attentions=True). S counts the keys.

    With `steps`, record every pass, such as a prefill and the decoding steps of model.generate, or chunks of
    a prompt. `path` is then a new folder, and pass N is written to stepN.safetensors. The passes may be
    batches: a batch of B > 1 texts has arrays [B, T, width] and [B, H, T, S], with the rows of padding. Each
    file also contains whole numbers: input_ids [B, T], position_ids [B, T] if the model uses them, and the
    attention_mask [B, S] of the caller. For example:

        with record(model, "steps", steps=True):
            model.generate(ids, max_new_tokens=4)

    The arrays of one pass stay in memory. After an exception, no file is written. Hooks are always removed.
    `force` overwrites existing files. Raises InputError if the model has other modules or active dropout, or
    if the file exists (unless `force`). Without `steps`, also raises InputError for a pass that cannot be
    compared with a trace: several texts, padding, cached tokens, or a second pass.
    """
    with pass_files(Path(path), steps, force) as paths:

        def save(recording: TorchRecording) -> None:
            write_arrays(
                next(paths), recording.arrays | (recording.inputs if steps else {}), text="",
                tokens=recording.tokens, positions=recording.positions, notes=recording.notes,
                model=describe(model) | {"left_out": recording.left_out}, overwrite=force,
            )  # fmt: skip

        recording = TorchRecording(find_decoder(model), save, steps)
        check_dropout(model)
        with ExitStack() as hooks:
            recording.listen(hooks)
            yield recording
        recording.finish()


class TorchRecording:
    """The recorded arrays by event, the tokens of one text, and the positions of the logits. If several
    passes are recorded, these belong to the pass that runs now, or to the last pass."""

    def __init__(self, decoder: TorchDecoder, save: Callable[[TorchRecording], None], steps: bool) -> None:
        self._decoder, self._save, self._steps = decoder, save, steps
        self._reset()

    def _reset(self) -> None:
        """Forget the last pass."""
        self.arrays: dict[str, Array] = {}
        self.inputs: dict[str, Array] = {}  # input_ids, attention_mask and position_ids, as whole numbers
        self.positions: tuple[int, ...] = ()
        self.notes: list[str] = []
        self._ids = np.zeros((0, 0), np.int64)  # [B, T]
        self._keys = 0  # T, and the tokens in the cache
        self._layer: int | None = None  # the layer that is being computed

    @property
    def tokens(self) -> tuple[int, ...]:
        """The tokens of the text, or () for a batch of several texts."""
        return tuple(self._ids[0].tolist()) if len(self._ids) == 1 else ()

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

    def finish(self) -> None:
        """Save the pass. Raises InputError if the model made no forward pass, or skipped a module."""
        if not self._ids.size:
            raise InputError("nothing to save: the model made no forward pass inside record()")
        done = {*self.arrays, *({"embed.tok"} if "embed.scaled" in self.arrays else ())}
        missing = [name for name in expected_events(self._decoder) if name not in done]
        if missing:
            raise InputError(
                f"{missing[0]} and {len(missing) - 1} more events were not computed inside record(): the"
                " pass did not end, or the model does not call all its modules"
            )
        self._save(self)

    def _start(self) -> None:
        """If the last pass ended, save the pass, and start the next pass."""
        if self._steps and self._decoder.last_event in self.arrays:
            self.finish()
            self._reset()

    def listen(self, hooks: ExitStack) -> None:
        """Add hooks to the decoder. Closing `hooks` removes all hooks."""

        def before(module: Any, hook: Callable[[Any, Any, Any], None]) -> None:
            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

        def reads(module: Any, take: Callable[[Any], None]) -> None:
            before(module, lambda module, args, kwargs: take(args[0] if args else kwargs["input"]))

        def returns(module: Any, take: Callable[[Any], None]) -> None:
            hooks.callback(module.register_forward_hook(lambda module, args, output: take(output)).remove)

        decoder, family = self._decoder, self._decoder.family
        for module in filter(None, (decoder.whole, decoder.stack)):
            before(module, self._note_mask)
        reads(getattr(decoder.stack, decoder.embedding[0]), self._note_tokens)
        if family.positions:
            reads(getattr(decoder.stack, family.positions), self._note_positions)
        for name in decoder.embedding:
            module, event = getattr(decoder.stack, name), family.outside[name]
            # newer versions of Gemma's embedding multiply; an adapter has the embedding as base_layer
            scales = hasattr(getattr(module, "base_layer", module), "embed_scale")
            event = "embed.scaled" if scales and event == "embed.tok" else event
            returns(module, partial(self._take, event))
        for value in family.recorded:
            take = partial(self._take_output, value.events, value.path in family.architecture.heads_first)
            for module in self._distinct(value.path, value.needs):
                (reads if value.of_input else returns)(module, take)
        for index, layer in enumerate(decoder.layers):
            before(layer, partial(self._enter_layer, index))
            returns(layer, self._leave_layer)
        for module in self._distinct(family.attention):
            returns(module, self._take_weights)
        returns(getattr(decoder.stack, family.norm), partial(self._take, decoder.last_event))
        if decoder.head is not None:
            reads(decoder.head, self._take_positions)
            returns(decoder.head, partial(self._take, "logits"))
            returns(decoder.whole, self._take_final_logits)
        self._wrap_rotary(hooks)

    def _distinct(self, path: str, needs: Sequence[str] = ()) -> list[Any]:
        """Return the modules at a path in all layers. List a shared module only once."""
        decoder = self._decoder
        modules = [module_at(layer, path) for layer in decoder.layers if decoder.has(layer, path, needs)]
        return list({id(module): module for module in modules}.values())

    def _wrap_rotary(self, hooks: ExitStack) -> None:
        """Replace the global function that rotates q and k, in the Python module of the attention class."""
        attentions = self._distinct(self._decoder.family.attention)
        for home in {id(home): home for home in map(home_of, attentions)}.values():
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
                turned = rotated if isinstance(rotated, tuple) else (rotated,)  # of q, then of k
                names = [name for name in TURNED if numbered(name, self._layer) not in self.arrays]
                for name, tensor in zip(names, turned, strict=False):
                    rows = tensor.transpose(1, 2) if heads == 1 else tensor
                    self._take(numbered(name, self._layer), rows)
                    self._add_unturned(name, self._layer, rows.shape[2])
            return rotated

        return wrapped

    def _note_mask(self, module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._start()
        self.notes = adapters_of(self._decoder.whole or self._decoder.stack)
        mask = mask_of(module, args, kwargs)
        if media := [name for name in MEDIA if kwargs.get(name) is not None]:
            raise InputError(f"record() expected a text without images and sound, found {media[0]}")
        if mask is not None and not isinstance(mask, dict):  # a model of images has a mask for each window
            self.inputs["attention_mask"] = whole_numbers(mask)

    def _add_unturned(self, turned: str, layer: int, heads: int) -> None:
        """Append the channels that RoPE does not turn to each head, if the attention rotates only a part, or
        drop copies of keys."""
        rows = self._decoder.family.plan.behind(numbered(turned, 0))
        name, *names = (numbered(of_any_layer(row.name), layer) for row in rows)
        part, before = self.arrays[name], next((self.arrays[n] for n in names if n in self.arrays), None)
        if before is not None and before.shape[-1] < part.shape[-1]:  # a copy of the key for each query
            copies = part.reshape(*part.shape[:-1], before.shape[-1] * heads // part.shape[-1], -1)
            self.arrays[name] = copies[..., : part.shape[-1] // heads].reshape(before.shape)
        elif before is not None and before.shape[-1] > part.shape[-1]:
            rotated, whole = (own.reshape(*own.shape[:-1], heads, -1) for own in (part, before))
            both = [rotated, whole[..., rotated.shape[-1] :]]
            self.arrays[name] = np.concatenate(both, axis=-1).reshape(before.shape)

    def _note_tokens(self, ids: Any) -> None:
        """Save the tokens, which are the input of the embedding."""
        self._start()
        if self._ids.size:
            raise InputError(
                "record() expected one forward pass, found a second pass: call model(tokens) once, generate"
                " with max_new_tokens=1, or use steps=True, which records several complete passes"
            )
        if ids.ndim != 2 or not ids.numel() or ids.is_floating_point():
            found = f"{ids.dtype} of shape {tuple(ids.shape)}"
            raise InputError(f"input_ids: expected whole numbers of shape (B, T), found {found}")
        self._ids = self.inputs["input_ids"] = whole_numbers(ids)

    def _check_tokens(self) -> None:
        if not self._ids.size:
            raise InputError("record() expected input_ids as the model's input, found embeddings")

    def _note_positions(self, ids: Any) -> None:
        self._check_tokens()
        if ids.shape[-1] != self._ids.shape[1]:
            found = f"{ids.shape[-1]} positions of {self._ids.shape[1]} tokens"
            raise InputError(f"record() expected a position for each token, found {found}")
        self.inputs["position_ids"] = np.broadcast_to(whole_numbers(ids), self._ids.shape)

    def _enter_layer(self, index: int, module: Any, args: Any, kwargs: Any) -> None:
        self._layer = index
        self._check_tokens()
        if index == 0:  # in every version of transformers, layer 0 receives the cache and the positions
            cached = cached_tokens(args, kwargs)
            self._keys = self._ids.shape[1] + cached
            if kwargs.get("position_ids") is not None:
                self._note_positions(kwargs["position_ids"])
            if not self._steps:
                check_comparable(self.inputs, cached)

    def _leave_layer(self, output: Any) -> None:
        self._layer = None

    def _take_output(self, events: Sequence[str], heads_first: bool, output: Any) -> None:
        """Save the output (or the input) of a module: [B, T, ...], or [B, H, T, D] if `heads_first`. Split
        the output if it contains several events. A router also returns the shares and the numbers of the
        chosen experts, or returns a share of each expert before the logits."""
        if self._layer is None:  # the module was called outside the layers
            return
        shares_first = events == (ROUTER,) and isinstance(output, tuple) and len(output) == 2
        tensor = output[1] if shares_first else _first(output)
        if heads_first:  # a product of cached latent vectors also returns the rows of earlier tokens
            tensor = tensor[:, :, -self._ids.shape[1] :].transpose(1, 2)
        parts = list(self._decoder.parts(events, tensor))
        if events == (ROUTER,) and isinstance(output, tuple) and len(output) == 1 + len(ROUTED):
            parts += zip(ROUTED, output[1:], strict=True)
        for event, part in parts:
            self._take(numbered(event, self._layer), part)

    def _take_weights(self, output: Any) -> None:
        """Save the attention weights [B, H, T, keys], the second output of eager attention."""
        weights = output[1] if isinstance(output, tuple) else None
        if self._layer is None or getattr(weights, "shape", ())[2:3] != self._ids.shape[1:]:
            return
        array = _values(weights)[..., : self._keys]  # a static cache ends with empty places
        dropped = self._keys - array.shape[-1]  # the cache of a layer with a window drops the first keys
        self._keep(numbered(RETURNED_SECOND, self._layer), np.pad(array, [(0, 0)] * 3 + [(dropped, 0)]))

    def _take_positions(self, normed: Any) -> None:
        """Find the positions of the logits: all positions or the last N, as in the input of the head."""
        if self._decoder.last_event not in self.arrays:
            raise InputError("record() expected the decoder to run before the head")
        texts, length = self._ids.shape
        stream, rows = self.arrays[self._decoder.last_event], _values(normed)
        first = length - rows.shape[1]
        if not np.array_equal(rows, stream.reshape(texts, length, -1)[:, first:], equal_nan=True):
            raise InputError("logits_to_keep: expected all positions or the last N, found other positions")
        self.positions = tuple(range(first, length))

    def _take_final_logits(self, output: Any) -> None:
        """Rename the output of the head to logits.raw if the model scales or caps the logits."""
        logits, raw = getattr(output, "logits", None), self.arrays.get("logits")
        if raw is None or logits is None:
            return
        final = _values(logits).reshape(raw.shape)
        if not np.array_equal(final, raw, equal_nan=True):
            self.arrays |= {"logits.raw": raw, "logits": final}

    def _take(self, name: str, output: Any) -> None:
        """Save a module's output [B, T, ...], or the first item of a tuple of outputs, as rows [T, width]."""
        tensor, (texts, length) = _first(output), self._ids.shape
        if name == "logits":
            length = len(self.positions)
        if tensor.ndim == 2 and len(tensor) == texts * length:  # mixtures compute all texts side by side
            tensor = tensor.reshape(texts, length, -1)
        if tensor.shape[:2] not in ((texts, length), (1, length)):  # positions can be the same for all texts
            hint = " (if layers skip rows of the prompt, set model.config.output_hidden_states = True)"
            expected = f"expected shape ({texts}, {length}, ...), found {tuple(tensor.shape)}"
            raise InputError(f"{name}: {expected}" + hint * (tensor.shape[1:2] < (length,)))
        self._keep(name, _values(tensor).reshape(len(tensor), length, -1))

    def _keep(self, name: str, array: Array) -> None:
        """Save an array [B, ...], or [1, ...] for all texts. For one text, drop the first axis."""
        if name in self.arrays:
            raise InputError(f"record() expected one forward pass, found {name} a second time")
        texts = len(self._ids)
        self.arrays[name] = array[0] if texts == 1 else np.broadcast_to(array, (texts, *array.shape[1:]))


def _first(output: Any) -> Any:
    """Return the output of a module, or the first output of several."""
    return output[0] if isinstance(output, tuple) else output


def _values(tensor: Any) -> Array:
    """Return a float32 copy of a tensor of any device and dtype."""
    return np.array(tensor.detach().cpu().float().numpy())
