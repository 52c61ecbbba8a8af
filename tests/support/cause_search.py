"""Random faults, with a parameter or a variant, that `diagnose` must name, alone or among others that fit."""

import math
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from support.faulty_engine import Fault, decoder_run
from support.tiny_models import BETAS, LLAMA3, LONG, random_weights, rope_5, tiny_config, write_folder

from microgpt_trace import load
from microgpt_trace.diagnosis.diagnose import diagnose_values

NEAR = 0.02  # a diagnosed parameter within 2 % of the true one is right
ROUNDINGS = (None, "bf16", "f16")
DESCRIBED = ("vector-added", "clipped", "rope-frequencies", "rope-positions", "few-elements")
DESCRIBED += tuple(f"one-{what}" for what in ("position", "channel", "head", "element"))


class FaultSample(NamedTuple):
    """A random fault: the first event that it changes, and the findings that would name it."""

    event: str
    changes: dict
    ids: tuple  # ids of findings that name it
    words: str = ""  # words that their claims must contain
    number: float | None = None  # the parameter of the fault


def uniform(rng, low, high):
    return float(rng.uniform(low, high))


def log_uniform(rng, low, high):
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def usual_or_any(rng, values, low, high, spread=log_uniform):
    """Return one of the usual values, or one between low and high, with equal chances."""
    return float(rng.choice(values)) if rng.random() < 0.5 else spread(rng, low, high)


# --- Families of faults: functions of (generator, config) that return a FaultSample, or None --------------

# Places of a fault: the events that it changes, in order of computation
ROPE = ("layer0.attn.q_rope layer0.attn.k_rope",)
NORMS = ("layer0.attn.norm", "layer0.mlp.norm", "layer1.attn.norm", "final.norm", "layer0.attn.q_norm")
RESIDUALS = ("layer0.attn.residual", "layer0.mlp.residual")
SCORES, ATTN_WEIGHTS, ACT = ("layer0.attn.scores",), ("layer0.attn.weights",), ("layer0.mlp.act",)
EMBEDDING, Q, LOGITS = ("embed.tok",), ("layer0.attn.q",), ("logits",)


def one_of(rng, config, places):
    """Return the events of a random place that the model has."""
    available = [place for place in places if "q_norm" not in place or config["model_type"] == "qwen3"]
    return (available[0] if len(available) == 1 else str(rng.choice(available))).split()


def changes_of(events, options):
    return {event[7:] if event.startswith("layer") else event: options for event in events}


def fault(
    places, ids, option=None, values=(), low=0, high=0, spread=log_uniform, *, words="",
    has=lambda config: True, **others,
):  # fmt: skip
    """Return a family of faults whose parameter `option` is an option of an operation or a setting of RoPE.
    The family is for configs where `has` is true. `others` are further options."""

    def sample(rng, config):
        if not has(config):
            return None
        events = one_of(rng, config, places)
        number = usual_or_any(rng, values, low, high, spread) if option else None
        options = {option: number} if option else {}
        options = {"settings": options} if option in ("rope_theta", "factor") else options
        return FaultSample(events[0], changes_of(events, options | others), ids.split(), words, number)

    return sample


def rope_size(rng, config):
    factor, size = config["rope_parameters"].get("attention_factor", 1.0), log_uniform(rng, 0.5, 2)
    changes = changes_of(ROPE[0].split(), {"size": size})
    return FaultSample("layer0.attn.q_rope", changes, ("rope-attention-factor",), number=size * factor)


def post_norm(rng, config):
    events, of_branch = one_of(rng, config, RESIDUALS), rng.random() < 0.5
    gain = str(rng.choice(["input_layernorm", "post_attention_layernorm"]))

    def instead(s, options, right):
        stream, branch = s[options["stream"]], s[options["branch"]]
        x = branch if of_branch else right
        normed = x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"])
        return of_branch * stream + normed * s.weight(f"{gain}.weight")

    id = "branch-normed" if of_branch else "post-norm"
    return FaultSample(events[0], changes_of(events, {"instead": instead}), (id,))


WORDS = {
    "relu": "is ReLU", "gelu": "is GELU,", "gelu_tanh": "is GELU by tanh", "gelu_quick": "is QuickGELU",
    "relu2": "squared ReLU",
}  # fmt: skip


def activation(rng, config):
    kind = str(rng.choice(list(WORDS)))
    return FaultSample("layer0.mlp.act", {"mlp.act": {"kind": kind}}, ("activation",), WORDS[kind])


def rope_type(config):
    return config["rope_parameters"]["rope_type"]


BASES = (1e3, 1e4, 1e5, 2.5e5, 5e5, 1e6, 1e7)
FACTORS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
EPS = (0.0, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)

FAMILIES = {
    "rope_base": fault(ROPE, "rope-base", "rope_theta", BASES, 5e2, 1e7),
    "rope_stretch": fault(
        ROPE, "rope-positions-scaled rope-twice", "stretch", (0.5, 0.25, 2.0, 4.0), 0.05, 3,
        has=lambda config: rope_type(config) != "linear",  # linear scaling would have another factor instead
    ),
    "rope_offset": fault(ROPE, "rope-offset", "offset", (1, -1, 2, 3, 7, 100), 0.2, 5, uniform),
    "rope_size": rope_size,
    "rope_factor": fault(
        ROPE, "rope-scaling-factor rope-scaling-missing", "factor", FACTORS, 1.2, 40,
        has=lambda config: rope_type(config) != "default",
    ),
    "pairing": fault(ROPE, "rope-interleaved", interleaved=True),
    "base_and_pairing": fault(
        ROPE, "rope-base", "rope_theta", BASES, 5e2, 1e7, words="interleaved", interleaved=True
    ),
    "eps": fault(NORMS, "eps", "eps", EPS, 1e-9, 1e-1),
    "eps_outside": fault(NORMS, "eps-outside", inside=False),
    "norm_power": fault(NORMS, "norm-power norm-skipped", "power", (1.0, 0.25, 2.0), -0.5, 2, uniform),
    "norm_exponent": fault(NORMS, "norm-exponent", "exponent", (1.0, 3.0, 4.0), 0.7, 6, uniform),
    "norm_summed": fault(NORMS, "norm-summed", divisor=1),
    "gain_plus": fault(NORMS, "gain-plus gain-plus-one", "plus", (1.0,), -1, 2, uniform),
    "scale": fault(SCORES, "scale scale-missing", "scale", (1, 0.5, 0.25, 0.125, 0.0625), 0.02, 3),
    "scores_cap": fault(SCORES, "scores-capped", "cap", (50.0, 30.0, 20.0), 1, 60),
    "temperature": fault(
        ATTN_WEIGHTS, "softmax-scaled softmax-base", "times", (math.log(2), 0.5, 2.0), 0.1, 5
    ),
    "post_norm": post_norm,
    "embedding_scale": fault(
        EMBEDDING, "embedding-scaled times", "scale", (math.sqrt(32), 8.0, 12.0, 2.0), 0.05, 40
    ),
    "branch": fault(RESIDUALS, "part-scaled part-twice", "added", (0.5, 2.0, 0.22, 0.1), 0.02, 4),
    "bias": fault(
        Q, "bias-scaled bias-twice bias-negated", "bias", (2, 0.5, -1), -3, 3, uniform,
        has=lambda config: config["model_type"] == "qwen2",
    ),
    "activation": activation,
    "slope": fault(ACT, "activation", "slope", (0.01, 0.1, 0.2), 0.003, 0.5, words="leaky", kind="leaky"),
    "swish": fault(ACT, "activation", "slope", (1.702, 2.0, 0.5), 0.2, 5, kind="swish"),
    "logits_cap": fault(LOGITS, "logits-capped", "cap", (50.0, 30.0), 1, 60),
    "logits_times": fault(LOGITS, "times", "times", (0.5, 2.0), 0.05, 8),
}  # fmt: skip


# --- Faults that no hypothesis explains: diagnose must name no cause -----------------------------------


def unknown_fault(instead, *events):
    return FaultSample(events[0], changes_of(events, {"instead": instead}), ())


ODD_SIZES = (
    lambda x: np.sqrt(np.median(x * x, -1, keepdims=True)) + 1e-5,
    lambda x: np.sqrt((x * x)[..., : x.shape[-1] // 2].mean(-1, keepdims=True)),
    lambda x: np.sqrt((x * x).mean()) + 0 * x,
    lambda x: np.sqrt((x * x).sum(-1, keepdims=True) / (x.shape[-1] - 1)),
    lambda x: np.sqrt(np.maximum((x * x).mean(-1, keepdims=True), 0.5)),
    lambda x: 1 + np.sqrt((x * x).mean(-1, keepdims=True)),
    lambda x: np.log1p((x * x).mean(-1, keepdims=True)),
)


def odd_norm(rng, config):
    """Return an RMSNorm that divides by another measure of the row's size."""
    event, size = one_of(rng, config, NORMS[:2]), rng.choice(ODD_SIZES)

    def instead(s, options, right):
        x = s[options["of"]]
        return x / size(x) * s.weight(f"{options['gain']}.weight")

    return unknown_fault(instead, *event)


ODD_ACTIVATIONS = (
    lambda x: x * np.tanh(np.logaddexp(0, x)),  # Mish
    lambda x: np.logaddexp(0, x),  # softplus
    lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),  # ELU
    lambda x: x * np.clip(x / 6 + 0.5, 0, 1),  # hard swish
    lambda x: np.clip(x, 0, 0.5),
    lambda x: (x / (1 + np.exp(-x))) ** 2,
    lambda x: x / (1 + np.abs(x)),
    lambda x: np.sin(x),
    lambda x: x * (1 + np.tanh(0.75 * x)) / 2 + 0.01 * x**2,
)


def odd_activation(rng, config):
    act = rng.choice(ODD_ACTIVATIONS)
    return unknown_fault(lambda s, options, right: act(s[options["of"]]), "layer0.mlp.act")


def odd_rope(rng, config):
    if rope_type(config) != "default":
        return None
    dim = config["head_dim"] // 2
    kind, bend = rng.integers(3), 1 + rng.uniform(0.02, 0.5, dim) * rng.choice([-1, 1], dim)

    def instead(s, options, right):
        x = s[options["of"]]
        heads, place = x.reshape(len(x), -1, 2, dim), np.arange(len(x))
        place = [place, np.minimum(place, 3), place**1.3][kind]
        theta = config["rope_parameters"]["rope_theta"] ** (-np.arange(dim) / dim)
        angles = place[:, None] * theta * (bend if kind == 0 else 1)
        z = (heads[:, :, 0] + 1j * heads[:, :, 1]) * np.exp(1j * angles)[:, None]
        return np.stack([z.real, z.imag], 2).reshape(x.shape)

    return unknown_fault(instead, *ROPE[0].split())


def odd_scores(rng, config):
    size, kind = log_uniform(rng, 0.01, 1), rng.integers(3)

    def instead(s, options, right):
        back = np.arange(right.shape[1])[:, None] - np.arange(right.shape[2])
        return [right - size * back, right + size, right * (1 + size * np.abs(right))][kind]

    return unknown_fault(instead, "layer0.attn.scores")


def odd_weights(rng, config):
    size = log_uniform(rng, 0.01, 0.3)
    names = ("attn.q", "attn.norm", "mlp.down", "mlp.act", "attn.context", "attn.residual")

    def instead(s, options, right):
        return right * (1 + size * np.random.default_rng(1).standard_normal(right.shape))

    return unknown_fault(instead, f"layer0.{rng.choice(names)}")


UNKNOWN = {f.__name__: f for f in (odd_norm, odd_activation, odd_rope, odd_scores, odd_weights)}
FAMILIES |= UNKNOWN


def random_model(rng, seed):
    """Return a config and weights of random sizes."""
    kind, theta = str(rng.choice(["llama", "qwen2", "qwen3"])), usual_or_any(rng, BASES, 5e2, 5e6)
    shapes = (32, 4, 2, 8), (48, 4, 4, 12), (64, 8, 2, 16), (64, 4, 1, 32)
    width, heads, kv_heads, dim = map(int, rng.choice(shapes))
    inner, eps = int(rng.choice([48, 96])), float(rng.choice([1e-5, 1e-6, 1e-3]))
    scalings = {
        0: LONG | rope_5(theta, "yarn", attention_factor=1.2, **BETAS),
        1: LONG | rope_5(theta, "llama3", **LLAMA3),
        2: rope_5(theta, "linear", factor=4.0),
    }
    config = tiny_config(
        kind, hidden_size=width, intermediate_size=inner, num_attention_heads=heads, rms_norm_eps=eps,
        num_key_value_heads=kv_heads, head_dim=dim, **scalings.get(rng.integers(10), rope_5(theta)),
    )  # fmt: skip
    weights = random_weights(config, seed)
    weights["model.embed_tokens.weight"] *= np.float32(log_uniform(rng, 0.02, 3))
    for name in weights:
        if name.endswith(("gate_proj.weight", "q_proj.weight", "lm_head.weight")):
            weights[name] *= np.float32(log_uniform(rng, 0.3, 3))
    return config, weights


def verdict_on(sample, diagnosis):
    """Judge a diagnosis: "right", "among" (others fit too), "none", "wrong", "elsewhere", or "invisible"."""
    if diagnosis.first_wrong is None:
        return "invisible"
    if diagnosis.first_wrong.partition(".")[2] != sample.event.partition(".")[2]:
        return "elsewhere"
    explaining = [f for f in diagnosis.findings if f.explains]
    if not explaining or (not sample.ids and all(f.id in DESCRIBED for f in explaining)):
        return "none"
    fits = [f for f in explaining if f.id in sample.ids and sample.words in f.claim]
    fits = [f for f in fits if None in (sample.number, f.low) or f.low <= sample.number <= f.high]
    if not fits:
        return "wrong"
    value, number = fits[0].value, sample.number
    far = None not in (value, number) and abs(value - number) > NEAR * abs(number)
    return "among" if far or len(explaining) > 1 else "right"


def diagnose_sample(family, seed, rounding):
    """Return (sample, diagnosis, verdict) of a random fault, or None if the random model cannot have it."""
    rng = np.random.default_rng([seed, *family.encode()])
    config, weights = random_model(rng, f"{family}{seed}")
    sample = FAMILIES[family](rng, config)
    tokens = [int(t) for t in rng.integers(0, 61, rng.integers(4, 41))]
    if sample is None:
        return None
    every_layer = "rope" in sample.event or not sample.event.startswith("layer")
    fault = Fault(family, sample.event, (), None if every_layer else int(sample.event[5]), sample.changes)
    with tempfile.TemporaryDirectory() as folder:
        model = load(write_folder(Path(folder) / "m", config, weights))
        values = decoder_run(config, weights, tokens, fault, rounding=rounding)
        diagnosis = diagnose_values(model, tokens, values)
        return sample, diagnosis, verdict_on(sample, diagnosis)
