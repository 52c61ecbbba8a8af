"""The interpreter on a plan that no model has: with a cache, for a listener, and for nobody."""

import weakref

import numpy as np
import pytest
from support.judges import agree
from support.other_plans import drawn, unlike_any
from support.tiny_models import TOKENS

from microgpt_trace.architecture.interpreter import run as interpreter
from microgpt_trace.architecture.operations import linear
from microgpt_trace.architecture.operations.kv_cache import KVCache
from microgpt_trace.hooks.bus import HookBus

IDS = np.array(TOKENS)
MODEL = drawn(unlike_any())


@pytest.mark.parametrize("first", [1, 3, 6])
def test_a_continuation_is_at_the_positions_after_those_in_the_cache(first):
    """Learned positions too."""
    cache, whole = KVCache(len(IDS)), interpreter.forward(MODEL, IDS)
    parts = [interpreter.forward(MODEL, part, cache=cache) for part in (IDS[:first], IDS[first:])]
    agree(np.concatenate(parts), whole, rtol=1e-12, what="stream")
    assert cache.length == len(IDS)
    assert [*cache.rows] == [f"layer{i}.attn.{n}" for i in (0, 1) for n in ("scores", "context")]


def test_shares_of_heads_are_computed_for_who_wants_them(monkeypatch):
    calls, plain = [], linear.columns_forward
    monkeypatch.setattr(linear, "columns_forward", lambda *a: calls.append(a) or plain(*a))
    interpreter.forward(MODEL, IDS)
    assert not calls
    bus = HookBus(list(MODEL.plan.values()))
    listening = bus.subscription(lambda event, value: None, "layer1.attn.head1")
    interpreter.forward(MODEL, IDS, bus.begin(before=[listening]).tap("forward"))
    assert len(calls) == 1


def test_a_value_goes_once_nothing_reads_it():
    alive, known = [], {}

    class Counting:
        def emit(self, name, value):
            known[name] = weakref.ref(value)
            alive.append({name for name, ref in known.items() if ref() is not None})
            return value

        def wants(self, name):
            return False

    interpreter.forward(MODEL, IDS, Counting())
    at = dict(zip(known, alive, strict=True))
    print(at["layer1.mlp.down"])
    assert at["layer1.mlp.down"] == {"layer0.mlp.residual", "layer1.attn.out", "layer1.mlp.down",
                                     "layer1.mlp.act"}  # fmt: skip
