"""A plan that no model here has, and what it computes: norms behind branches, LayerNorm, biases, GELU."""

from types import SimpleNamespace

import numpy as np

from microgpt_trace.architecture.kinds import Activation, Add, Linear, Lookup, Norm
from microgpt_trace.architecture.operations.given import Given
from microgpt_trace.architecture.plan import Plan
from microgpt_trace.architecture.reference import reference
from microgpt_trace.architecture.rows import Rows

V, C, T, H = 7, 6, 4, 2


def gpt2(parallel=False):
    """Learned positions, LayerNorm with bias, biased products; parallel branches with a norm behind each."""
    rows = Rows()

    def norm(name):
        return Norm(1e-5, rows.name(name), centred=True, bias=rows.name(f"{name}_bias"))

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


def model_of(plan, seed=5):
    """A model with such rows and drawn parameters, float64, that only gives these."""
    rng = np.random.default_rng(seed)
    parameters = {name: rng.normal(size=shape) for name, shape in plan.parameters.items()}
    return SimpleNamespace(
        plan=plan, tensors={}, parameter=lambda name, rows=slice(None): parameters[name][rows]
    )


def values_of(model, tokens):
    """Every event in float64."""
    given, found = Given(model, tokens), {}
    for row in model.plan.values():
        found[row.name] = reference(row, given, *(found[name] for name in row.inputs))
    return found
