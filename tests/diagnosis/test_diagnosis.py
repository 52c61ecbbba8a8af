"""Diagnosis: injected mistakes are found where they are, and named; right runs are clean.

Mistakes are worked out by hand in NumPy and put in the place of an event by a hook, so that all that
follows inherits them; those that the engine with faults can make stand in test_fault_diagnosis.py. Right
runs are the judge's float64.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.faulty_engine import rounded_to
from support.judges_decoder import decoder_events, softmax
from support.real_model import SMOLLM2, needs_smollm2
from support.stored_tensors import PARTS, transposed
from support.tiny_microgpts import CASES as MICROGPTS
from support.tiny_models import (
    CASES,
    TOKENS,
    dequantised,
    pair_neighbours,
    random_quantised_weights,
    tiny_model,
    write_folder,
    write_gguf,
)

from microgpt_trace import load, trace
from microgpt_trace.arrays.encodings import ENCODINGS
from microgpt_trace.diagnosis.diagnose import diagnose_values
from microgpt_trace.diagnosis.faults import quants as hypotheses_quants
from microgpt_trace.errors import InputError


def run(model, faults=None, source=TOKENS):
    """Every forward array of a run in which `faults` put other values, by functions of the events so far."""
    seen = {}

    def hook(event, value):
        seen[event.name] = value.copy()
        if event.name in (faults or {}):
            changed = np.asarray(faults[event.name](seen), value.dtype).reshape(value.shape)
            seen[event.name] = changed
            return changed

    names = [name for name, spec in model.hooks.specs.items() if not spec.extra]
    with model.hooks.subscribe(hook, *(n for n in names if n not in model.config.shapes())):
        trace(model, source) if isinstance(source, str) else trace(model, tokens=list(source))
    return seen


def found_for(model, faults, **options):
    """The diagnosis of a faulty run, whose first wrong operation must be the first fault."""
    found = diagnose_values(model, options.pop("tokens", TOKENS), run(model, faults), **options)
    print([(f.id, f.claim, f.residual, len(f.also_explains), f.explains) for f in found.findings])
    print([(o.name, o.error, o.tolerance) for o in found.wrong])
    assert {o.name for o in found.wrong} == set(faults)
    assert found.first_wrong == next(iter(faults))
    return found


def explained(found):
    return [finding.id for finding in found.findings if finding.explains]


# --- Right runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_right_run_is_clean(decoders, case):
    model, config, weights = decoders(case)
    events = {n: a.astype(np.float32) for n, a in decoder_events(config, weights, TOKENS).items()}
    found = diagnose_values(model, TOKENS, events)
    worst = max(found.operations, key=lambda o: o.error / o.tolerance)
    print(f"{worst.name}: {worst.error:.2g} of {worst.tolerance:.2g}")
    assert found.clean
    assert len(found.operations) == len(events)
    assert found.compute == "f32"


def test_a_run_in_bf16_is_clean_and_recognised(decoders):
    model, *_ = decoders("qwen2")
    names = [n for n, s in model.hooks.specs.items() if not s.extra and n not in ("loss", "embed.tok")]
    found = diagnose_values(
        model, TOKENS, run(model, {n: lambda seen, n=n: rounded_to(seen[n], "bf16") for n in names})
    )
    worst = max(found.operations, key=lambda o: (o.error or 0) / o.tolerance)
    print(f"{found.compute_how}; {worst.name}: {worst.error:.2g} of {worst.tolerance:.2g}")
    assert found.clean
    assert found.compute == "bf16"


def test_the_same_run_is_not_clean_as_float32(decoders):
    model, *_ = decoders("qwen2")
    found = diagnose_values(
        model, TOKENS, run(model, {"layer0.attn.q": lambda s: rounded_to(s["layer0.attn.q"], "bf16")})
    )
    assert explained(found) == ["rounded-bf16"]


def test_a_precision_it_does_not_know(decoders):
    with pytest.raises(InputError, match="compute: expected one of f32"):
        diagnose_values(decoders("qwen2")[0], TOKENS, {}, compute="fp4")


def test_our_own_microgpt_is_clean(case):
    found = diagnose_values(case.model, case.ids[:-1], run(case.model, source=case.text))
    assert found.clean


# --- One mistake per group ------------------------------------------------------------------------


def heads(x, dim=8):
    return np.asarray(x, np.float64).reshape(len(x), -1, dim)


def turned(x, dim=8, theta=10000.0, adjacent=False, offset=0, scale=1.0):
    """RoPE by hand, with complex numbers."""
    angles = (np.arange(len(x))[:, None] + offset) * scale * theta ** (-2 * np.arange(dim // 2) / dim)
    out = heads(x, dim).copy()
    first, second = (
        (slice(0, None, 2), slice(1, None, 2)) if adjacent else (slice(0, dim // 2), slice(dim // 2, None))
    )
    z = (out[..., first] + 1j * out[..., second]) * np.exp(1j * angles)[:, None]
    out[..., first], out[..., second] = z.real, z.imag
    return out


def scores_of(seen, scale, group=lambda h: h // 2):
    q, k = heads(seen["layer0.attn.q_rope"]), heads(seen["layer0.attn.k_rope"])
    return np.stack([q[:, h] @ k[:, group(h)].T * scale for h in range(4)])


def masked(seen, shown):
    return softmax(np.where(shown, seen["layer0.attn.scores"].astype(float), -np.inf))


def rms(x, eps=1e-5):
    x = x.astype(float)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


L0 = "model.layers.0."
ATTN, MLP = L0 + "self_attn.", L0 + "mlp."
Q, K, V = (f"layer0.attn.{n}" for n in "qkv")
NORM, MLP_NORM, STREAM = "layer0.attn.norm", "layer0.mlp.norm", "embed.tok"
ATTN_WEIGHTS, GATE = "layer0.attn.weights", "layer0.mlp.gate"
GAIN, HEAD, WTE = L0 + "input_layernorm.weight", "lm_head.weight", "model.embed_tokens.weight"
MISTAKES = [
    ("bias-of-another", "qwen2", K, lambda s, w: s[K] - w[ATTN + "k_proj.bias"] + w[ATTN + "v_proj.bias"]),
    ("rope-base", "llama_gqa", Q + "_rope", lambda s, w: turned(s[Q], theta=1e6, adjacent=True)),
    ("rope-offset", "llama_gqa", K + "_rope", lambda s, w: turned(s[K], offset=100)),
    ("rope-twice", "llama_gqa", Q + "_rope", lambda s, w: turned(s[Q], scale=2)),
    ("rope-positions-scaled", "llama_gqa", Q + "_rope", lambda s, w: turned(s[Q], scale=0.25)),
    ("rope-scaling-missing", "llama_linear", Q + "_rope", lambda s, w: turned(s[Q])),
    ("rope-scaling-missing", "llama_llama3", Q + "_rope", lambda s, w: turned(s[Q], theta=500.0)),
    ("rope-scaling-missing", "llama_yarn", Q + "_rope", lambda s, w: turned(s[Q])),
    (
        "rope-partial", "llama_gqa", Q + "_rope",
        lambda s, w: np.concatenate([turned(heads(s[Q])[..., :4], 4), heads(s[Q])[..., 4:]], -1),
    ),
    ("scale", "llama_gqa", "layer0.attn.scores", lambda s, w: scores_of(s, 0.3)),
    ("other-keys", "llama_gqa", "layer0.attn.scores", lambda s, w: scores_of(s, 8**-0.5, lambda h: 0)),
    ("window-missing", "mistral_window", "layer0.attn.weights", lambda s, w: masked(s, np.tri(7) > 0)),
    ("window", "mistral_window", ATTN_WEIGHTS, lambda s, w: masked(s, np.tri(7) - np.tri(7, 7, -5) > 0)),
    (
        "softmax-base", "llama_gqa", "layer0.attn.weights",
        lambda s, w: softmax(np.where(np.tri(7) > 0, s["layer0.attn.scores"] * math.log(2), -np.inf)),
    ),
    (
        "softmax-scaled", "llama_gqa", "layer0.attn.weights",
        lambda s, w: softmax(np.where(np.tri(7) > 0, s["layer0.attn.scores"] * 0.7, -np.inf)),
    ),
    (
        "heads-not-transposed", "llama_gqa", "layer0.attn.context",
        lambda s, w: heads(s["layer0.attn.context"]).swapaxes(0, 1).reshape(7, 32),
    ),
    ("eps", "llama_gqa", NORM, lambda s, w: rms(s[STREAM], 1e-6) * w[GAIN]),
    ("eps", "llama_gqa", NORM, lambda s, w: rms(s[STREAM], 3e-3) * w[GAIN]),
    ("norm-skipped", "llama_gqa", NORM, lambda s, w: s[STREAM] * w[GAIN]),
    ("attn-norm-missing", "llama_gqa", Q, lambda s, w: s[STREAM] @ w[ATTN + "q_proj.weight"].T),
    (
        "norm-of-row", "qwen3", Q + "_norm",
        lambda s, w: rms(s[Q], 1e-5) * np.tile(w[ATTN + "q_norm.weight"], 4),
    ),
    ("qk-norm-missing", "qwen3", Q + "_rope", lambda s, w: turned(s[Q], 12, 1e6)),
    (
        "qk-norm-late", "qwen3", Q + "_rope",
        lambda s, w: rms(turned(s[Q], 12, 1e6)) * w[ATTN + "q_norm.weight"],
    ),
    ("activation", "llama_gqa", "layer0.mlp.act", lambda s, w: np.maximum(s[GATE], 0)),
    ("another-weight", "llama_gqa", GATE, lambda s, w: s[MLP_NORM] @ w[MLP + "up_proj.weight"].T),
    (
        "weight-transposed", "llama_gqa", V,
        lambda s, w: s[NORM] @ w[ATTN + "v_proj.weight"].reshape(32, 16),
    ),
    ("sum-of-norm", "llama_gqa", "layer0.attn.residual", lambda s, w: s[NORM] + s["layer0.attn.out"]),
    (
        "part-scaled", "llama_gqa", "layer0.mlp.residual",
        lambda s, w: s["layer0.attn.residual"] + 0.3 * s["layer0.mlp.down"],
    ),
    ("final-norm-missing", "llama_gqa", "logits", lambda s, w: s["layer1.mlp.residual"] @ w[HEAD].T),
    ("bos-added", "llama_gqa", STREAM, lambda s, w: w[WTE][[1, *TOKENS[:-1]]]),
    ("bos-missing", "llama_gqa", STREAM, lambda s, w: w[WTE][[*TOKENS[1:], 5]]),
    ("another-token", "llama_gqa", STREAM, lambda s, w: w[WTE][[17, 3, 44, 9, 60, 0, 29]]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("id", "case", "event", "fault"), MISTAKES, ids=[f"{i}-{m[0]}" for i, m in enumerate(MISTAKES)]
)
def test_a_mistake_is_named(decoders, id, case, event, fault):
    model, _, weights = decoders(case)
    found = found_for(model, {event: lambda seen: fault(seen, weights)})
    assert id in explained(found)
    assert not found.clean


def with_element(x, at, value):
    x = np.array(x, np.float64)
    x[at] = value
    return x


LOOKS = [
    ("times", lambda x: 1.001 * x),
    ("negated", lambda x: -x),
    ("zeros", lambda x: 0 * x),
    ("nan", lambda x: with_element(x, (2, 3), np.nan)),
    ("one-position", lambda x: with_element(x, 2, 0)),
    ("one-position", lambda x: with_element(x, 2, x[4])),
    ("one-channel", lambda x: with_element(x, (slice(None), 5), 2 * x[:, 5])),
    ("one-element", lambda x: with_element(x, (2, 3), 1.01 * x[2, 3])),
    ("rows-shifted", lambda x: np.roll(x, 1, 0)),
    ("clipped", lambda x: np.clip(x, -0.5, 0.5)),
    ("vector-added", lambda x: x + np.linspace(0, 1, x.shape[1])),
    ("one-head", lambda x: with_element(heads(x), (slice(None), 1), 0.5).reshape(x.shape)),
    ("heads-permuted", lambda x: heads(x)[:, [1, 0, 3, 2]].reshape(x.shape)),
]


@pytest.mark.parametrize(("id", "change"), LOOKS, ids=[f"{i}-{look[0]}" for i, look in enumerate(LOOKS)])
@pytest.mark.parametrize("event", ["layer0.attn.q", "layer1.attn.context"])
def test_what_no_mistake_explains_is_described(decoders, id, change, event):
    model, *_ = decoders("llama_gqa")
    found = found_for(model, {event: lambda seen: change(seen[event].astype(np.float64))})
    assert id in explained(found)


def test_nothing_explains_noise(decoders):
    model, *_ = decoders("llama_gqa")
    noise = np.random.default_rng(1).standard_normal((7, 32))
    found = found_for(model, {"layer0.attn.q": lambda seen: noise})
    assert explained(found) == []
    assert found.tried


def test_a_cause_is_followed_through_all_layers(decoders):
    model, *_ = decoders("llama_gqa")
    faults = {
        f"layer{i}.attn.{n}_rope": lambda s, i=i, n=n: turned(s[f"layer{i}.attn.{n}"], adjacent=True)
        for i in range(2)
        for n in "qk"
    }
    found = found_for(model, faults)
    assert found.findings[0].also_explains == tuple(faults)[1:]
    assert found.findings[0].claim == (
        "layer 0, q after RoPE: your values are the interleaved pairing of your own q"
    )


def test_a_measured_base_is_said_in_round_numbers(decoders):
    model, *_ = decoders("qwen2")
    found = found_for(model, {"layer0.attn.q_rope": lambda s: turned(s["layer0.attn.q"], theta=10000.0)})
    assert "the base is 10,000, the model says 1e+06" in found.findings[0].claim


# --- What the dump lacks ---------------------------------------------------------------------------

WITHOUT = ("q", "k", "v", "q_rope", "k_rope", "scores", "weights")


def lacking(values, *kinds):
    return {n: a for n, a in values.items() if n.rpartition(".")[2] not in kinds}


def test_a_clean_dump_without_intermediates(decoders):
    model, *_ = decoders("llama_gqa")
    found = diagnose_values(model, TOKENS, lacking(run(model), *WITHOUT))
    context = next(o for o in found.operations if o.name == "layer0.attn.context")
    assert found.clean
    assert context.inputs == ("layer0.attn.norm",)
    assert context.recomputed == tuple(f"layer0.attn.{n}" for n in WITHOUT)
    assert ("layer0.attn.q", "the dump does not have it") in found.untested


@pytest.mark.parametrize(
    ("id", "turn"),
    [
        ("rope-interleaved", {"adjacent": True}),
        ("rope-base", {"theta": 1e6}),
        ("rope-missing", {"scale": 0.0}),
    ],
)
def test_rope_is_blamed_where_only_the_context_shows_it(decoders, id, turn):
    model, *_ = decoders("llama_gqa")
    faults = {f"layer0.attn.{n}_rope": lambda s, n=n: turned(s[f"layer0.attn.{n}"], **turn) for n in "qk"}
    found = diagnose_values(model, TOKENS, lacking(run(model, faults), *WITHOUT))
    print(found.findings)
    assert found.first_wrong == "layer0.attn.context"
    assert id in explained(found)


def test_rows_in_ggufs_order_where_only_the_scores_show_it(decoders):
    model, _, weights = decoders("llama_gqa")
    faults = {
        f"layer0.attn.{n}": lambda s, n=n, h=h: (
            s["layer0.attn.norm"] @ pair_neighbours(weights[f"{ATTN}{n}_proj.weight"], h).T
        )
        for n, h in (("q", 4), ("k", 2))
    }
    found = diagnose_values(model, TOKENS, lacking(run(model, faults), "q", "k", "q_rope", "k_rope"))
    assert found.first_wrong == "layer0.attn.scores"
    assert "rows-in-pairs" in explained(found)


def test_a_dump_of_the_logits_alone(decoders):
    model, config, weights = decoders("llama_gqa")
    right = run(model)["logits"]
    assert diagnose_values(model, TOKENS, {"logits": right}).clean
    wrong = decoder_events({**config, "rms_norm_eps": 1e-2}, weights, TOKENS)["logits"]
    found = diagnose_values(model, TOKENS, {"logits": wrong})
    print(found.findings)
    assert found.first_wrong == "logits"


def test_logits_of_the_last_position(decoders):
    model, *_ = decoders("llama_gqa")
    values = run(model)
    logits = values.pop("logits")[-1:]
    values.pop("probs"), values.pop("loss")
    assert diagnose_values(model, TOKENS, values, {"logits": (logits, (6,))}).clean
    found = diagnose_values(model, TOKENS, values, {"logits": (-logits, (6,))})
    assert explained(found) == ["negated"]
    assert found.operations[-1].position == 6


def test_what_is_not_finite_is_judged_once(decoders):
    model, *_ = decoders("llama_gqa")
    values = run(model, {"layer0.attn.v": lambda s: with_element(s["layer0.attn.v"], (3, 2), np.nan)})
    found = diagnose_values(model, TOKENS, values)
    assert [o.name for o in found.wrong] == ["layer0.attn.v"]
    assert explained(found) == ["nan"]
    assert (found.wrong[0].nonfinite, found.wrong[0].element) == ("NaN though the inputs are finite", (3, 2))


NOT_FINITE = {
    "all": lambda v: np.full_like(v, np.nan),
    "a wrong row": lambda v: with_element(with_element(v, 3, 7 - v[3]), (3, 2), np.nan),
}


@pytest.mark.parametrize("fault", NOT_FINITE.values(), ids=NOT_FINITE.keys())
def test_what_is_wrong_may_be_nan_besides(decoders, fault):
    model, *_ = decoders("llama_gqa")
    values = run(model, {"layer0.attn.v": lambda s: fault(s["layer0.attn.v"])})
    found = diagnose_values(model, TOKENS, values)
    assert [o.name for o in found.wrong] == ["layer0.attn.v"]
    assert ("nan" in explained(found)) == (fault is NOT_FINITE["all"])


def test_no_temperature_is_beyond_all_numbers(decoders):
    model, *_ = decoders("llama_gqa")
    values = run(model)
    values["layer0.attn.scores"] = values["layer0.attn.scores"] * np.float32(1e-6)
    wrong = [o.name for o in diagnose_values(model, TOKENS, values).wrong]
    assert wrong == ["layer0.attn.scores", "layer0.attn.weights"]


def test_masked_scores_may_hold_anything(decoders):
    model, *_ = decoders("llama_gqa")
    values = run(model)
    for i in range(2):
        name = f"layer{i}.attn.scores"
        values[name] = np.where(np.tri(7) > 0, values[name], -np.inf)
    assert diagnose_values(model, TOKENS, values).clean


# --- Tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "text"), [("bos-missing", (1, *TOKENS)), ("bos-added", TOKENS[1:]), ("other-tokens", (9, 8))]
)
def test_tokens_that_are_not_those_of_the_text(decoders, id, text):
    model, *_ = decoders("llama_gqa")
    found = diagnose_values(model, TOKENS, run(model), text_tokens=text)
    assert explained(found) == [id]
    assert found.first_wrong is None
    assert not found.clean


# --- Quantised weights ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    """A function that gives a model of which all matrices are of a type, and its blocks."""

    def model(type):
        config = {**CASES["llama_mha_bias"], "hidden_size": 256, "intermediate_size": 256}
        config |= {"attention_bias": False, "mlp_bias": False}
        weights = random_quantised_weights(config, lambda name: type, "diagnosis")
        return load(write_gguf(tmp_path_factory.mktemp(type) / "m.gguf", config, weights)), config, weights

    return model


def misread(blocks, type):
    """A matrix whose nibbles are taken as neighbours, or whose minimum is left out."""
    raw = blocks.rows.reshape(-1, 144 if type == "Q4_K" else 18)
    if type == "Q4_0":
        d = raw[:, :2].copy().view(np.float16).astype(np.float64)
        q = np.stack([raw[:, 2:] & 15, raw[:, 2:] >> 4], -1).reshape(len(raw), 32).astype(np.float64)
        return (d * (q - 8)).reshape(len(blocks.rows), -1)
    without = raw.copy()
    without[:, 2:4] = 0  # the minima's factor
    return type_values(blocks, without)


def type_values(blocks, raw):
    return blocks._replace(rows=raw.reshape(blocks.rows.shape)).values()


@pytest.mark.parametrize("type", ["Q4_0", "Q4_K", "Q6_K"])
def test_a_matrix_that_is_read_again_has_its_rows_in_order(quantised, type):
    model, _, _ = quantised(type)
    assert model.tensors["layer0.attn_wq"].permuted
    for name in ("layer0.attn_wq", "layer0.attn_wk", "layer0.attn_wv"):
        again = hypotheses_quants._matrix(model, hypotheses_quants.Misreading("", "nothing is wrong"), name)
        np.testing.assert_array_equal(again, model.tensors[name].read())


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(("type", "other"), [("F16", "BF16"), ("BF16", "F16")])
def test_halves_of_a_transposed_matrix_are_read_as_the_other_format(type, other, parts, tmp_path):
    plan = load(write_folder(tmp_path, *tiny_model("llama_gqa"))).plan
    tensor, name = transposed(type, parts)[0], "layer0.attn_wq"
    case = SimpleNamespace(given=SimpleNamespace(model=SimpleNamespace(tensors={name: tensor})), plan=plan)
    (found,) = hypotheses_quants._half_formats(case, "attn_wq", tensor)
    read = found.plan["layer0.attn.q"].instead[name]
    expected = replace(tensor, encoding=ENCODINGS[other]).read()
    np.testing.assert_array_equal(read(name), expected)
    assert not np.array_equal(read(name), tensor.read())


@pytest.mark.parametrize(
    ("type", "id"), [("Q4_0", "dequantisation-order"), ("Q4_K", "dequantisation-minimum")]
)
def test_a_misread_quantisation_is_named(quantised, type, id):
    model, _, weights = quantised(type)
    wrong = misread(weights[MLP + "up_proj.weight"], type)
    found = found_for(model, {"layer0.mlp.up": lambda s: s[MLP_NORM].astype(np.float64) @ wrong.T})
    assert id in explained(found)


@pytest.mark.parametrize("type", ["Q4_0", "Q4_K", "Q6_K"])
def test_a_quantised_model_is_clean(quantised, type):
    model, config, weights = quantised(type)
    events = decoder_events(config, dequantised(weights), TOKENS)
    assert diagnose_values(model, TOKENS, {n: a.astype(np.float32) for n, a in events.items()}).clean


# --- microGPT -------------------------------------------------------------------------------------

MICROGPT_MISTAKES = [
    ("another-weight", "layer0.attn.k", lambda s, p: s[NORM] @ p["layer0.attn_wq"].T),
    ("weight-transposed", "layer0.mlp.up", lambda s, p: s[MLP_NORM] @ p["layer0.mlp_fc1"].reshape(12, 20)),
    ("sum-of-unnormed", "layer0.attn.residual", lambda s, p: s["embed.sum"] + s["layer0.attn.out"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("id", "event", "fault"), MICROGPT_MISTAKES, ids=[f"{i}-{m[0]}" for i, m in enumerate(MICROGPT_MISTAKES)]
)
def test_a_mistake_in_a_microgpt_is_named(id, event, fault):
    case = MICROGPTS["2 layers, 2 heads"]
    values = run(case.model, {event: lambda s: fault(s, case.model.params)}, case.text)
    found = diagnose_values(case.model, case.ids[:-1], values)
    print([(f.id, f.claim, f.residual) for f in found.findings])
    assert [o.name for o in found.wrong] == [event]
    assert id in explained(found)


# --- The real model -------------------------------------------------------------------------------


@needs_smollm2
def test_smollm2_is_clean_and_its_rope_base_is_measured():
    model, tokens = load(SMOLLM2), (504, 3575, 282, 4649, 314, 260, 1234, 99)
    values = run(model, source=tokens)
    assert diagnose_values(model, tokens, values).clean
    name = "layer3.attn.q_rope"
    faulty = run(model, {name: lambda s: turned(s["layer3.attn.q"], 64, 10000.0)}, tokens)
    found = diagnose_values(model, tokens, faulty)
    assert found.first_wrong == name
    assert "the base is 10,000, the model says 100,000" in found.findings[0].claim
