"""The events of all architectures in one order, for what stands beside no model."""

import random

from microgpt_trace.architecture.plans.catalogue import examples, kind_named, known_rows, place_of
from microgpt_trace.architecture.plans.plan import kind_of


def test_the_merged_order_is_that_of_every_architecture():
    for plan in examples():
        own = list(dict.fromkeys(map(kind_of, plan)))
        assert [kind for kind in known_rows() if kind in own] == own


def test_events_of_several_layers_are_sorted_as_they_are_computed():
    layer = ["attn.norm", "attn.v", "attn.q_rope", "attn.head1", "attn.out", "mlp.gate", "mlp.residual"]
    layers = [f"layer{i}.{name}" for i in (0, 2, 10) for name in layer]
    sequence = ["embed.tok", "embed.norm", *layers, "final.norm", "logits", "loss"]
    shuffled = random.Random(3).sample(sequence, len(sequence))
    assert sorted(shuffled, key=place_of) == sequence


def test_what_is_no_event_has_no_kind():
    assert kind_named("layer0.attn.something") is None
    assert type(kind_named("layer3.attn.head2")).__name__ == "Linear"
