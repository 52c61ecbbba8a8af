"""The cause of an error: the right one is named, alone or among those that fit as well, and never a wrong
one."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
from support.cause_search import FAMILIES, ROUNDINGS, UNKNOWN, diagnose_sample
from support.faulty_engine import Fault, decoder_run, rounded_to
from support.sweeps import some_of
from support.tiny_models import TOKENS, random_weights, rope_5, tiny_config, tiny_model, write_folder

from microgpt_trace import load
from microgpt_trace.diagnosis.diagnose import diagnose_values
from microgpt_trace.diagnosis.evidence import Seen, best_of, common, range_of
from microgpt_trace.diagnosis.hypothesis import Family, Range, named
from microgpt_trace.rounding.evaluation import Evaluation

UNIT = {"bf16": 2.0**-8, "f16": 2.0**-11}
NORM, Q_ROPE, ACT = "layer0.attn.norm", "layer0.attn.q_rope", "layer0.mlp.act"


# --- Random faults ------------------------------------------------------------------------------------


def each_once(families):
    """Test half of the families in one precision, and all in every precision in the sweep."""
    pairs = [(family, ROUNDINGS[(i + r) % 3]) for i, family in enumerate(families) for r in range(3)]
    return some_of(pairs, every=6)


@pytest.mark.parametrize(("family", "rounding"), each_once(f for f in FAMILIES if f not in UNKNOWN))
def test_the_right_cause_is_named(family, rounding):
    for done in filter(None, (diagnose_sample(family, seed, rounding) for seed in (3, 4))):
        drawn, found, word = done
        print(drawn.number, drawn.words, [(f.claim, f.residual, f.low, f.high) for f in found.findings])
        assert word in ("right", "among", "invisible")


@pytest.mark.parametrize(("family", "rounding"), each_once(UNKNOWN))
def test_an_unknown_mistake_gets_no_cause(family, rounding):
    for done in filter(None, (diagnose_sample(family, seed, rounding) for seed in (2, 6, 8))):
        print([(f.claim, f.residual, f.explains) for f in done[1].findings])
        assert done[2] in ("none", "invisible")


# --- Causes that are similar --------------------------------------------------------------------------


def findings(made, changes, event, tokens=TOKENS, rounding="bf16", layer=0):
    """Diagnose a run of (model, config, weights) whose first wrong operation must be the event."""
    model, config, weights = made
    fault = Fault("fault", event, (), layer, changes)
    found = diagnose_values(model, tokens, decoder_run(config, weights, tokens, fault, rounding=rounding))
    print([(f.claim, f.residual, f.low, f.high, f.cannot_be_told_from) for f in found.findings])
    assert found.first_wrong == event
    return found.findings


MLP_GATE = "model.layers.0.mlp.gate_proj.weight"
BASE = {f"attn.{n}_rope": {"settings": {"rope_theta": 1e5}} for n in "qk"}


def test_a_short_text_names_both_bases_that_fit(decoders):
    (found,) = findings(decoders("qwen2"), BASE, Q_ROPE, TOKENS[:2])
    numbers = "100,000 or 150,000, the model says 1e+06 (numbers from 64,500 to 164,000 fit equally well)"
    assert found.claim.endswith(f"the base is {numbers}")
    assert found.low < 1e5 < 1.5e5 < found.high < 2.5e5


def test_other_layers_and_more_positions_narrow_the_base(decoders):
    (alone,) = findings(decoders("qwen2"), BASE, Q_ROPE, TOKENS[2:5])
    (every,) = findings(decoders("qwen2"), BASE, Q_ROPE, TOKENS[2:5], layer=None)
    (longer,) = findings(decoders("qwen2"), BASE, Q_ROPE, TOKENS * 6)
    assert "or 150,000" not in every.claim
    assert alone.low < every.low < 1e5 < every.high < alone.high
    assert "the base is 100,000, the model says 1e+06" in longer.claim
    assert 0.98e5 < longer.low < 1e5 < longer.high < 1.02e5


def test_two_gelus_are_distinguished_or_named_together(decoders, tmp_path):
    change = {"mlp.act": {"kind": "gelu"}}
    (alone,) = findings(decoders("llama_gqa"), change, ACT)
    assert "the activation is GELU, not SiLU" in alone.claim
    config, weights = tiny_model("llama_gqa")
    weights[MLP_GATE] = weights[MLP_GATE] / 8  # near 0 all GELUs are nearly the same
    both = findings((load(write_folder(tmp_path / "m", config, weights)), config, weights), change, ACT)
    claims = [found.claim.partition(": ")[2] for found in both]
    assert {"the activation is GELU, not SiLU", "the activation is GELU by tanh, not SiLU"} <= set(claims)
    assert both[0].cannot_be_told_from == tuple(found.claim for found in both[1:])


@pytest.mark.parametrize("tokens", [TOKENS, TOKENS[:1]], ids=["text", "one token"])
def test_a_missing_eps_is_named_as_0(decoders, tokens):
    """For one row a factor, power or exponent fits too, but with numbers that nobody would choose."""
    (found,) = findings(decoders("llama_gqa"), {"attn.norm": {"eps": 0.0}}, NORM, tokens, rounding=None)
    assert found.value == found.low == 0 < found.high < 1e-6
    assert "eps is 0, the model says 1e-05 (numbers up to" in found.claim


@pytest.mark.parametrize(
    ("power", "rounding"), some_of([*product((2.0, 0.6, 0.4, 0.51), ROUNDINGS)], every=2)
)
def test_a_wrong_power_is_not_called_a_missing_norm(decoders, power, rounding):
    found = findings(decoders("llama_gqa"), {"attn.norm": {"power": power}}, NORM, rounding=rounding)
    assert [(f.id, f.value) for f in found] == [("norm-power", power)]


@pytest.mark.parametrize("rounding", ["bf16", "f16"])
def test_swapped_heads_are_named_although_a_description_fits_better(tmp_path, rounding):
    """Only two of eight heads are wrong, and this description copies their rounded values from the dump."""

    def instead(s, options, right):
        return s.heads(right)[:, [1, 0, *range(2, 8)]].reshape(right.shape)

    config = tiny_config("llama", num_attention_heads=8, num_key_value_heads=8, **rope_5())
    weights = random_weights(config, "swapped")
    made = load(write_folder(tmp_path / "m", config, weights)), config, weights
    for name in ("attn.q", "attn.context"):
        found = findings(made, {name: {"instead": instead}}, f"layer0.{name}", rounding=rounding)
        assert [f.claim.partition(": ")[2] for f in found] == [
            "your heads, in order, are the right heads [1, 0, 2, 3, 4, 5, 6, 7]"
        ]


def test_another_norm_is_not_explained_by_a_large_eps(decoders):
    """A norm that adds 1 to the RMS is close to one with another eps."""

    def instead(s, options, right):
        x = s[options["of"]]
        return x / (1 + np.sqrt((x * x).mean(-1, keepdims=True))) * s.weight("input_layernorm.weight")

    found = findings(decoders("llama_gqa"), {"attn.norm": {"instead": instead}}, NORM)
    assert not any(f.explains for f in found)


MASSIVE = [("f32", (3000,)), ("bf16", (3000,)), ("f16", (3000, -1500)), ("q8", (3000, -1500))]


@pytest.mark.parametrize(("compute", "massive"), MASSIVE, ids=str)
def test_a_clipped_stream_is_named_as_clipped(decoders, tmp_path, compute, massive):
    """Only a few massive activations exceed the limit, so only few channels and positions are wrong."""
    _, config, weights = decoders("llama_gqa")
    table = weights["model.embed_tokens.weight"].copy()
    table[TOKENS[0], : len(massive)] = massive
    weights = weights | {"model.embed_tokens.weight": table}
    options = {"inputs": "Q8_0"} if compute == "q8" else {"rounding": None if compute == "f32" else compute}
    events = decoder_run(
        config, weights, TOKENS, **options,
        alter=lambda name, x: np.clip(x, -1000, 1000) if name == "layer1.mlp.residual" else x,
    )  # fmt: skip
    found = diagnose_values(
        load(write_folder(tmp_path / "m", config, weights)), TOKENS, events, compute=compute
    )
    print([(f.claim, f.residual) for f in found.findings])
    assert [f.claim.partition(": ")[2] for f in found.findings] == ["your values are clipped at +-1000"]


# --- Evidence, by hand ----------------------------------------------------------------------------------


def seen_of(found, right, **options):
    return Seen(found, right, None, "bf16", **options)


NOISE = np.random.default_rng(0).standard_normal((20, 50))
FEW = np.array([[1.0, 1e-4, 2e-4, 3e-4]] * 8)
BESIDE, ALMOST, BEYOND = NOISE * (1 + 0.01 * NOISE[::-1]), *(NOISE * (1 + n * UNIT["bf16"]) for n in (0.7, 2))
EVIDENCE = {  # values, two predictions, options, True if the values prefer the first prediction
    "values rounded from the first": (rounded_to(NOISE, "bf16"), NOISE, BESIDE, {}, True),
    "values rounded from the second": (rounded_to(NOISE, "bf16"), BESIDE, NOISE, {}, False),
    "predictions one rounding apart": (NOISE, NOISE, ALMOST, {}, False),
    "predictions two roundings apart": (NOISE, NOISE, BEYOND, {}, True),
    "values between the predictions": ((NOISE + BESIDE) / 2, NOISE, BESIDE, {}, False),
    "small elements count": (FEW, FEW, FEW * [1, 1.5, 1.5, 1.5], {"elements": True}, True),
    "small elements may have cancelled": (FEW, FEW, FEW * [1, 1.5, 1.5, 1.5], {}, False),
}


@pytest.mark.parametrize(("values", "one", "other", "options", "first"), EVIDENCE.values(), ids=EVIDENCE)
def test_values_prefer_a_prediction_only_if_it_is_surely_nearer(values, one, other, options, first):
    tolerances = np.full((len(values), 1), 3 * UNIT["bf16"])
    assert seen_of(values, one, **options).prefers(one, other, tolerances) is first


# --- Fitting ------------------------------------------------------------------------------------------


def line(right, **options):
    return Family("times", lambda f: None, "scaled by {}".format, own=1.0, **options), lambda f: f * right


def test_a_factor_is_fitted_by_least_squares():
    rng = np.random.default_rng(0)
    right = rng.standard_normal((10, 30))
    found = 0.37 * right * (1 + 0.004 * rng.uniform(-1, 1, right.shape))
    family, predict = line(right, pivot=None, low=-math.inf)
    seen, sizes = seen_of(found, right), np.sqrt(np.square(found).mean(1, keepdims=True))
    best = best_of(family, predict, seen, right)
    a, b = right / sizes, found / sizes
    assert best == pytest.approx((a * b).sum() / (a * a).sum(), rel=1e-6)
    known = range_of(family, [predict], seen, best, np.full((10, 1), 3 * UNIT["bf16"]))
    assert 0.365 < known.low < 0.37 < known.high < 0.375


def test_a_number_without_effect_is_not_fitted():
    right = np.ones((4, 4))
    family, _ = line(right, starts=(2.0, 5.0))
    assert best_of(family, lambda f: right, seen_of(right * 1.1, right), right) is None


def test_common_is_the_intersection_of_ranges():
    assert common([Range(1, 2, 3), Range(2.5, 4, 5)]) == Range(2.5, 2.5, 3)
    assert common([Range(1, 2, 3), Range(4, 5, 6)]) is None
    assert common([]) is None


base = partial(Family, "base", lambda value: None, "the base is {}".format, own=1e4, usual=(1e5, 2.5e5, 5e5))
CALLED = [
    (base(), (499_990, 500_001, 500_010), 5e5, "the base is 500,000"),
    (base(), (123_400, 123_456, 123_500), 123_500, "the base is 123,500"),
    (
        base(), (2.2e5, 4e5, 6.1e5), 5e5,
        "the base is 250,000 or 500,000 (numbers from 220,000 to 610,000 fit equally well)",
    ),
    (base(), (3e5, 4e5, 4.5e5), 4e5,
     "the base is 400,000 (numbers from 300,000 to 450,000 fit equally well)"),
    (base(high=1e9), (3e8, 4e8, 1e9), 4e8, "the base is 4e+08 (numbers from 3e+08 up fit equally well)"),
    (base(usual=(0.0, 1e-6)), (0, 1e-9, 5e-8), 0, "the base is 0 (numbers up to 5e-08 fit equally well)"),
    (base(special={2.0: ("twice", "turned twice")}), (1.99, 2.01, 2.02), 2, "turned twice"),
    (
        base(special={2.0: ("twice", "turned twice")}), (1.5, 1.9, 2.5), 2,
        "turned twice (numbers from 1.5 to 2.5 in place of 2 fit equally well)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("family", "ends", "value", "claim"), CALLED, ids=[c[3] for c in CALLED])
def test_a_range_of_numbers_is_named(family, ends, value, claim):
    found = named(family, Range(*ends))
    assert (found.value, found.claim) == (value, claim)


# --- Values that do not change are computed once ------------------------------------------------------


@pytest.mark.parametrize(
    "change", some_of([{"attn.scores": {"scale": 0.2}}, {"mlp.act": {"kind": "gelu"}}, BASE], every=3)
)
def test_sharing_unchanged_values_changes_no_finding(decoders, monkeypatch, change):
    model, config, weights = decoders("qwen2")
    values = decoder_run(config, weights, TOKENS, Fault("fault", "", (), 0, change))
    values = {n: v for n, v in values.items() if n in ("embed.tok", "logits") or n.endswith("mlp.residual")}
    shared = diagnose_values(model, TOKENS, values)

    def under(own, plan):
        return Evaluation(own.given, plan, own.values, own.precision, own._seed, own.rounding)

    monkeypatch.setattr(Evaluation, "under", under)
    alone = diagnose_values(model, TOKENS, values)
    assert [f.claim for f in shared.findings] == [f.claim for f in alone.findings]
    assert [f.residual for f in shared.findings] == pytest.approx([f.residual for f in alone.findings])
    assert shared.findings
