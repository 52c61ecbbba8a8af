"""Faults with a number or a variant, drawn at random: what `diagnose` must name, or say what fits as well.

`PYTHONPATH=tests python tests/support/cause_search.py 40` prints for each family of faults, over 40 draws and
each precision, how often the right cause is named alone, is among those that fit as well, or another is
named.
"""

import math
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from support.faulty_engine import Fault, decoder_run
from support.tiny_models import BETAS, LLAMA3, LONG, random_weights, rope_5, tiny_config, write_folder

from microgpt_trace import load
from microgpt_trace.diagnosis.diagnose import diagnose_values

NEAR = 0.02  # a number named within 2 % of the true one is right
ROUNDINGS = (None, "bf16", "f16")


class Drawn(NamedTuple):
    """A fault: where it shows, what names it, and the number it has."""

    event: str
    changes: dict
    ids: tuple  # of findings that name it
    words: str = ""  # in their claims
    number: float | None = None


def log_uniform(rng, low, high):
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def usual(rng, values, low, high):
    """One of the usual numbers, or any."""
    return float(rng.choice(values)) if rng.random() < 0.5 else log_uniform(rng, low, high)


BASES = (1e3, 1e4, 1e5, 2.5e5, 5e5, 1e6, 1e7)
EPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-8)


def both(**options):
    return {"attn.q_rope": options, "attn.k_rope": options}


def rope_base(rng, config):
    base = usual(rng, BASES, 5e2, 1e7)
    return Drawn("layer0.attn.q_rope", both(settings={"rope_theta": base}), ("rope-base",), number=base)


def rope_stretch(rng, config):
    if config["rope_parameters"]["rope_type"] == "linear":
        return None  # another factor of the scaling
    by = usual(rng, (0.5, 0.25, 2.0, 4.0), 0.05, 3)
    ids = ("rope-positions-scaled", "rope-twice")
    return Drawn("layer0.attn.q_rope", both(stretch=by), ids, number=by)


def rope_offset(rng, config):
    offset = float(rng.choice([1, -1, 2, 3, 7, 100])) if rng.random() < 0.7 else rng.uniform(0.2, 5)
    return Drawn("layer0.attn.q_rope", both(offset=offset), ("rope-offset",), number=offset)


def rope_size(rng, config):
    size = log_uniform(rng, 0.5, 2)
    own = config["rope_parameters"].get("attention_factor", 1.0)
    return Drawn("layer0.attn.q_rope", both(size=size), ("rope-attention-factor",), number=size * own)


def rope_factor(rng, config):
    rope = config["rope_parameters"]
    if rope["rope_type"] == "default":
        return None
    factor = usual(rng, (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), 1.2, 40)
    if rope["rope_type"] == "yarn" and "attention_factor" not in rope:
        return None
    ids = ("rope-scaling-factor", "rope-scaling-missing")
    return Drawn("layer0.attn.q_rope", both(settings={"factor": factor}), ids, number=factor)


def norm_of(rng, config):
    names = ["layer0.attn.norm", "layer0.mlp.norm", "layer1.attn.norm", "final.norm"]
    names += ["layer0.attn.q_norm"] if config["model_type"] == "qwen3" else []
    event = str(rng.choice(names))
    return event, event.partition(".")[2] if event.startswith("layer") else event


def eps(rng, config):
    event, name = norm_of(rng, config)
    value = 0.0 if rng.random() < 0.2 else usual(rng, EPS, 1e-9, 1e-1)
    return Drawn(event, {name: {"eps": value}}, ("eps",), number=value)


def eps_outside(rng, config):
    event, name = norm_of(rng, config)
    return Drawn(event, {name: {"inside": False}}, ("eps-outside",))


def norm_power(rng, config):
    event, name = norm_of(rng, config)
    power = float(rng.choice([1.0, 0.25, 2.0])) if rng.random() < 0.5 else rng.uniform(-0.5, 2)
    return Drawn(event, {name: {"power": power}}, ("norm-power", "norm-skipped"), number=power)


def norm_exponent(rng, config):
    event, name = norm_of(rng, config)
    exponent = float(rng.choice([1.0, 3.0, 4.0])) if rng.random() < 0.5 else rng.uniform(0.7, 6)
    return Drawn(event, {name: {"exponent": exponent}}, ("norm-exponent",), number=exponent)


def norm_summed(rng, config):
    event, name = norm_of(rng, config)
    return Drawn(event, {name: {"summed": True}}, ("norm-summed",))


def gain_plus(rng, config):
    event, name = norm_of(rng, config)
    plus = 1.0 if rng.random() < 0.3 else rng.uniform(-1, 2)
    return Drawn(event, {name: {"plus": plus}}, ("gain-plus", "gain-plus-one"), number=plus)


def scale(rng, config):
    value = usual(rng, (1.0, 0.5, 0.25, 0.125, 0.0625), 0.02, 3)
    ids = ("scale", "scale-missing")
    return Drawn("layer0.attn.scores", {"attn.scores": {"scale": value}}, ids, number=value)


def scores_cap(rng, config):
    cap = usual(rng, (50.0, 30.0, 20.0), 1, 60)
    return Drawn("layer0.attn.scores", {"attn.scores": {"cap": cap}}, ("scores-capped",), number=cap)


def temperature(rng, config):
    value = usual(rng, (math.log(2), 0.5, 2.0), 0.1, 5)
    ids = ("softmax-scaled", "softmax-base")
    return Drawn("layer0.attn.weights", {"attn.weights": {"times": value}}, ids, number=value)


def rms(x, gain, eps=1e-5):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def post_norm(rng, config):
    name, of_branch = str(rng.choice(["attn.residual", "mlp.residual"])), rng.random() < 0.5
    gain = str(rng.choice(["input_layernorm", "post_attention_layernorm"]))
    eps = config["rms_norm_eps"]

    def instead(s, options, right):
        stream, branch = s[options["stream"]], s[options["branch"]]
        own = s.weight(f"{gain}.weight")
        return stream + rms(branch, own, eps) if of_branch else rms(right, own, eps)

    id = "branch-normed" if of_branch else "post-norm"
    return Drawn(f"layer0.{name}", {name: {"instead": instead}}, (id,))


def logits_cap(rng, config):
    cap = usual(rng, (50.0, 30.0), 1, 60)
    return Drawn("logits", {"logits": {"cap": cap}}, ("logits-capped",), number=cap)


def logits_times(rng, config):
    value = log_uniform(rng, 0.05, 8)
    return Drawn("logits", {"logits": {"times": value}}, ("times",), number=value)


def embedding_scale(rng, config):
    value = usual(rng, (math.sqrt(config["hidden_size"]), 12.0, 2.0), 0.05, 40)
    ids = ("embedding-scaled", "times")
    return Drawn("embed.tok", {"embed.tok": {"scale": value}}, ids, number=value)


def branch(rng, config):
    name = str(rng.choice(["attn.residual", "mlp.residual"]))
    value = usual(rng, (0.5, 2.0, 0.22, 0.1), 0.02, 4)
    ids = ("part-scaled", "part-twice")
    return Drawn(f"layer0.{name}", {name: {"added": value}}, ids, number=value)


def bias(rng, config):
    if config["model_type"] != "qwen2":
        return None
    value = usual(rng, (2.0, 0.5), 0.1, 3) * (-1 if rng.random() < 0.2 else 1)
    ids = ("bias-scaled", "bias-twice", "bias-negated")
    return Drawn("layer0.attn.q", {"attn.q": {"bias": value}}, ids, number=value)


WORDS = {
    "relu": "is ReLU",
    "gelu": "is GELU,",
    "gelu_tanh": "is GELU by tanh",
    "gelu_quick": "is GELU by 1.702",
    "relu2": "squared ReLU",
}


def activation(rng, config):
    kind = str(rng.choice(list(WORDS)))
    return Drawn("layer0.mlp.act", {"mlp.act": {"kind": kind}}, ("activation",), WORDS[kind])


def slope(rng, config):
    value = usual(rng, (0.01, 0.1, 0.2), 0.003, 0.5)
    change = {"mlp.act": {"kind": "leaky", "slope": value}}
    return Drawn("layer0.mlp.act", change, ("activation",), "leaky", value)


def swish(rng, config):
    value = usual(rng, (1.702, 2.0, 0.5), 0.2, 5)
    change = {"mlp.act": {"kind": "swish", "slope": value}}
    return Drawn("layer0.mlp.act", change, ("activation",), "", value)


def pairing(rng, config):
    return Drawn("layer0.attn.q_rope", both(interleaved=True), ("rope-interleaved",))


def base_and_pairing(rng, config):
    base = usual(rng, BASES, 5e2, 1e7)
    changes = both(interleaved=True, settings={"rope_theta": base})
    if base == config["rope_parameters"]["rope_theta"]:
        return None
    return Drawn("layer0.attn.q_rope", changes, ("rope-base",), "interleaved", base)


# --- What no hypothesis says: nothing may be named ----------------------------------------------------


def unknown(event, **changes):
    return Drawn(event, {name.replace("_", ".", 1): {"instead": f} for name, f in changes.items()}, ())


def normed(size):
    """An RMSNorm that divides by another size of the row."""

    def instead(s, options, right):
        x = s[options["of"]]
        return x / size(x) * s.weight(f"{options['gain']}.weight")

    return instead


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
    event = str(rng.choice(["layer0.attn.norm", "layer0.mlp.norm"]))
    size = ODD_SIZES[rng.integers(len(ODD_SIZES))]
    return unknown(event, **{event[7:].replace(".", "_"): normed(size)})


def softplus(x):
    return np.logaddexp(0, x)


ODD_ACTIVATIONS = (
    lambda x: x * np.tanh(softplus(x)),  # Mish
    softplus,
    lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),  # ELU
    lambda x: x * np.clip(x / 6 + 0.5, 0, 1),  # hard swish
    lambda x: np.clip(x, 0, 0.5),
    lambda x: (x / (1 + np.exp(-x))) ** 2,
    lambda x: x / (1 + np.abs(x)),
    lambda x: np.sin(x),
    lambda x: x * (1 + np.tanh(0.75 * x)) / 2 + 0.01 * x**2,
)


def odd_activation(rng, config):
    act = ODD_ACTIVATIONS[rng.integers(len(ODD_ACTIVATIONS))]
    return unknown("layer0.mlp.act", mlp_act=lambda s, options, right: act(s[options["of"]]))


def odd_rope(rng, config):
    if config["rope_parameters"]["rope_type"] != "default":
        return None
    dim = config["head_dim"] // 2
    kind, bend = rng.integers(3), 1 + rng.uniform(0.02, 0.5, dim) * rng.choice([-1, 1], dim)

    def instead(s, options, right):
        x = s[options["of"]]
        heads = x.reshape(len(x), -1, 2, dim)
        theta = config["rope_parameters"]["rope_theta"]
        place = np.arange(len(x))
        place = [place, np.minimum(place, 3), place**1.3][kind]
        angles = place[:, None] * theta ** (-np.arange(dim) / dim) * (bend if kind == 0 else 1)
        z = (heads[:, :, 0] + 1j * heads[:, :, 1]) * np.exp(1j * angles)[:, None]
        return np.stack([z.real, z.imag], 2).reshape(x.shape)

    return unknown("layer0.attn.q_rope", attn_q_rope=instead, attn_k_rope=instead)


def odd_scores(rng, config):
    size = log_uniform(rng, 0.01, 1)
    kind = rng.integers(3)

    def instead(s, options, right):
        back = np.arange(right.shape[1])[:, None] - np.arange(right.shape[2])
        return [right - size * back, right + size, right * (1 + size * np.abs(right))][kind]

    return unknown("layer0.attn.scores", attn_scores=instead)


def odd_weights(rng, config):
    size = log_uniform(rng, 0.01, 0.3)

    def instead(s, options, right):
        noise = 1 + size * np.random.default_rng(1).standard_normal(right.shape)
        return right * noise

    name = str(rng.choice(["attn.q", "attn.norm", "mlp.down", "mlp.act", "attn.context", "attn.residual"]))
    return unknown(f"layer0.{name}", **{name.replace(".", "_"): instead})


UNKNOWN = {f.__name__: f for f in (odd_norm, odd_activation, odd_rope, odd_scores, odd_weights)}
DESCRIBED = ("vector-added", "clipped", "rope-frequencies", "few-elements")
DESCRIBED += tuple(f"one-{what}" for what in ("position", "channel", "head", "element"))

FAMILIES = {
    f.__name__: f
    for f in (
        rope_base, rope_stretch, rope_offset, rope_size, rope_factor, pairing, base_and_pairing, eps,
        eps_outside, norm_power, norm_exponent, norm_summed, gain_plus, scale, scores_cap, temperature,
        post_norm, embedding_scale, branch, bias, activation, slope, swish, logits_cap, logits_times,
    )
}  # fmt: skip


FAMILIES |= UNKNOWN


def random_config(rng):
    kind = str(rng.choice(["llama", "qwen2", "qwen3"]))
    theta = usual(rng, BASES, 5e2, 5e6)
    shape = [(32, 4, 2, 8), (48, 4, 4, 12), (64, 8, 2, 16), (64, 4, 1, 32)][rng.integers(4)]
    width, heads, kv_heads, dim = shape
    scaled = rng.random()
    changes = rope_5(theta)
    if scaled < 0.1:
        changes = rope_5(theta, "linear", factor=4.0)
    elif scaled < 0.2:
        changes = LONG | rope_5(theta, "llama3", **LLAMA3)
    elif scaled < 0.3:
        changes = LONG | rope_5(theta, "yarn", attention_factor=1.2, **BETAS)
    return tiny_config(
        kind, hidden_size=width, intermediate_size=int(rng.choice([48, 96])), num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=dim, rms_norm_eps=float(rng.choice([1e-5, 1e-6, 1e-3])),
        **changes,
    )  # fmt: skip


def random_model(rng, seed):
    """A config and weights whose sizes differ from draw to draw."""
    config = random_config(rng)
    weights = random_weights(config, seed)
    weights["model.embed_tokens.weight"] *= np.float32(log_uniform(rng, 0.02, 3))
    for name in weights:
        if name.endswith(("gate_proj.weight", "q_proj.weight", "lm_head.weight")):
            weights[name] *= np.float32(log_uniform(rng, 0.3, 3))
    return config, weights


def verdict(drawn, found, event):
    """How the findings speak of a fault: invisible, elsewhere, right, among, none, wrong."""
    if found.first_wrong is None:
        return "invisible"
    if found.first_wrong.partition(".")[2] != event.partition(".")[2]:
        return "elsewhere"
    explaining = [f for f in found.findings if f.explains]
    if not explaining or (not drawn.ids and all(f.id in DESCRIBED for f in explaining)):
        return "none"
    fits = [f for f in explaining if f.id in drawn.ids and drawn.words in f.claim]
    if drawn.number is not None:
        fits = [f for f in fits if holds(f, drawn.number)]
    if not fits:
        return "wrong"
    alone = len(explaining) == 1 and (drawn.number is None or near(fits[0], drawn.number))
    return "right" if alone else "among"


def holds(finding, number):
    """Whether the number is one of those that the finding says fit."""
    return finding.low is None or finding.low <= number <= finding.high


def near(finding, number):
    return finding.value is None or abs(finding.value - number) <= NEAR * abs(number)


def draw(family, seed, rounding, gap=None):
    """(the fault, its diagnosis, the verdict) of one draw, or None where the model cannot have it.

    Of a dump with a `gap` those events are left that fit the pattern.
    """
    rng = np.random.default_rng([seed, *family.encode()])
    config, weights = random_model(rng, f"{family}{seed}")
    drawn = FAMILIES[family](rng, config)
    tokens = [int(t) for t in rng.integers(0, 61, rng.integers(4, 41))]
    if drawn is None:
        return None
    event = drawn.event
    fault = Fault(family, event, (), int(event[5]) if event.startswith("layer") else None, drawn.changes)
    if "rope" in event:
        fault = Fault(family, event, (), None, drawn.changes)
    with tempfile.TemporaryDirectory() as folder:
        model = load(write_folder(Path(folder) / "m", config, weights))
        events = decoder_run(config, weights, tokens, fault, rounding=rounding)
        kept = [name for name in events if gap is None or re.fullmatch(gap, name)]
        order = list(events)
        event = next((name for name in kept if order.index(name) >= order.index(event)), None)
        if event is None:
            return None
        found = diagnose_values(model, tokens, {name: events[name] for name in kept})
        return drawn, found, verdict(drawn, found, event)


def main(count, families, roundings, gap):
    total = Counter()
    for family in families:
        for rounding in roundings:
            counts = Counter()
            for seed in range(count):
                done = draw(family, seed, rounding, gap)
                if done is not None:
                    counts[done[2]] += 1
                    tell(family, seed, rounding, *done)
            total += counts
            print(f"{family:17} {rounding or 'f32':5} {dict(counts)}", flush=True)
    print(dict(total))


def tell(family, seed, rounding, drawn, found, word):
    """What was said where that is wrong."""
    if word in ("wrong", "elsewhere") or (word == "none" and drawn.ids):
        said = [(f.id, f.claim, f"{f.residual:.2g}", f.low, f.high) for f in found.findings[:4]]
        print(
            f"  {family} {seed} {rounding} {word}: {drawn.event} {drawn.number} {drawn.words}",
            file=sys.stderr,
        )
        print(f"    {found.first_wrong}: {said}", file=sys.stderr)


if __name__ == "__main__":
    names = sys.argv[2].split(",") if len(sys.argv) > 2 and sys.argv[2] != "all" else list(FAMILIES)
    kinds = [None if r == "f32" else r for r in sys.argv[3].split(",")] if len(sys.argv) > 3 else ROUNDINGS
    main(int(sys.argv[1]), names, kinds, sys.argv[4] if len(sys.argv) > 4 else None)
