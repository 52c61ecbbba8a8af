"""PredictionMeter: measure the predictions of next tokens over a corpus.

At every position whose next token is known, the meter measures the loss, -log P, and the rank of the next
token. The meter adds up losses and ranks per token, per document, and per part of the corpus.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays.logits import rank_of
from ..arrays.stats import NOT_FINITE, Array
from ..models.packs import UNKNOWN
from .meter import EXCERPT, Meter, PackLayout
from .tallies import Counts, Sums, TopList, named

PREDICTIONS = "predictions"
RANKS = (1, 2, 3, 5, 10, 30, 100, 1000)  # a rank is counted at the smallest bound >= the rank
AT_ONCE = 1 << 17  # number of logits to measure at a time: this many fit the CPU cache
EXAMPLES = 20  # number of documents in the list of the best predictions, and in the list of the worst


class PredictionTallies:
    """The tallies of one part of a corpus. A loss that is not finite is not summed. `document_loss` sums the
    mean losses of documents, and `document_loss_squares` sums the squared mean losses. `share_right` sums
    each document's share of tokens with rank 1, and `all_right` counts documents with share 1."""

    def __init__(self, vocab_size: int) -> None:
        self.documents, self.all_right = Counts(1), Counts(1)
        self.document_loss, self.document_loss_squares, self.share_right = Sums(1), Sums(1), Sums(1)
        self.nonfinite = Counts(1)
        self.ranks = Counts(len(RANKS) + 1)
        self.token_count, self.token_right = Counts(vocab_size), Counts(vocab_size)  # by next token
        self.token_loss, self.token_reciprocal_rank = Sums(vocab_size), Sums(vocab_size)
        self.worst, self.best = (TopList(1, EXAMPLES, EXCERPT) for _ in range(2))


class PredictionMeter(Meter):
    """A meter of logits, with tallies for each of the `parts` of a corpus."""

    def __init__(self, vocab_size: int, parts: Sequence[str]) -> None:
        self.names = ["logits"]
        self._parts = [PredictionTallies(vocab_size) for _ in parts]
        names = (f"{PREDICTIONS}{'.' * bool(part)}{part}" for part in parts)
        self.tallies = named({name: vars(own) for name, own in zip(names, self._parts, strict=True)})

    def begin(self, layout: PackLayout) -> None:
        super().begin(layout)
        self._loss, self._rank = np.full(layout.rows, np.nan), np.zeros(layout.rows, np.int64)

    def __call__(self, name: str, value: Array) -> None:
        start, rows = self.next(name, len(value)), max(1, AT_ONCE // value.shape[1])
        for part in range(0, len(value), rows):
            self._measure(start + part, value[part : part + rows])

    @NOT_FINITE
    def _measure(self, start: int, value: Array) -> None:
        rows = slice(start, start + len(value))
        targets = self.layout.targets[rows]
        at = np.arange(len(value)), np.maximum(targets, 0)
        target_logits = value[at]
        highest = value.max(axis=1)
        ones = np.ones(value.shape[1], np.float32)
        sums = np.exp(value - highest[:, None]).astype(np.float64) @ ones.astype(np.float64)
        loss = np.log(sums) + highest.astype(np.float64) - target_logits
        self._loss[rows] = np.where(targets == UNKNOWN, np.nan, loss)
        above, equal = (by(value, target_logits[:, None]) @ ones for by in (np.greater, np.equal))
        self._rank[rows] = 1 + above  # products count up to 2^24 in half the time of count_nonzero
        ties = np.flatnonzero(equal > 1)
        for row in ties:
            self._rank[start + row] = rank_of(value[row], at[1][row])

    def finish(self) -> None:
        """Add the losses and ranks of the pass to the tallies of tokens and of documents."""
        layout, known = self.layout, self.layout.targets != UNKNOWN
        fine = known & np.isfinite(self._loss)
        right = fine & (self._rank == 1)
        measured = np.stack([np.where(fine, self._loss, 0), right, fine, known], axis=1, dtype=np.float64)
        loss, hits, finite, all_known = layout.sums(layout.in_turn(measured)).T
        part = layout.parts
        for number, own in enumerate(self._parts):
            in_part = part[layout.text_at] == number
            self._by_token(own, fine & in_part)
            own.nonfinite.numbers += np.count_nonzero(known & ~fine & in_part)
            chosen = np.flatnonzero((part == number) & (finite > 0) & (finite == all_known))
            self._by_document(own, chosen, loss[chosen] / finite[chosen], hits[chosen] / finite[chosen])

    def _by_token(self, own: PredictionTallies, rows: Array) -> None:
        targets, ranks = self.layout.targets[rows], self._rank[rows]
        size = len(own.token_count.numbers)
        own.token_count.numbers += np.bincount(targets, minlength=size)
        own.token_right.numbers += np.bincount(targets[ranks == 1], minlength=size)
        own.ranks.numbers += np.bincount(np.searchsorted(RANKS, ranks), minlength=len(RANKS) + 1)
        own.token_loss.exact.add_at(targets, self._loss[rows])
        own.token_reciprocal_rank.exact.add_at(targets, 1 / ranks)

    def _by_document(self, own: PredictionTallies, chosen: Array, loss: Array, share: Array) -> None:
        own.documents.numbers += len(chosen)
        own.all_right.numbers += np.count_nonzero(share == 1)
        own.document_loss.add(loss[:, None])
        own.document_loss_squares.add(np.square(loss)[:, None])
        own.share_right.add(share[:, None])
        for examples, value in ((own.worst, loss), (own.best, -loss)):
            entering = value > examples.bar[0]
            self._enter(examples, chosen[entering], value[entering])

    def _enter(self, examples: TopList, documents: Array, value: Array) -> None:
        examples.add(
            np.zeros(len(documents), np.int32), self.layout.entries(self.layout.starts[documents], value, 0),
            lambda chosen: self.layout.beginnings(documents[chosen]),
        )  # fmt: skip
