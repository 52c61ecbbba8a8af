"""Continue a prompt token by token with a KV cache, and check the cache against a full pass."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from ..arrays.logits import best_tokens, softmax
from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.event import TraceEvent
from ..interpreter.run import forward, head_forward, head_input
from ..models.language_model import LanguageModel
from ..operations.pass_state import KVCache
from ..plans.kinds import Rotation
from ..rounding.invariants import OF_SHAPES
from .anomalies import Steps
from .findings import Check
from .observers import Collector, Observers
from .options import RUNNERS_UP
from .result import GeneratedToken, candidate_of

CLAIM = "decode steps equal the rows of a full pass"


@dataclass
class Continuation:
    """The tokens of a continuation, the reason for an early end, and the events of each step."""

    tokens: list[GeneratedToken] = field(default_factory=list)
    end: str = ""
    steps: Steps = field(default_factory=Steps)


def continue_prompt(
    observers: Observers, final: Array, last: tuple[Array, Array] | None, cache: KVCache,
    replaced: Collection[str],
) -> tuple[Continuation, Check]:  # fmt: skip
    """Continue a prompt, and check the last stream of every step against a full pass.

    `final` [T, C] is the last residual stream of the prompt's pass. `last` has the logits and probs [V] at
    the last position of the prompt, or is None if logits and probs were not computed. The check is skipped if
    hooks replaced values (`replaced`). Each generated token gets the shown events of the pass that predicted
    the token. A token that was predicted by the prompt's pass gets no events, because the Trace already has
    the events of this pass.
    """
    model, inputs, _, options = observers.asked
    model, rng = model.for_many_passes(), np.random.default_rng(options.seed)
    runners_up = options.top_k or RUNNERS_UP
    done, streams, events = Continuation(), list[Array](), tuple[TraceEvent, ...]()
    ropes = [kind.rope for kind in model.plan.kinds(Rotation)]
    switches = {rope.original_context for rope in ropes if rope.kind == "longrope"}
    ids, altered, chosen_by_probs = list(inputs.tokens), bool(replaced), "probs" in replaced
    while len(done.tokens) < options.generate and not done.end:
        step = len(done.tokens) + 1
        if step > 1 or last is None:  # `last` is None if the prompt's pass predicted no next token
            collector = Collector(())
            run = observers.begin_step(step, len(ids) - 1, collector)
            if step > 1:
                if cache.length in switches:  # keys of a longer text turn by other angles
                    cache.length, cache.text_length = 0, len(ids)
                    again = forward(model, np.array(ids[:-1]), cache=cache)
                    streams = list(again[len(inputs.tokens) :, None])
                streams.append(forward(model, np.array(ids[-1:]), run.tap("forward"), cache))
            tap = run.tap("forward")
            logits = tap.emit("logits", head_forward(model, streams[-1] if streams else final[-1:], tap))
            last = logits[0], tap.emit("probs", softmax(logits))[0]
            altered, chosen_by_probs = altered or bool(run.replaced), "probs" in run.replaced
            done.steps.add(collector.events)
            events = tuple(event for event in collector.events if event.name in observers.shown)
        if not math.isfinite(last[0].max()):  # a logit of -inf excludes its token
            done.end = f"the logits of step {step} are not finite"
            break
        row = _log_odds(last[1], step) if chosen_by_probs else last[0]
        ids.append(_sample(row, options.temperature, rng))
        best = [t for t in best_tokens(row, runners_up + 1) if t != ids[-1]]
        best = [ids[-1], *best[:runners_up]]
        chosen, *others = (candidate_of(model, last[1], token) for token in best)
        done.tokens.append(GeneratedToken(step, len(ids) - 1, chosen, tuple(others), events))
        if model.ends_text(ids[-1]):
            done.end = f"the model ended its text with {chosen.label}"
    return done, _cache_check(model, ids[: len(inputs.tokens) + len(streams)], streams, altered)


@np.errstate(divide="ignore")  # log(0) is -inf, which excludes a token from sampling
def _log_odds(probs: Array, step: int) -> Array:
    """Return log(probs) [V] of replaced probabilities. Raises InputError for invalid probabilities."""
    wrong = np.flatnonzero(~((probs >= 0) & np.isfinite(probs)))
    if wrong.size or not probs.any():
        found = f"{probs[wrong[0]]:g} for token {wrong[0]}" if wrong.size else "0 for every token"
        raise InputError(f"step {step}: no token can be sampled from the replaced probs, found {found}")
    return np.log(probs)


def _sample(logits: Array, temperature: float, rng: np.random.Generator) -> int:
    """Sample a token from softmax(logits / temperature); return the most probable token at temperature 0."""
    if temperature == 0:
        return best_tokens(logits, 1)[0]
    probs = softmax((logits - logits.max()).astype(np.float64) / temperature)
    return int(rng.choice(len(probs), p=probs / probs.sum()))


def _cache_check(model: LanguageModel, ids: list[int], streams: list[Array], replaced: bool) -> Check:
    reason = "hooks replaced values" if replaced else "one token needs no decode step"
    if streams and not replaced:
        full = forward(model, np.array(ids))[-len(streams) :]
        norms = np.linalg.norm(full, axis=1)
        off = np.linalg.norm(np.concatenate(streams) - full, axis=1)
        worst, reason = float((off / np.where(norms > 0, norms, 1)).max()), "the stream is not finite"
        if np.isfinite(worst):
            return Check("cache", CLAIM, worst <= OF_SHAPES, worst, OF_SHAPES, head_input(model))
    return Check("cache", CLAIM, None, None, OF_SHAPES, reason)
