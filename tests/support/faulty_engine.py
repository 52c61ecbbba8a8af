"""An independent engine with faults to order: decoders and microGPT in float64, every event by name.

It imports nothing of the package. A model is a plan: operations in order of computation, each with
options. A fault is data: options that stand in place of an operation's own (RoPE with
`interleaved=True`), weights read wrongly, or one event altered. What follows inherits it.
Parameters have Hugging Face's names, microGPT's too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from support.engine_operations import (
    EightBit,
    Step,
    activation,
    attention_weights,
    context,
    cross_entropy,
    embed,
    norm,
    probabilities,
    product,
    residual,
    rope,
    scores,
    times,
    total,
)
from support.judges_decoder import head_dim_of, window_of
from support.tiny_models import Blocks


@dataclass(frozen=True, eq=False)
class Fault:
    """What is wrong, and where the first wrong value appears.

    `changes` are options by operation, of `layer` alone, or of every layer where it is None (`instead`
    is a function of the step, the options and the right value that gives another value); `weights`
    stand in place of the model's; `alter` is applied to the value of `event`. `cause` are words, any
    of which names the fault.
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


# --- Plans -----------------------------------------------------------------------------------


def decoder_plan(config):
    plan, stream = [Operation("embed.tok", None, embed, {"table": "model.embed_tokens"})], "embed.tok"
    for i in range(config["num_hidden_layers"]):
        rows = [("attn.norm", norm, {"of": stream, "gain": "input_layernorm"})]
        rows += [(f"attn.{n}", product, {"of": "attn.norm", "by": f"self_attn.{n}_proj"}) for n in "qkv"]
        normed = config["model_type"] == "qwen3"
        for n in "qk" if normed else "":
            own = {"of": f"attn.{n}", "gain": f"self_attn.{n}_norm", "per_head": True}
            rows.append((f"attn.{n}_norm", norm, own))
        rows += [(f"attn.{n}_rope", rope, {"of": f"attn.{n}" + "_norm" * normed}) for n in "qk"]
        rows += [
            ("attn.scores", scores, {"q": "attn.q_rope", "k": "attn.k_rope"}),
            ("attn.weights", attention_weights, {"window": window_of(config, i)}),
            ("attn.context", context, {}),
            ("attn.out", product, {"of": "attn.context", "by": "self_attn.o_proj"}),
            ("attn.residual", residual, {"stream": stream, "branch": "attn.out"}),
            ("mlp.norm", norm, {"of": "attn.residual", "gain": "post_attention_layernorm"}),
            ("mlp.gate", product, {"of": "mlp.norm", "by": "mlp.gate_proj"}),
            ("mlp.up", product, {"of": "mlp.norm", "by": "mlp.up_proj"}),
            ("mlp.act", activation, {"of": "mlp.gate", "kind": "silu"}),
            ("mlp.hidden", times, {"a": "mlp.act", "b": "mlp.up"}),
            ("mlp.down", product, {"of": "mlp.hidden", "by": "mlp.down_proj"}),
            ("mlp.residual", residual, {"stream": "attn.residual", "branch": "mlp.down"}),
        ]
        plan += [Operation(name, i, function, options) for name, function, options in rows]
        stream = f"layer{i}.mlp.residual"
    head = "model.embed_tokens" if config.get("tie_word_embeddings") else "lm_head"
    return [
        *plan,
        Operation("final.norm", None, norm, {"of": stream, "gain": "model.norm"}),
        Operation("logits", None, product, {"of": "final.norm", "by": head}),
        Operation("probs", None, probabilities, {}),
    ]


def microgpt_plan(config):
    plan = [
        Operation("embed.tok", None, embed, {"table": "model.embed_tokens"}),
        Operation("embed.pos", None, embed, {"table": "wpe", "positions": True}),
        Operation("embed.sum", None, residual, {"stream": "embed.tok", "branch": "embed.pos"}),
        Operation("embed.norm", None, norm, {"of": "embed.sum"}),
    ]
    dim, heads, stream = head_dim_of(config), range(config["num_attention_heads"]), "embed.norm"
    share = [{"columns": slice(h * dim, (h + 1) * dim)} for h in heads]
    for i in range(config["n_layer"]):
        rows = [("attn.norm", norm, {"of": stream})]
        rows += [(f"attn.{n}", product, {"of": "attn.norm", "by": f"self_attn.{n}_proj"}) for n in "qkv"]
        rows += [
            ("attn.scores", scores, {"q": "attn.q", "k": "attn.k"}),
            ("attn.weights", attention_weights, {"window": None}),
            ("attn.context", context, {}),
        ]
        own = {"of": "attn.context", "by": "self_attn.o_proj"}
        rows += [(f"attn.head{h}", product, own | share[h]) for h in heads]
        rows += [
            ("attn.out", total, {"parts": [f"attn.head{h}" for h in heads]}),
            ("attn.residual", residual, {"stream": stream, "branch": "attn.out"}),
            ("mlp.norm", norm, {"of": "attn.residual"}),
            ("mlp.up", product, {"of": "mlp.norm", "by": "mlp.up_proj"}),
            ("mlp.act", activation, {"of": "mlp.up", "kind": "relu"}),
            ("mlp.down", product, {"of": "mlp.act", "by": "mlp.down_proj"}),
            ("mlp.residual", residual, {"stream": "attn.residual", "branch": "mlp.down"}),
        ]
        plan += [Operation(name, i, function, options) for name, function, options in rows]
        stream = f"layer{i}.mlp.residual"
    return [
        *plan,
        Operation("logits", None, product, {"of": stream, "by": "lm_head"}),
        Operation("probs", None, probabilities, {}),
        Operation("loss", None, cross_entropy, {}),
    ]


# --- Runs ------------------------------------------------------------------------------------


def rounded_to(x, rounding):
    """Float32 numbers as "bf16" or "f16" holds them, ties to even; None leaves them."""
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
    """Every forward event, float32, worked out in float64 from the events before it.

    `weights` are arrays or Blocks by Hugging Face's names. `alter(name, value)` gives what stands in an
    event's place. With `rounding` every event is rounded, with `round_weights` the weights are too. With
    `inputs` ("Q8_0", "Q8_1", "Q8_K") products are those of ggml's 8-bit blocks, and q, k, v and the
    attention weights are float16 where they meet, as its key-value cache has them.
    """
    config = config | {"n_layer": config["num_hidden_layers"]}
    precision = rounding, rounding if round_weights else None
    return _run(decoder_plan(config), config, weights, list(tokens), [], fault, alter, precision, inputs)


def microgpt_run(
    params, tokens, n_head, fault=None, *, targets=(), alter=None, rounding=None, round_weights=False
) -> dict[str, np.ndarray]:
    """The same of microGPT, from its state dict. `targets` follow the tokens; without them no loss."""
    config, weights = microgpt_config(params, n_head), renamed(params)
    plan = microgpt_plan(config)[: None if len(targets) else -1]
    precision = rounding, rounding if round_weights else None
    return _run(plan, config, weights, list(tokens), list(targets), fault, alter, precision)


def _run(plan, config, weights, tokens, targets, fault, alter, precision, inputs=None):
    fault = fault or Fault("none", "", ())
    eight_bit = EightBit(inputs, weights) if inputs else None
    weights = {n: w.values() if isinstance(w, Blocks) else w for n, w in (weights | fault.weights).items()}
    with np.errstate(all="ignore"):
        weights = {n: rounded_to(w, precision[1]).astype(np.float64) for n, w in weights.items()}
        tokens, targets = _spelled(tokens, targets, **fault.changes.get("tokens", {}))
        events = {}
        for op in plan:
            options = op.options | (fault.changes[op.name] if hits(fault.changes, fault.layer, op) else {})
            step = Step(config, weights, tokens, targets, events, op.layer, eight_bit)
            instead = options.pop("instead", None)
            value = op.function(step, **options)
            value = rounded_to(value if instead is None else instead(step, options, value), precision[0])
            if fault.alter is not None and op.event == fault.event:
                value = fault.alter(value)
            value = value if alter is None else alter(op.event, value)
            events[op.event] = np.asarray(value, np.float32)
    return events


def hits(changes, layer, op):
    """Whether changes concern an operation; a window that is not there cannot be missing."""
    if op.name not in changes or layer not in (None, op.layer):
        return False
    return "window" not in changes[op.name] or op.options["window"] is not None


def _spelled(tokens, targets, prepend=None, skip=0):
    if prepend is not None:
        return [prepend, *tokens], tokens[:1] + targets if targets else []
    return tokens[skip:], targets[skip:]


_RENAMED = {
    "wte": "model.embed_tokens", "attn_wq": "self_attn.q_proj", "attn_wk": "self_attn.k_proj",
    "attn_wv": "self_attn.v_proj", "attn_wo": "self_attn.o_proj", "mlp_fc1": "mlp.up_proj",
    "mlp_fc2": "mlp.down_proj",
}  # fmt: skip


def renamed(params):
    """microGPT's parameters under Hugging Face's names."""
    found = {}
    for name, array in params.items():
        layer, _, rest = name.rpartition(".")
        prefix = f"model.layers.{layer.removeprefix('layer')}." if layer else ""
        found[f"{prefix}{_RENAMED.get(rest, rest)}.weight"] = array
    return found


def microgpt_config(params, n_head):
    layers = 1 + max(int(n.split(".")[0].removeprefix("layer")) for n in params if n.startswith("layer"))
    width = params["wte"].shape[1]
    return {"n_layer": layers, "hidden_size": width, "num_attention_heads": n_head, "rms_norm_eps": 1e-5}
