"""Plans unlike those of the package's models, float64 models of such plans, and their values."""

from functools import partial
from types import SimpleNamespace

import numpy as np

from microgpt_trace.operations.by_kind import reference
from microgpt_trace.operations.reference_inputs import ReferenceInputs
from microgpt_trace.plans.blocks import RowBuilder
from microgpt_trace.plans.kinds import (
    Activation,
    Add,
    Choice,
    Clip,
    Context,
    Experts,
    Linear,
    Lookup,
    Loss,
    Mixture,
    Norm,
    Probabilities,
    Routing,
    Scores,
    Shift,
    Softmax,
)
from microgpt_trace.plans.plan import Plan

V, C, T, H = 7, 6, 4, 2


def post_norm_plan(parallel=False):
    """Return a plan with learned positions, LayerNorm, biases, and a norm after attention. Branches may be
    parallel."""
    rows = RowBuilder()
    add, name = partial(rows.add, expr=""), rows.name

    def norm(gain):
        return Norm(1e-5, name(gain), centred=True, bias=name(f"{gain}_bias"))

    tokens = add("embed.tok", Lookup("wte", "tokens", V, C))
    stream = add("embed.sum", Add(), tokens, add("embed.pos", Lookup("wpe", "positions", T, C)))
    rows.layer = 0
    normed, wo = add("attn.norm", norm("attn_norm"), stream), name("attn_wo")
    heads = [add(f"attn.head{h}", Linear(wo, C, columns=(3 * h, 3 * h + 3)), normed) for h in range(H)]
    out = add("attn.out", Linear(wo, C, name("attn_bo")), normed, parts=heads)
    middle = add("attn.residual", Add(), stream, add("attn.post_norm", norm("attn_post_norm"), out))
    normed = add("mlp.norm", norm("mlp_norm"), stream if parallel else middle)
    act = add(
        "mlp.act", Activation("GELU"), add("mlp.up", Linear(name("mlp_wup"), 2 * C, name("mlp_bup")), normed)
    )
    down = add("mlp.down", Linear(name("mlp_wdown"), C, name("mlp_bdown")), act)
    stream = add("mlp.residual", Add(), middle, down)
    rows.layer = None
    final = add("final.norm", Norm(1e-5, "final_norm", centred=True, bias="final_bias"), stream)
    add("logits", Linear("lm_head", V, "lm_bias"), final)
    return Plan(rows.rows)


def odd_plan():
    """Return a plan of two layers with parallel branches and operations that no model combines."""
    rows, width, dim, group = RowBuilder(), 12, 4, (0, 0, 1, 1)
    add = partial(rows.add, expr="")
    tokens = add("embed.tok", Lookup("wte", "tokens", 61, width))
    positions = add("embed.pos", Lookup("wpe", "positions", 9, width))
    stream = add("embed.sum", Add(), tokens, positions)
    for i in range(2):
        rows.layer = i
        normed = add("attn.norm", Norm(1e-3, rows.name("attn_g"), None, True, rows.name("attn_c")), stream)
        q = add("attn.q", Linear(rows.name("attn_wq"), 16, rows.name("attn_bq")), normed)
        q = add("attn.q_norm", Norm(1e-2, rows.name("attn_gq"), dim, True, rows.name("attn_cq")), q)
        k = add("attn.k", Linear(rows.name("attn_wk"), 8, rows.name("attn_bk")), normed)
        v = add("attn.v", Linear(rows.name("attn_wv"), 8), normed)
        weights = add("attn.weights", Softmax(3), add("attn.scores", Scores(dim, group, 0.3), q, k))
        context, wo = add("attn.context", Context(dim, group), weights, v), rows.name("attn_wo")
        heads = [
            add(f"attn.head{h}", Linear(wo, width, columns=(dim * h, dim * h + dim)), context, extra=True)
            for h in range(4)
        ]
        out = add("attn.out", Linear(wo, width, rows.name("attn_bo")), context, parts=heads)
        up = add("mlp.up", Linear(rows.name("mlp_up"), 20, rows.name("mlp_bup")), normed)
        tanh = add("mlp.tanh", Activation("GELU by tanh"), up)
        act = add("mlp.act", Activation("GELU"), tanh)
        both = add("mlp.both", Add(), out, add("mlp.down", Linear(rows.name("mlp_down"), width), act))
        stream = add("mlp.residual", Add(), stream, add("mlp.post_norm", Norm(1e-3, centred=True), both))
    rows.layer = None
    head = add("logits", Linear("wte", 61), add("final.norm", Norm(1e-3), stream))
    add("probs", Probabilities(), head)
    add("loss", Loss(), head)
    return Plan(rows.rows)


def routed_plan():
    """Return a plan with sinks and four mixtures of experts. The second mixture reads clipped values
    after xIELU, does not normalise the shares, and has biases and a shared part. The third chooses experts of
    the best groups by corrected scores. The fourth does not normalise scores."""
    rows, width, dim, experts, count, inner = RowBuilder(), 12, 4, 6, 2, 6
    add, name = partial(rows.add, expr=""), rows.name
    stream = add("embed.tok", Lookup("wte", "tokens", 61, width))
    rows.layer = 0
    q, k, v = (add(f"attn.{n}", Linear(name(f"attn_w{n}"), 12), stream) for n in "qkv")
    scores = add("attn.scores", Scores(dim, (0, 1, 2), 0.5), q, k)
    weights = add("attn.weights", Softmax(4, name("attn_sinks")), scores)
    stream = add("attn.residual", Add(), stream, add("attn.context", Context(dim, (0, 1, 2)), weights, v))
    for layer in range(4):
        rows.layer, later = layer, layer == 1
        read = stream if layer < 2 else add("mlp.norm", Norm(1e-3), stream)
        router = add("mlp.router", Linear(name("mlp_wrouter"), experts), read)
        if layer < 2:
            chosen = add("mlp.chosen", Choice(count), router)
            routing = add("mlp.routing", Routing(not later), router, chosen)
        else:
            scores, groups = add("mlp.scores", Activation("sigmoid"), router), 3 if layer == 2 else 1
            ranked = add("mlp.corrected", Shift(name("mlp_correction")), scores)
            chosen = add("mlp.chosen", Choice(count, groups, min(groups, 2), 2, any_order=True), ranked)
            routing = add("mlp.routing", Routing(layer == 2, of_scores=True), scores, chosen)
        bias = name("mlp_bup_experts") if later else None
        up = add("mlp.up", Experts(name("mlp_wup_experts"), experts, inner, bias), read, chosen)
        if later:
            learned = name("mlp_alpha_p"), name("mlp_alpha_n")
            up = add("mlp.clipped", Clip(-1.5, 2.0, 1.0), add("mlp.act", Activation("xIELU", learned), up))
        bias = name("mlp_bdown_experts") if later else None
        down = Experts(name("mlp_wdown_experts"), experts, width, bias, beside=True)
        out = add("mlp.mixture", Mixture(), add("mlp.down", down, up, chosen), routing)
        if later:
            share = add(
                "mlp.share", Activation("sigmoid"), add("mlp.gate", Linear(name("mlp_wg"), 1), stream)
            )
            shared = add("mlp.product", Linear(name("mlp_ws"), width), stream)
            out = add("mlp.both", Add(), out, add("mlp.shared", Mixture(), shared, share))
        stream = add("mlp.residual", Add(), stream, out)
    rows.layer = None
    head = add("logits", Linear("wte", 61), add("final.norm", Norm(1e-3), stream))
    add("probs", Probabilities(), head)
    add("loss", Loss(), head)
    return Plan(rows.rows)


def model_of(plan, parameters):
    """Return a model with these parameters in float64."""
    arrays = {name: np.array(value, np.float64) for name, value in parameters.items()}

    def parameter(name, rows=None):
        return arrays[name] if rows is None else arrays[name][rows]

    def product(x, name, expert=None):
        return x @ (arrays[name] if expert is None else arrays[name][expert]).T

    def product_backward(dy, name, expert=None):
        return dy @ (arrays[name] if expert is None else arrays[name][expert])

    return SimpleNamespace(
        plan=plan, tensors={}, dtype="float64", parameter=parameter, product=product,
        product_backward=product_backward, arrays=arrays,
        config=SimpleNamespace(vocab_size=61), trainable=False, takes_prompts=False, bos=None,
        ends_with_bos=False,
    )  # fmt: skip


def random_model(plan, seed=3):
    """Return a model of a plan with random parameters."""
    rng = np.random.default_rng(seed)
    return model_of(plan, {name: rng.standard_normal(shape) for name, shape in plan.parameters.items()})


def in_float64(model):
    """Return a model with its parameters in float64."""
    return model_of(model.plan, {name: model.parameter(name) for name in model.plan.parameters})


def values_of(model, tokens, bent=None):
    """Return every event in float64. The event `bent` is multiplied by 1.5 before later events use it."""
    inputs, values = ReferenceInputs(model, tokens), {}
    for row in model.plan.values():
        value = reference(row, inputs, *(values[name] for name in row.inputs))
        values[row.name] = value * 1.5 if row.name == bent else value
    return values
