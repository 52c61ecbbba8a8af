"""Which event each weight of a decoder is multiplied with, by the weight's name in GGUF. Knows no values."""

from __future__ import annotations

from ..architecture.kinds import Linear
from ..decoder.model import Decoder
from ..readers.file_terms import TERMS


def inputs_of_weights(model: Decoder, with_output: bool = False) -> dict[str, str]:
    """The event that each weight's matrix reads, in order of computation: "blk.0.attn_q.weight" ->
    "layer0.attn.norm". A weight that GGUF fuses of several has one name.

    With the output, which is the table of the embedding where the two are tied, those outside of layers
    count too. Channels are in the file's order: files permute rows, never columns.
    """
    names = TERMS[model.config.architecture].names
    found: dict[str, str] = {}
    for row in model.plan.of_kind(Linear):
        assert isinstance(row.kind, Linear)
        if row.kind.columns is None and (with_output or row.layer is not None):  # else a share of another's
            found[names.gguf_name(row.kind.weight)] = row.inputs[0]
    return found
