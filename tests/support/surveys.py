"""An independent reference for surveys: it keeps every value of every document.

Only the model's forward pass is shared with the survey. Packing, splitting values by document and statistics
are written again here.
"""

import numpy as np
from support.surveyed_texts import write_texts

from microgpt_trace.decoder.decoder import Decoder
from microgpt_trace.errors import InputError
from microgpt_trace.microgpt.model import Model
from microgpt_trace.models.packs import UNKNOWN, Pack, ReadText
from microgpt_trace.surveying.survey import survey

MANY = [
    *("a", "ab", "abc", "ab", "ba", "bab", "abba", "baba", "cab", "abcabc", "b", "bb", "bbb", "aa", "aaa"),
    *("aba", "caba", "bac", "cc", "ccc", "bcb", "bcbc"),
]
LONG = ["abcab" * 8, "bca" * 15, "The quick brown fox jumps over the lazy dog", "b" * 33, "ab" * 27]


class Recorder:
    """Keeps all emitted values by name, in the order of emission."""

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


def read_text(model, text):
    """Return the tokens of a text and the last target, or None if the text does not fit the context."""
    try:
        inputs = model.read(text)
    except InputError:
        return None
    last = inputs.targets[-1]
    return ReadText(np.array([*inputs.tokens, UNKNOWN if last is None else last]))


def values_of(model, texts):
    """Return (number, ReadText, values by event) of each document that fits: [T, C] or [H, T, T]."""
    documents, ready = {}, model.for_many_passes()
    for first in range(0, len(texts), model.pack_size):
        numbers = range(first, min(len(texts), first + model.pack_size))
        read = {number: read_text(model, texts[number]) for number in numbers}
        order = sorted((n for n in numbers if read[n]), key=lambda n: (len(read[n].tokens), n))
        if order:
            tap = Recorder()
            with np.errstate(all="ignore"):
                ready.run_pack(Pack([read[number] for number in order]), tap)
            documents |= _by_document(model, order, read, tap.values)
    return [(number, *documents[number]) for number in sorted(documents)]


def _by_document(model, order, read, values):
    documents = {number: (read[number], {}) for number in order}
    lengths = [len(read[number].tokens) for number in order]
    for name, parts in values.items():
        if name == "loss":
            continue
        if model.plan[name].kind.causal:
            pieces = [text for part in parts for text in part.reshape(-1, *part.shape[-3:])]
        else:
            pieces = np.split(np.concatenate(parts), np.cumsum(lengths)[:-1])
        for number, piece in zip(order, pieces, strict=True):
            documents[number][1][name] = piece
    return documents


def columns(value, causal):
    """Return rows of channels [N, C]. Of heads [H, T, T], take what the queries see, one channel per head."""
    if not causal:
        return value
    queries, keys = np.tril_indices(value.shape[-1])
    return value[:, queries, keys].T


def surveyed(model, texts, folder, **options):
    """Survey texts, written to a file with one text per line."""
    return survey(model, write_texts(folder / "corpus.txt", texts), **options)


def set_pack_size(monkeypatch, size):
    """Set the pack size (at least 8, the size of a block) so that few texts make several packs."""
    monkeypatch.setattr(Model, "pack_size", size)
    monkeypatch.setattr(Decoder, "pack_size", size)
