"""The values of both sides that are kept for a page while two runs are compared."""

from dataclasses import replace

import numpy as np
import pytest

from microgpt_trace import diff, init, trace
from microgpt_trace.comparison.comparers import KeptPair, PairKeeper
from microgpt_trace.interpreter.event_stream import Piece
from microgpt_trace.render.documents.trace_as_json import trace_json

A, B = init(seed=1), init(seed=1)
LARGE = 10**6


def changed(name, by=1.0):
    """Return model A with one parameter changed."""
    model = init(seed=1)
    model.params[name][:] += by
    return model


def reads(name):
    return A.plan[name].inputs


def kept(b, room=LARGE, text="emma"):
    keeper = PairKeeper(room, reads)
    result = diff(A, b, text, watch=keeper)
    return keeper.pairs, result


def test_all_values_are_kept_if_there_is_room():
    other = changed("layer0.attn_wk")
    pairs, result = kept(other)
    runs = [trace(model, "emma", values=True) for model in (A, other)]
    assert set(pairs) == {event.name for event in result.events}
    for name, pair in pairs.items():
        assert all(map(np.array_equal, (pair.a, pair.b), (run.arrays["forward", name] for run in runs))), name
    assert pairs["layer0.attn.weights"].heads == (0, 1, 2, 3)
    assert pairs["layer0.attn.q"].positions == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("room", [500, 700, 1500])
def test_the_first_difference_its_inputs_and_the_worst_event_are_kept(room):
    pairs, result = kept(changed("layer0.attn_wk", 0.5), room)
    print(result.first, {name: pair.size for name, pair in pairs.items()})
    assert sum(pair.size for pair in pairs.values()) <= room
    assert result.first == "layer0.attn.k"
    assert {result.first, "layer0.attn.norm"} <= set(pairs)
    others = [event for event in result.events if event.name not in (result.first, "layer0.attn.norm")]
    worst = max(others, key=lambda event: event.excess)
    assert worst.name in pairs


def test_a_large_event_is_kept_only_at_its_difference():
    pairs, result = kept(changed("layer0.mlp_fc1"), room=300)
    first = result.event("layer0.mlp.up")
    print(first.position, {name: pair.a.shape for name, pair in pairs.items()})
    pair = pairs[first.name]
    assert (result.first, pair.positions, pair.a.shape) == (first.name, (first.position,), (1, 64))


@pytest.mark.parametrize(("room", "positions"), [(LARGE, (0, 1, 2, 3)), (12, (2,))])
def test_parts_of_an_event_are_joined_or_only_the_worst_is_kept(room, positions):
    """Logits come in three parts, and the sides differ at position 2."""
    keeper, rows = PairKeeper(room, lambda name: ()), np.arange(12.0).reshape(4, 3)
    event = replace(diff(A, changed("lm_head"), "emma").event("logits"), position=2)
    for part in (range(1), range(1, 3), range(3, 4)):
        values = rows[part.start : part.stop]
        keeper([Piece("logits", values, part), Piece("logits", values + 1, part)], lambda name: event)
    found = keeper.pairs["logits"]
    assert found.positions == positions
    assert np.array_equal([found.a, found.b], [rows[list(positions)], rows[list(positions)] + 1])


def test_attention_weights_are_narrowed_to_a_head():
    weights = np.arange(18.0).reshape(2, 3, 3)
    pair = KeptPair(weights, weights, (0, 1, 2), (0, 1))
    event = replace(diff(A, changed("layer0.attn_wk"), "emma").event("layer0.attn.weights"), position=1)
    assert pair.narrowed(event).heads == (event.head,)
    assert np.array_equal(pair.narrowed(event).a[0], weights[event.head])


def test_nothing_is_kept_of_statistics(tmp_path):
    (tmp_path / "a.json").write_text(trace_json(trace(A, "emma", values=False), False))
    keeper = PairKeeper(LARGE, reads)
    result = diff(tmp_path / "a.json", B, "emma", watch=keeper)
    assert (result.of_statistics, keeper.pairs) == (True, {})
