"""What is kept of both sides while two runs are compared: which events, how many numbers, and that they are
the runs' own."""

from dataclasses import replace

import numpy as np
import pytest

from microgpt_trace import diff, init, trace
from microgpt_trace.comparison.kept_pairs import KeptPair, PairKeeper
from microgpt_trace.render.documents.trace import trace_json
from microgpt_trace.running.event_stream import Piece

A, B = init(seed=1), init(seed=1)
LARGE = 10**6


def changed(name, by=1.0):
    """The same model as A with another parameter."""
    model = init(seed=1)
    model.params[name][:] += by
    return model


def reads(name):
    return A.plan[name].inputs


def kept(b, room=LARGE, text="emma"):
    keeper = PairKeeper(room, reads)
    result = diff(A, b, text, watch=keeper)
    return keeper.pairs, result


def test_all_is_kept_where_there_is_room_and_is_what_the_runs_computed():
    other = changed("layer0.attn_wk")
    pairs, result = kept(other)
    runs = [trace(model, "emma", values=True) for model in (A, other)]
    assert set(pairs) == {event.name for event in result.events}
    for name, pair in pairs.items():
        a, b = (run.arrays["forward", name] for run in runs)
        assert np.array_equal(pair.a, a), name
        assert np.array_equal(pair.b, b), name
    assert pairs["layer0.attn.weights"].heads == (0, 1, 2, 3)
    assert pairs["layer0.attn.q"].positions == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("room", [500, 700, 1500])
def test_with_little_room_stay_the_first_that_parts_what_it_read_and_the_worst(room):
    pairs, result = kept(changed("layer0.attn_wk", 0.5), room)
    print(result.first, {name: pair.size for name, pair in pairs.items()})
    assert sum(pair.size for pair in pairs.values()) <= room
    assert result.first == "layer0.attn.k"
    assert {result.first, "layer0.attn.norm"} <= set(pairs)
    others = [event for event in result.events if event.name not in (result.first, "layer0.attn.norm")]
    worst = max(others, key=lambda event: event.excess)
    assert worst.name in pairs


def test_what_is_too_large_is_kept_where_it_parts():
    pairs, result = kept(changed("layer0.mlp_fc1"), room=300)
    first = result.event("layer0.mlp.up")
    print(first.position, {name: pair.a.shape for name, pair in pairs.items()})
    assert result.first == first.name
    assert pairs[first.name].positions == (first.position,)
    assert pairs[first.name].a.shape == (1, 64)


def test_parts_of_an_event_are_joined_and_the_worst_of_a_large_one_stays():
    rows = np.arange(12.0).reshape(4, 3)
    whole = result_of(room=LARGE, pieces=[rows[:1], rows[1:3], rows[3:]])
    assert np.array_equal(whole["logits"].a, rows)
    assert whole["logits"].positions == (0, 1, 2, 3)
    apart = result_of(room=12, pieces=[rows[:1], rows[1:3], rows[3:]])
    print(apart["logits"])
    assert apart["logits"].positions == (2,)
    assert np.array_equal(apart["logits"].b, rows[2:3] + 1)


def result_of(room, pieces):
    """What is kept of logits that come in parts; the sides part at position 2."""
    keeper, start = PairKeeper(room, lambda name: ()), 0
    event = diff(A, changed("lm_head"), "emma").event("logits")
    for rows in pieces:
        positions = range(start, start + len(rows))
        start += len(rows)
        both = [Piece("logits", rows, positions), Piece("logits", rows + 1, positions)]
        keeper(both, lambda name: with_position(event, 2))
    return keeper.pairs


def with_position(event, position):
    return replace(event, position=position)


def test_a_head_is_narrowed_to():
    weights = np.arange(18.0).reshape(2, 3, 3)
    pair = KeptPair(weights, weights, (0, 1, 2), (0, 1))
    event = with_position(diff(A, changed("layer0.attn_wk"), "emma").event("layer0.attn.weights"), 1)
    assert pair.narrowed(event).heads == (event.head,)
    assert np.array_equal(pair.narrowed(event).a[0], weights[event.head])


def test_statistics_alone_leave_nothing_to_keep(tmp_path):
    (tmp_path / "a.json").write_text(trace_json(trace(A, "emma", values=False), False))
    keeper = PairKeeper(LARGE, reads)
    result = diff(tmp_path / "a.json", B, "emma", watch=keeper)
    assert result.of_statistics
    assert keeper.pairs == {}
