"""The text part of a model file: the settings and the tensors of the decoder. Towers for images or sound, and
layers that predict further tokens, are other parts, which are left out."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ..decoder.architecture import FileNames, text_name
from ..grouping import grouped
from ..text.wording import counted, listed
from ..untrusted_files import is_count

_FURTHER = re.compile(r"(model\.)?mtp[._]")  # multi-token prediction
_LAYER = re.compile(r"\.(0|[1-9][0-9]{0,3})\.")


def text_settings(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the text part in a config.json. As in transformers, tie_word_embeddings outside
    of text_config goes first."""
    inner = metadata.get("text_config")
    if not isinstance(inner, dict) or "model_type" not in inner:
        return metadata
    tied = metadata.get("tie_word_embeddings")
    return inner if tied is None else {**inner, "tie_word_embeddings": tied}


def further_layers(depth: Any, count: Any, included: bool = False) -> range:
    """Return the numbers of the `count` layers that predict further tokens, which come after `depth` layers,
    or are `included` in them. Settings that are no whole numbers count as no such layers."""
    if not (is_count(depth) and is_count(count)):
        return range(0)
    return range(depth - count, depth) if included else range(depth, depth + count)


class TextPart:
    """Decides which tensors of a file belong to the text part, and counts the tensors of the other parts.

    A file with `other_inputs` has tensors of images or sound. The layers with the numbers `further` predict
    further tokens.
    """

    def __init__(self, names: FileNames, further: Collection[int] = (), other_inputs: bool = False) -> None:
        self.names, self.further, self.other_inputs = names, further, other_inputs
        self._parts: dict[str, str] = {}  # the part of each tensor that is left out

    def has(self, name: str) -> bool:
        """Return True if the tensor with this name in the file belongs to the text part."""
        if name.endswith(self.names.skipped):
            return False
        if part := self._other_part(name):
            self._parts[name] = part
        return not part

    def _other_part(self, name: str) -> str:
        own = text_name(name)
        in_layers = own.removeprefix(self.names.outer).startswith((f"{self.names.blocks}.", "blk."))
        layer = _LAYER.search(own) if in_layers else None
        if _FURTHER.match(own) or (layer and int(layer[1]) in self.further):
            return "multi-token prediction"
        known = own != name or in_layers or self.names.our_name(name)
        return name.removeprefix("model.").partition(".")[0] if self.other_inputs and not known else ""

    @property
    def notes(self) -> list[str]:
        """A sentence on the tensors that were left out, such as "left out: 437 tensors of vision_tower"."""
        counts = {part: len(of) for part, of in grouped(self._parts, self._parts.__getitem__).items()}
        each = [f"{counted(count, 'tensor')} of {part}" for part, count in sorted(counts.items())]
        return [f"left out: {listed(each)}"] if each else []
