"""The events of all architectures in one order, for what stands beside no model."""

import random

import pytest

from microgpt_trace.architecture.catalogue import examples, kind_named, known_rows, place_of
from microgpt_trace.architecture.plan import kind_of


@pytest.mark.parametrize("number", range(len(examples())))
def test_the_merged_order_is_that_of_every_architecture(number):
    own = list(dict.fromkeys(map(kind_of, examples()[number])))
    assert [kind for kind in known_rows() if kind in own] == own


def test_events_of_several_layers_are_sorted_as_they_are_computed():
    sequence = [
        "embed.tok",
        "embed.norm",
        "layer0.attn.norm",
        "layer0.attn.v",
        "layer0.attn.q_rope",
        "layer0.attn.head1",
        "layer0.attn.out",
        "layer0.mlp.gate",
        "layer0.mlp.up",
        "layer0.mlp.residual",
        "layer2.attn.norm",
        "layer10.attn.norm",
        "final.norm",
        "logits",
        "loss",
    ]
    shuffled = random.Random(3).sample(sequence, len(sequence))
    assert sorted(shuffled, key=place_of) == sequence


def test_what_is_no_event_has_no_kind():
    assert kind_named("layer0.attn.something") is None
    assert type(kind_named("layer3.attn.head2")).__name__ == "Linear"
