"""One run of a model, of which the asked positions of every write are kept. Knows no text.

Values are kept as they were used. Where a hook replaced an event that is no write of its own (attn.out,
a residual), the difference that it made is kept: it is a write into the stream as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.plan import kind_of
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.event import TraceEvent
from .parts import HeadRole
from .roles import RoleMeter

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel, TraceInput
    from ..hooks.bus import Subscription

WRITES = ("embed.tok", "embed.pos", "attn.context", "mlp.down")
PASSED_ON = ("embed.sum", "embed.norm", "attn.out", "attn.residual", "mlp.residual", "final.norm", "logits")


class Observed:
    """What a run showed at the positions `rows`: arrays [n, W] by the names of events.

    `writes` are as used, `changes` what hooks added to other events, `normed` is what the one norm read
    through which the writes are seen (a decoder's final norm, a microGPT's after the embedding).
    """

    def __init__(self, model: LanguageModel, inputs: TraceInput, rows: Sequence[int]) -> None:
        self.rows = list(rows)
        self.writes: dict[str, Array] = {}
        self.changes: dict[str, Array] = {}
        self.normed = self.logits = np.empty((0, 0))
        self.hooked = False  # a hook replaced something
        self._computed = np.empty((0, 0))
        final = "final.norm" in model.hooks.specs
        self._normed = f"layer{model.config.n_layer - 1}.mlp.residual" if final else "embed.sum"
        self._logits_of_all = "prompts" not in model.abilities  # else only the asked positions pass the head
        windows = {i: window for i, window in enumerate(model.config.windows) if window is not None}
        self._meter = RoleMeter(inputs.tokens, windows)

    @property
    def roles(self) -> tuple[HeadRole, ...]:
        """What each head looked at."""
        return tuple(self._meter.roles)

    def observers(self, model: LanguageModel) -> tuple[Subscription, Subscription, Subscription]:
        """Who looks at values before the model's hooks, and who after them."""
        bus, names = model.hooks, list(model.plan)
        listening = bus.begin()  # a head costs a product: only where a hook may replace it
        passed_on = [
            name
            for name in names
            if kind_of(name) in PASSED_ON
            or (kind_of(name) == "attn.head" and listening.listeners("forward", name))
        ]
        writes = [name for name in names if kind_of(name) in WRITES]
        return (
            bus.subscription(self._before, *passed_on),
            bus.subscription(self._after, *writes, *passed_on),
            bus.subscription(self._meter, "layer*.attn.weights"),
        )

    def _before(self, event: TraceEvent, value: Array) -> None:
        self._computed = self._rows_of(event, value)

    def _after(self, event: TraceEvent, value: Array) -> None:
        used = self._rows_of(event, value)
        if kind_of(event.name) in WRITES:
            self.writes[event.name] = used
        elif not np.array_equal(used, self._computed, equal_nan=True):
            self.changes[event.name] = used.astype(np.float64) - self._computed
        if event.name == self._normed:
            self.normed = used
        if event.name == "logits":
            self.logits = used

    def _rows_of(self, event: TraceEvent, value: Array) -> Array:
        """A copy of the asked rows."""
        return value.copy() if event.name == "logits" and not self._logits_of_all else value[self.rows]


def observe(model: LanguageModel, inputs: TraceInput, rows: Sequence[int]) -> Observed:
    """Run the model under its hooks."""
    seen = Observed(model, inputs, rows)
    before, *after = seen.observers(model)
    with one_blas_thread(), np.errstate(all="ignore"):
        run = model.hooks.begin(before=[before], after=after)
        model.logits(inputs, rows, run.tap("forward"))
    seen.hooked = bool(run.replaced)
    return seen
