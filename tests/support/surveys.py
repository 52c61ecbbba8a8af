"""What a survey is held against: every value of every document, kept, and plain loops over them.

A model's pass is taken as it is; who is packed with whom, what belongs to which document and what is made of
it is worked out here anew.
"""

import numpy as np
from support.surveyed_texts import written

from microgpt_trace.architecture.packs import UNKNOWN, Pack, ReadText
from microgpt_trace.decoder.model import Decoder
from microgpt_trace.errors import InputError
from microgpt_trace.microgpt.model import Model
from microgpt_trace.surveying.survey import survey

MANY = [
    *("a", "ab", "abc", "ab", "ba", "bab", "abba", "baba", "cab", "abcabc", "b", "bb", "bbb", "aa", "aaa"),
    *("aba", "caba", "bac", "cc", "ccc", "bcb", "bcbc"),
]
LONG = ["abcab" * 8, "bca" * 15, "The quick brown fox jumps over the lazy dog", "b" * 33, "ab" * 27]


class Recorder:
    """Keeps all that it is given: by name, in the order of coming."""

    def __init__(self, values=None, prefix=""):
        self.values = {} if values is None else values
        self._prefix = prefix

    def emit(self, name, value):
        self.values.setdefault(self._prefix + name, []).append(np.array(value))
        return value

    def wants(self, name):
        return True

    def layer(self, index):
        return Recorder(self.values, f"layer{index}.")


def read_by(model, text):
    """Tokens and targets of a text that fits, by the reading of one text."""
    try:
        inputs = model.read(text)
    except InputError:
        return None
    last = inputs.targets[-1]
    return ReadText(np.array([*inputs.tokens, UNKNOWN if last is None else last]))


def values_of(model, texts):
    """By document that fits: its number, what was read, and its values by event, [T, C] or [H, T, T]."""
    found, ready = {}, model.for_many_passes()
    for first in range(0, len(texts), model.pack_size):
        numbers = range(first, min(len(texts), first + model.pack_size))
        read = {number: read_by(model, texts[number]) for number in numbers}
        order = sorted((n for n in numbers if read[n]), key=lambda n: (len(read[n].tokens), n))
        if order:
            tap = Recorder()
            with np.errstate(all="ignore"):
                ready.run_pack(Pack([read[number] for number in order]), tap)
            found |= _divided(model, order, read, tap.values)
    return [(number, *found[number]) for number in sorted(found)]


def _divided(model, order, read, values):
    own = {number: (read[number], {}) for number in order}
    lengths = [len(read[number].tokens) for number in order]
    for name, parts in values.items():
        if name == "loss":
            continue
        if model.plan[name].kind.causal:
            pieces = [text for part in parts for text in part.reshape(-1, *part.shape[-3:])]
        else:
            pieces = np.split(np.concatenate(parts), np.cumsum(lengths)[:-1])
        for number, piece in zip(order, pieces, strict=True):
            own[number][1][name] = piece
    return own


def columns(value, causal):
    """Rows of channels; of heads [H, T, T] what the queries see, a head a channel: [N, C]"""
    if not causal:
        return value
    queries, keys = np.tril_indices(value.shape[-1])
    return value[:, queries, keys].T


def surveyed(model, texts, folder, **options):
    """A survey of texts, a text a line."""
    return survey(model, written(folder / "corpus.txt", texts), **options)


def in_packs_of(monkeypatch, size):
    """Few texts in several packs, of 8 or more: a block of 8 is read as a whole or not at all."""
    monkeypatch.setattr(Model, "pack_size", size)
    monkeypatch.setattr(Decoder, "pack_size", size)
