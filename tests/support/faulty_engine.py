"""An independent engine that can compute faults. It runs decoders, GPT-2 and microGPT in float64.

Imports nothing from the package. A model is a plan: operations in order of computation, each with options.
A fault is data: other options of an operation (RoPE with `interleaved=True`), weights read wrongly, or one
altered event. Later events follow from the faulty one. All parameters have the names of Hugging Face.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from support import engine_operations as ops
from support.engine_operations import Step
from support.ggml_inputs import EightBit
from support.judges_decoder import head_dim_of, window_of
from support.tiny_models import Blocks


@dataclass(frozen=True, eq=False)
class Fault:
    """A fault, and the event with the first wrong value.

    `changes` are options by operation, in `layer` or in every layer (None), or by event. The option `instead`
    is a function of the step, the options and the right value that returns another value. `weights` replace
    weights of the model. `alter` is applied to the value of `event`. Each word of `cause` names the fault.
    """

    id: str
    event: str
    cause: tuple[str, ...]
    layer: int | None = None
    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    alter: Callable[[np.ndarray], np.ndarray] | None = field(default=None, repr=False)


class Operation(NamedTuple):
    name: str  # "attn.q"
    layer: int | None
    function: Callable[..., np.ndarray]
    options: dict[str, Any]

    @property
    def event(self):
        return self.name if self.layer is None else f"layer{self.layer}.{self.name}"


GAINS = {"gain": "input_layernorm"}, {"gain": "post_attention_layernorm"}
TOKENS = ("embed.tok", ops.embed, {"table": "model.embed_tokens"})
OUT = ("attn.out", ops.product, {"of": "attn.context", "by": "self_attn.o_proj"})
UP = ("mlp.up", ops.product, {"of": "mlp.norm", "by": "mlp.up_proj"})
PROBS, LOSS = ("probs", ops.probabilities, {}), ("loss", ops.cross_entropy, {})


def _plan(config, start, mlp, end, norms=GAINS, between=(), scored=("attn.q", "attn.k"), out=(OUT,)):
    """Return the operations of `start`, of every layer, and of `end`, which reads the residual stream. In a
    layer, `norms` are the options of both norms, `between` computes the `scored` events from q and k, `out`
    computes attn.out, and `mlp` lies between the second norm and the last product."""
    rows, stream = [(None, *row) for row in start], start[-1][0]
    for i in range(config["num_hidden_layers"]):
        layer = [
            ("attn.norm", ops.norm, {"of": stream} | norms[0]),
            *((f"attn.{n}", ops.product, {"of": "attn.norm", "by": f"self_attn.{n}_proj"}) for n in "qkv"),
            *between,
            ("attn.scores", ops.scores, {"q": scored[0], "k": scored[1]}),
            ("attn.weights", ops.attention_weights, {"window": window_of(config, i)}),
            ("attn.context", ops.context, {}),
            *out,
            ("attn.residual", ops.residual, {"stream": stream, "branch": "attn.out"}),
            ("mlp.norm", ops.norm, {"of": "attn.residual"} | norms[1]),
            *mlp,
            ("mlp.down", ops.product, {"of": mlp[-1][0], "by": "mlp.down_proj"}),
            ("mlp.residual", ops.residual, {"stream": "attn.residual", "branch": "mlp.down"}),
        ]
        rows += [(i, *row) for row in layer]
        stream = f"layer{i}.mlp.residual"
    rows += [(None, name, function, {"of": stream} | options) for name, function, options in end[:1]]
    rows += [(None, *row) for row in end[1:]]
    return [Operation(name, layer, function, options) for layer, name, function, options in rows]


def _final(config, **options):
    """Return the final norm, the product that makes the logits, and the softmax."""
    head = "model.embed_tokens" if config.get("tie_word_embeddings") else "lm_head"
    last = ("final.norm", ops.norm, {"gain": "model.norm"} | options)
    return last, ("logits", ops.product, {"of": "final.norm", "by": head}), PROBS


def _heads(config, **options):
    """Return the operations for the contribution of each head to attn.out."""
    dim, (_, _, product) = head_dim_of(config), OUT
    columns = [slice(h * dim, h * dim + dim) for h in range(config["num_attention_heads"])]
    return [(f"attn.head{h}", ops.product, product | {"columns": c} | options) for h, c in enumerate(columns)]


def decoder_plan(config):
    normed = "_norm" if config["model_type"] == "qwen3" else ""
    gains = {n: {"gain": f"self_attn.{n}_norm", "per_head": True} for n in ("qk" if normed else "")}
    between = [(f"attn.{n}_norm", ops.norm, {"of": f"attn.{n}"} | gain) for n, gain in gains.items()]
    between += [(f"attn.{n}_rope", ops.rope, {"of": f"attn.{n}{normed}"}) for n in "qk"]
    mlp = [
        ("mlp.gate", ops.product, {"of": "mlp.norm", "by": "mlp.gate_proj"}),
        UP,
        ("mlp.act", ops.activation, {"of": "mlp.gate", "kind": "silu"}),
        ("mlp.hidden", ops.times, {"a": "mlp.act", "b": "mlp.up"}),
    ]
    scored = ("attn.q_rope", "attn.k_rope")
    return _plan(config, [TOKENS], mlp, _final(config), between=between, scored=scored)


POSITIONED = [
    TOKENS,
    ("embed.pos", ops.embed, {"table": "wpe", "positions": True}),
    ("embed.sum", ops.residual, {"stream": "embed.tok", "branch": "embed.pos"}),
]


def microgpt_plan(config):
    start = [*POSITIONED, ("embed.norm", ops.norm, {"of": "embed.sum"})]
    heads = _heads(config)
    out = [*heads, ("attn.out", ops.total, {"parts": [name for name, *_ in heads]})]
    mlp = [UP, ("mlp.act", ops.activation, {"of": "mlp.up", "kind": "relu"})]
    end = [("logits", ops.product, {"by": "lm_head"}), PROBS, LOSS]
    return _plan(config, start, mlp, end, norms=({}, {}), out=out)


def gpt2_plan(config, kind):
    """Return the plan of a GPT-2, from a config with the keys of the other decoders and its activation."""
    centred = {"centred": True}
    mlp = [UP, ("mlp.act", ops.activation, {"of": "mlp.up", "kind": kind})]
    out, end = [*_heads(config, bias=0.0), OUT], [*_final(config, **centred), LOSS]
    return _plan(config, POSITIONED, mlp, end, norms=[gain | centred for gain in GAINS], out=out)


def rounded_to(x, rounding):
    """Round to "bf16" or "f16", ties to even; None leaves the numbers as they are. Returns float32."""
    x = np.asarray(x, np.float32)
    if rounding == "f16":
        return x.astype(np.float16).astype(np.float32)
    if rounding == "bf16":  # 8 significant bits; the exponent is float32's
        mantissa, exponent = np.frexp(x)
        return np.ldexp(np.rint(mantissa * 256), exponent - 8).astype(np.float32)
    assert rounding is None, rounding
    return x


def decoder_run(
    config, weights, tokens, fault=None, *, alter=None, rounding=None, round_weights=False, inputs=None
) -> dict[str, np.ndarray]:
    """Return every forward event, float32, computed in float64 from earlier events.

    `weights` are arrays or Blocks by Hugging Face's names. `alter(name, value)` returns the value to use for
    an event. `rounding` rounds every event, and `round_weights` the weights too. With `inputs` ("Q8_0",
    "Q8_1", "Q8_K") products use ggml's 8-bit blocks, and attention rounds its inputs to float16.
    """
    precision = rounding, rounding if round_weights else None
    return run_plan(decoder_plan(config), config, weights, tokens, [], fault, alter, precision, inputs)


def microgpt_run(
    params, tokens, n_head, fault=None, *, targets=(), alter=None, rounding=None, round_weights=False
) -> dict[str, np.ndarray]:
    """Return every forward event of microGPT, from its state dict. Without `targets` there is no loss."""
    config, weights = microgpt_config(params, n_head), renamed(params)
    plan = microgpt_plan(config)[: None if len(targets) else -1]
    precision = rounding, rounding if round_weights else None
    return run_plan(plan, config, weights, tokens, targets, fault, alter, precision)


def run_plan(plan, config, weights, tokens, targets, fault, alter=None, precision=(None, None), inputs=None):
    """Run a plan and return its events. `precision` holds the rounding of events and of weights."""
    fault = fault or Fault("none", "", ())
    eight_bit = EightBit(inputs, weights) if inputs else None
    weights = {n: w.values() if isinstance(w, Blocks) else w for n, w in (weights | fault.weights).items()}
    with np.errstate(all="ignore"):
        weights = {n: rounded_to(w, precision[1]).astype(np.float64) for n, w in weights.items()}
        tokens, targets = _change_tokens(list(tokens), list(targets), **fault.changes.get("tokens", {}))
        events = {}
        for op in plan:
            options = op.options | (overrides(fault.changes, fault.layer, op) or {})
            step = Step(config, weights, tokens, targets, events, op.layer, eight_bit)
            instead = options.pop("instead", None)
            value = op.function(step, **options)
            value = rounded_to(value if instead is None else instead(step, options, value), precision[0])
            if fault.alter is not None and op.event == fault.event:
                value = fault.alter(value)
            value = value if alter is None else alter(op.event, value)
            events[op.event] = np.asarray(value, np.float32)
    return events


def overrides(changes, layer, op):
    """Return the changed options of an operation, by its event or name, or None. A window can only change
    where there is one."""
    options = (changes.get(op.event) or changes.get(op.name)) if layer in (None, op.layer) else None
    return None if options and "window" in options and op.options["window"] is None else options


def _change_tokens(tokens, targets, prepend=None, skip=0):
    if prepend is not None:
        return [prepend, *tokens], tokens[:1] + targets if targets else []
    return tokens[skip:], targets[skip:]


_RENAMED = {
    "wte": "model.embed_tokens", "attn_wq": "self_attn.q_proj", "attn_wk": "self_attn.k_proj",
    "attn_wv": "self_attn.v_proj", "attn_wo": "self_attn.o_proj", "mlp_fc1": "mlp.up_proj",
    "mlp_fc2": "mlp.down_proj",
}  # fmt: skip


def renamed(params):
    """Return microGPT's parameters by Hugging Face's names."""
    weights = {}
    for name, array in params.items():
        layer, _, rest = name.rpartition(".")
        prefix = f"model.layers.{layer.removeprefix('layer')}." if layer else ""
        weights[f"{prefix}{_RENAMED.get(rest, rest)}.weight"] = array
    return weights


def microgpt_config(params, n_head):
    layers = 1 + max(int(n.split(".")[0].removeprefix("layer")) for n in params if n.startswith("layer"))
    width = params["wte"].shape[1]
    return {
        "model_type": "microgpt", "num_hidden_layers": layers, "hidden_size": width,
        "num_attention_heads": n_head, "rms_norm_eps": 1e-5,
    }  # fmt: skip
