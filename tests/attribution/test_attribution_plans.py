"""Attribution over plans that no supported model has: norms after branches, and biases everywhere."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.judges import agree
from support.other_plans import T, V, post_norm_plan, random_model, values_of

from microgpt_trace.attribution.writes import components_of, direct_writes, way_to


@pytest.mark.parametrize("parallel", [False, True])
def test_the_writes_of_a_plan_add_up_to_its_logits(parallel):
    model, rng = random_model(post_norm_plan(parallel)), np.random.default_rng(6)
    values = values_of(model, rng.integers(V, size=T))
    seen = SimpleNamespace(way=way_to(model.plan, "logits"), used=values, changes={})
    chosen = rng.integers(V, size=(T, 2))
    components, writes = direct_writes(model, seen, chosen)
    assert [c.name for c in components] == [
        "embed.tok", "embed.pos", "layer0.attn.head0", "layer0.attn.head1", "layer0.attn_bo",
        "layer0.attn_post_norm_bias", "layer0.mlp.down", "layer0.mlp_bdown", "final_bias", "lm_bias",
    ]  # fmt: skip
    assert [c.kind for c in components_of(model)].count("bias") == 5
    expected = np.take_along_axis(values["logits"], chosen, axis=1)
    agree(sum(writes.values()), expected, rtol=1e-9, atol=1e-9)
