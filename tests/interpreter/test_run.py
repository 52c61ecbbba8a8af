"""The interpreter on a plan that no real model has: with a KV cache, and with and without listeners."""

import weakref

import numpy as np
import pytest
from support.judges import agree
from support.other_plans import odd_plan, random_model
from support.tiny_models import TOKENS

from microgpt_trace.hooks.bus import HookBus
from microgpt_trace.interpreter import run as interpreter
from microgpt_trace.operations import linear
from microgpt_trace.operations.pass_state import KVCache

IDS = np.array(TOKENS)
MODEL = random_model(odd_plan())


@pytest.mark.parametrize("first", [1, 3, 6])
def test_a_continuation_has_the_positions_after_those_in_the_cache(first):
    cache, expected = KVCache(len(IDS)), interpreter.forward(MODEL, IDS)
    parts = [interpreter.forward(MODEL, part, cache=cache) for part in (IDS[:first], IDS[first:])]
    agree(np.concatenate(parts), expected, rtol=1e-12, what="stream")
    assert cache.length == len(IDS)
    assert [*cache.rows] == [f"layer{i}.attn.{n}" for i in (0, 1) for n in "kv"]


def test_outputs_of_heads_are_computed_only_for_a_listener(monkeypatch):
    calls, plain = [], linear.columns_forward
    monkeypatch.setattr(linear, "columns_forward", lambda *a: calls.append(a) or plain(*a))
    interpreter.forward(MODEL, IDS)
    assert not calls
    bus = HookBus(list(MODEL.plan.values()))
    listening = bus.subscription(lambda event, value: None, "layer1.attn.head1")
    interpreter.forward(MODEL, IDS, bus.begin(before=[listening]).tap("forward"))
    assert len(calls) == 1


def test_a_value_is_dropped_after_its_last_reader():
    alive, refs = [], {}

    class Counting:
        def emit(self, name, value):
            refs[name] = weakref.ref(value)
            alive.append({name for name, ref in refs.items() if ref() is not None})
            return value

        def wants(self, name):
            return False

    interpreter.forward(MODEL, IDS, Counting())
    at = dict(zip(refs, alive, strict=True))["layer1.mlp.down"]
    print(at)
    assert at == {"layer0.mlp.residual", "layer1.attn.out", "layer1.mlp.down",
                                     "layer1.mlp.act"}  # fmt: skip
