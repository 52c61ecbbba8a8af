"""Models for tests whose parameters are arrays in float64, and a plan that no model of ours has yet."""

from types import SimpleNamespace

import numpy as np

from microgpt_trace.architecture import kinds
from microgpt_trace.architecture.plan import Plan
from microgpt_trace.architecture.rows import Rows


def of_arrays(plan, parameters):
    """A model whose parameters are arrays, float64."""

    arrays = {name: np.array(value, np.float64) for name, value in parameters.items()}

    def parameter(name, rows=None):
        return arrays[name] if rows is None else arrays[name][rows]

    config = SimpleNamespace(vocab_size=61)
    return SimpleNamespace(
        plan=plan, tensors={}, dtype="float64", parameter=parameter, arrays=arrays, config=config
    )


def gpt(function):
    """A plan that no model of ours has yet: LayerNorm with bias, learned positions, biases, a GELU."""
    rows, norm, group = Rows(), kinds.Norm(1e-5, "g", None, True, "b"), (0, 1)
    lookups = {"tok": kinds.Lookup("wte", "tokens", 61, 8), "pos": kinds.Lookup("wpe", "positions", 16, 8)}
    for name, kind in lookups.items():
        rows.add(f"embed.{name}", kind, expr="")
    stream = rows.add("embed.sum", kinds.Add(), "embed.tok", "embed.pos", expr="")
    for i in range(2):
        rows.begin_layer(i)
        rows.add("attn.norm", norm, stream, expr="")
        for n in "qkv":
            rows.add(f"attn.{n}", kinds.Linear(f"{i}w{n}", 8, f"{i}b{n}"), "attn.norm", expr="")
        rows.add("attn.scores", kinds.Scores(4, group, 0.5), "attn.q", "attn.k", expr="")
        rows.add("attn.weights", kinds.Softmax(), "attn.scores", expr="")
        rows.add("attn.context", kinds.Context(4, group), "attn.weights", "attn.v", expr="")
        heads = [
            rows.add(f"attn.head{h}", kinds.Linear(f"{i}wo", 8, columns=(4 * h, 4 * h + 4)), "attn.context",
                     expr="", extra=True)
            for h in group
        ]  # fmt: skip
        rows.add("attn.out", kinds.Linear(f"{i}wo", 8, f"{i}bo"), "attn.context", expr="", parts=heads)
        rows.add("mlp.up", kinds.Linear(f"{i}w1", 12, f"{i}b1"), "attn.norm", expr="")  # a parallel layer
        rows.add("mlp.act", kinds.Activation(function), "mlp.up", expr="")
        rows.add("mlp.down", kinds.Linear(f"{i}w2", 8, f"{i}b2"), "mlp.act", expr="")
        rows.add("mlp.both", kinds.Add(), "attn.out", "mlp.down", expr="")
        stream = rows.add("mlp.residual", kinds.Add(), stream, "mlp.both", expr="")
    rows.begin_layer(None)
    rows.add("final.norm", norm, stream, expr="")
    rows.add("logits", kinds.Linear("wte", 61), "final.norm", expr="")
    rows.add("probs", kinds.Probabilities(), "logits", expr="")
    rows.add("loss", kinds.Loss(), "logits", expr="")
    plan, rng = Plan(rows.rows), np.random.default_rng(3)
    return of_arrays(plan, {n: rng.normal(size=shape) for n, shape in plan.parameters.items()})
