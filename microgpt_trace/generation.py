"""Continue a prompt token by token with a KV cache, and hold the cache against a full pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .checks import Check
from .decoder import Decoder
from .errors import InputError
from .events import TraceEvent
from .llama import Cache, forward, head_forward
from .predictions import best_tokens, softmax
from .stats import Array
from .traces import Candidate, Collector, GeneratedToken, TraceInput

CACHE_TOLERANCE = 1e-4  # worst row, relative L2: products of other shapes round otherwise
CLAIM = "decode steps equal the rows of a full pass"


@dataclass(frozen=True)
class Sampling:
    """How a prompt is continued: `count` tokens, drawn at a temperature by a seed (0: greedily), each
    with so many runners-up."""

    count: int
    temperature: float
    seed: int
    runners_up: int

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InputError(f"generate: expected 0 or more, found {self.count}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise InputError(f"temperature: expected 0 or more, found {self.temperature}")
        if self.temperature and not self.count:
            raise InputError("--temperature draws the tokens of --generate N: say how many")


def continue_prompt(
    model: Decoder, inputs: TraceInput, final: Array, cache: Cache, sampling: Sampling,
    observed: Sequence[str], shown: set[str], replaced: bool,
) -> tuple[tuple[GeneratedToken, ...], Check]:  # fmt: skip
    """Up to `sampling.count` tokens after the prompt whose final stream [T, C] is given, fewer where
    the model ends its text or its logits are not finite; and whether each step's stream equals that
    of a pass over everything, if hooks have not `replaced` values.

    A token carries the events of the pass that predicted it (the first: the prompt's own, not
    repeated).
    """
    rng = np.random.default_rng(sampling.seed)
    vocabulary = model.vocabulary
    steps, streams, events = list[GeneratedToken](), list[Array](), list[TraceEvent]()
    ids, stream = list(inputs.tokens), final[-1:]
    while len(steps) < sampling.count:
        collector = Collector(())
        with model.hooks.subscribe(collector, *observed, stats=True):
            run = model.hooks.begin()
            emit = run.tap("forward").emit
            if steps:
                stream = forward(model, np.array(ids[-1:]), run.tap("forward"), cache)
                streams.append(stream)
            logits = emit("logits", head_forward(model, stream))
            probs = emit("probs", softmax(logits))
        replaced = replaced or bool(run.replaced)
        if steps:
            events = [event for event in collector.events if event.name in shown]
        if not np.isfinite(probs).all():
            break
        row = np.log(probs[0]) if "probs" in run.replaced else logits[0]
        token = _draw(row, sampling.temperature, rng)
        ids.append(token)
        best = [t for t in best_tokens(row, sampling.runners_up + 1) if t != token]
        chosen, *others = (
            Candidate(t, vocabulary.label(t) if vocabulary else str(t), float(probs[0, t]))
            for t in (token, *best[: sampling.runners_up])
        )
        steps.append(GeneratedToken(len(steps) + 1, len(ids) - 1, chosen, tuple(others), tuple(events)))
        if vocabulary is not None and token == vocabulary.eos_id:
            break
    return tuple(steps), _cache_check(model, ids[: len(inputs.tokens) + len(streams)], streams, replaced)


def _draw(logits: Array, temperature: float, rng: np.random.Generator) -> int:
    """A token from softmax(logits / temperature); the most probable one at temperature 0."""
    if temperature == 0:
        return best_tokens(logits, 1)[0]
    probs = softmax(logits.astype(np.float64) / temperature)
    return int(rng.choice(len(probs), p=probs / probs.sum()))


def _cache_check(model: Decoder, ids: list[int], streams: list[Array], replaced: bool) -> Check:
    if not streams or replaced:
        why = "hooks replaced values" if replaced else "one token needs no decode step"
        return Check("cache", CLAIM, None, None, CACHE_TOLERANCE, why)
    full = forward(model, np.array(ids))[-len(streams) :]
    decoded = np.concatenate(streams)
    norms = np.linalg.norm(full, axis=1)
    worst = float((np.linalg.norm(decoded - full, axis=1) / np.where(norms > 0, norms, 1)).max())
    if not np.isfinite(worst):
        return Check("cache", CLAIM, None, None, CACHE_TOLERANCE, "the stream is not finite")
    return Check("cache", CLAIM, worst <= CACHE_TOLERANCE, worst, CACHE_TOLERANCE, "final.norm")
