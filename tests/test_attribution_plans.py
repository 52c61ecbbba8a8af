"""The walk behind an attribution over a plan that no model here has: norms behind branches, biases."""

from types import SimpleNamespace

import numpy as np
import pytest
from judges import agree

from microgpt_trace.architecture.kinds import Activation, Add, Linear, Lookup, Norm
from microgpt_trace.architecture.operations.given import Given
from microgpt_trace.architecture.plan import Plan, Rows
from microgpt_trace.architecture.reference import reference
from microgpt_trace.attribution.components import components_of, way_to_logits
from microgpt_trace.attribution.direct import direct_writes

V, C, T, H = 7, 6, 4, 2


def gpt2_rows(rows, parallel):
    """Learned positions, LayerNorm with bias, biased products; parallel branches with a norm behind each."""
    norm = partial_norm(rows)
    rows.add("embed.tok", Lookup("wte", "tokens", V, C), expr="")
    rows.add("embed.pos", Lookup("wpe", "positions", T, C), expr="")
    stream = rows.add("embed.sum", Add(), "embed.tok", "embed.pos", expr="")
    rows.begin_layer(0)
    rows.add("attn.norm", norm("attn_norm"), stream, expr="")
    weight = rows.name("attn_wo")
    heads = [
        rows.add(f"attn.head{h}", Linear(weight, C, columns=(3 * h, 3 * h + 3)), "attn.norm", expr="")
        for h in range(H)
    ]
    rows.add("attn.out", Linear(weight, C, rows.name("attn_bo")), "attn.norm", expr="", parts=heads)
    rows.add("attn.post_norm", norm("attn_post_norm"), "attn.out", expr="")
    middle = rows.add("attn.residual", Add(), stream, "attn.post_norm", expr="")
    rows.add("mlp.norm", norm("mlp_norm"), stream if parallel else middle, expr="")
    rows.add("mlp.up", Linear(rows.name("mlp_wup"), 2 * C, rows.name("mlp_bup")), "mlp.norm", expr="")
    rows.add("mlp.act", Activation("GELU"), "mlp.up", expr="")
    rows.add("mlp.down", Linear(rows.name("mlp_wdown"), C, rows.name("mlp_bdown")), "mlp.act", expr="")
    stream = rows.add("mlp.residual", Add(), middle, "mlp.down", expr="")
    rows.begin_layer(None)
    rows.add("final.norm", Norm(1e-5, "final_norm", centred=True, bias="final_bias"), stream, expr="")
    rows.add("logits", Linear("lm_head", V, "lm_bias"), "final.norm", expr="")
    return Plan(rows.rows)


def partial_norm(rows):
    return lambda name: Norm(1e-5, rows.name(name), centred=True, bias=rows.name(f"{name}_bias"))


def values_of(plan, given, tokens):
    """Every event in float64."""
    found = {}
    for row in plan.values():
        found[row.name] = reference(row, given, *(found[name] for name in row.inputs))
    return found


@pytest.mark.parametrize("parallel", [False, True])
def test_the_writes_of_a_plan_add_up_to_its_logits(parallel):
    plan, rng = gpt2_rows(Rows(), parallel), np.random.default_rng(5)
    parameters = {name: rng.normal(size=shape) for name, shape in plan.parameters.items()}
    model = SimpleNamespace(
        plan=plan,
        tensors={},
        parameter=lambda name, rows=slice(None): parameters[name][rows],
    )
    tokens = rng.integers(V, size=T)
    values = values_of(plan, Given(model, tokens), tokens)
    seen = SimpleNamespace(way=way_to_logits(plan), writes=values, normed=values, changes={})
    chosen = rng.integers(V, size=(T, 2))
    components, writes = direct_writes(model, seen, chosen)
    assert [c.name for c in components] == [
        "embed.tok", "embed.pos", "layer0.attn.head0", "layer0.attn.head1", "layer0.attn_bo",
        "layer0.attn_post_norm_bias", "layer0.mlp.down", "layer0.mlp_bdown", "final_bias", "lm_bias",
    ]  # fmt: skip
    assert [c.kind for c in components_of(model)].count("bias") == 5
    expected = np.take_along_axis(values["logits"], chosen, axis=1)
    agree(sum(writes.values()), expected, rtol=1e-9, atol=1e-9)
