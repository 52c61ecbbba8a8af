"""Diagnosis: a mistake in one operation is located and named; right runs are clean.

An independent engine makes the mistakes. test_fault_diagnosis.py tries every fault that the engine has.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.engine_operations import norm
from support.faulty_engine import Fault, decoder_run, microgpt_run, rounded_to
from support.real_model import SMOLLM2, needs_smollm2
from support.stored_tensors import transposed
from support.sweeps import some_of
from support.tiny_microgpts import CASES as MICROGPTS
from support.tiny_microgpts import Case
from support.tiny_models import CASES, TOKENS

from microgpt_trace import load, trace
from microgpt_trace.arrays.encodings import ENCODINGS
from microgpt_trace.diagnosis.diagnose import diagnose_values
from microgpt_trace.diagnosis.faults.weight_faults import _matrix, misreadings
from microgpt_trace.errors import InputError


def only(event, change):
    """Return the fault of one operation: other options, or a function `change(step, right value)`."""
    layer, name = (int(event[5]), event[7:]) if event.startswith("layer") else (None, event)
    if callable(change):
        return Fault("by hand", event, (), layer, {name: {"instead": lambda s, _, x: change(s, x)}})
    return Fault("by options", event, (), layer, {name: change})


def run_of(made, fault=None):
    """Return all events of the engine's run of (model, config, weights) or of a microGPT's case."""
    if not isinstance(made, Case):
        return decoder_run(*made[1:], TOKENS, fault)
    params = {name: np.asarray(array) for name, array in made.model.params.items()}
    return microgpt_run(params, made.ids[:-1], made.model.config.n_head, fault, targets=made.ids[1:])


def diagnosis_of(made, event, change):
    """Diagnose a run whose only wrong operation must be `event`."""
    model, tokens = (made.model, made.ids[:-1]) if isinstance(made, Case) else (made[0], TOKENS)
    found = diagnose_values(model, tokens, run_of(made, only(event, change)))
    print([(f.id, f.claim, f.residual, f.explains) for f in found.findings])
    assert [o.name for o in found.wrong] == [found.first_wrong] == [event]
    assert not found.clean
    return found


def explaining(found):
    return [finding.id for finding in found.findings if finding.explains]


# --- Right runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", some_of(CASES, every=3))
def test_a_right_run_is_clean(decoders, case):
    model, config, weights = decoders(case)
    events = {n: a.astype(np.float32) for n, a in decoder_run(config, weights, TOKENS).items()}
    found = diagnose_values(model, TOKENS, events)
    worst = max(found.operations, key=lambda o: o.error / o.tolerance)
    print(f"{worst.name}: {worst.error:.2g} of {worst.tolerance:.2g}")
    assert (found.clean, len(found.operations), found.compute) == (True, len(events), "f32")


def test_a_right_microgpt_is_clean(case):
    assert diagnose_values(case.model, case.ids[:-1], run_of(case)).clean


def test_an_unknown_precision_is_refused(decoders):
    with pytest.raises(InputError, match="compute: expected one of f32"):
        diagnose_values(decoders("qwen2")[0], TOKENS, {}, compute="fp4")


# --- One mistake at a time ------------------------------------------------------------------------


def of_tokens(*tokens):
    return lambda s, x: s.weight("model.embed_tokens.weight")[list(tokens)]


def first_half_rotated(s, x):
    """Apply RoPE to the first four of a head's eight channels."""
    q = s.heads(s["attn.q"]).copy()
    z = (q[..., :2] + 1j * q[..., 2:4]) * np.exp(1j * np.arange(len(q))[:, None, None] * [1, 0.01])
    q[..., :2], q[..., 2:4] = z.real, z.imag
    return q.reshape(x.shape)


def normed_as_one_row(s, x):
    """Compute the norm of all heads of q together."""
    q = s["attn.q"]
    return (
        q / np.sqrt((q * q).mean(-1, keepdims=True) + 1e-5) * np.tile(s.weight("self_attn.q_norm.weight"), 4)
    )


def keys_of_head_0(s, x):
    return np.einsum("qhd,kd->hqk", s.heads(s["attn.q_rope"]), s.heads(s["attn.k_rope"])[:, 0]) / np.sqrt(8)


def with_bias_of_v(s, x):
    return x - s.weight("self_attn.k_proj.bias") + s.weight("self_attn.v_proj.bias")


def rotated_then_normed(s, x):
    return norm(s, "attn.q", gain="self_attn.q_norm", per_head=True, turned=True)


Q, K, V, Q_ROPE, K_ROPE, Q_NORM = (f"layer0.attn.{n}" for n in ("q", "k", "v", "q_rope", "k_rope", "q_norm"))
SCORES, ATTN_WEIGHTS, CONTEXT = (f"layer0.attn.{n}" for n in ("scores", "weights", "context"))
NORM = "layer0.attn.norm"
MISTAKES = [
    ("bias-of-another", "qwen2", K, with_bias_of_v),
    ("rope-offset", "llama_gqa", K_ROPE, {"offset": 100}),
    ("rope-positions", "llama_gqa", Q_ROPE, {"offset": np.array([0, -1, -1, -1, -1, -1, -1])}),
    ("rope-positions", "llama_gqa", K_ROPE, {"offset": np.array([0, 0, 0, 0, -4, -4, -4])}),
    ("position-offset", "2 layers, 2 heads", "embed.pos", lambda s, x: np.r_[x[:1], x[:-1]]),
    ("rope-twice", "llama_gqa", Q_ROPE, {"stretch": 2.0}),
    ("rope-positions-scaled", "llama_gqa", Q_ROPE, {"stretch": 0.25}),
    ("rope-scaling-missing", "llama_linear", Q_ROPE, {"settings": {"rope_type": "default"}}),
    ("rope-scaling-missing", "llama_llama3", Q_ROPE, {"settings": {"rope_type": "default"}}),
    ("rope-scaling-missing", "llama_yarn", Q_ROPE, {"settings": {"rope_type": "default"}}),
    ("rope-partial", "llama_gqa", Q_ROPE, first_half_rotated),
    ("other-keys", "llama_gqa", SCORES, keys_of_head_0),
    ("few-elements", "llama_gqa", SCORES, lambda s, x: with_element(x, ([0, 1, 2], [5, 3, 6], [1, 2, 4]), 9)),
    ("window-missing", "mistral_window", ATTN_WEIGHTS, {"window": None}),
    ("window", "mistral_window", ATTN_WEIGHTS, {"window": 5}),
    ("softmax-base", "llama_gqa", ATTN_WEIGHTS, {"times": math.log(2)}),
    ("softmax-scaled", "llama_gqa", ATTN_WEIGHTS, {"times": 0.7}),
    ("heads-not-transposed", "llama_gqa", CONTEXT, lambda s, x: s.heads(x).swapaxes(0, 1).reshape(x.shape)),
    ("norm-skipped", "llama_gqa", NORM, {"power": 0.0}),
    ("attn-norm-missing", "llama_gqa", Q, {"of": "embed.tok"}),
    ("norm-of-row", "qwen3", Q_NORM, normed_as_one_row),
    ("qk-norm-missing", "qwen3", Q_ROPE, {"of": "attn.q"}),
    ("qk-norm-late", "qwen3", Q_ROPE, rotated_then_normed),
    (
        "weight-transposed", "llama_gqa", V,
        lambda s, x: s["attn.norm"] @ s.weight("self_attn.v_proj.weight").reshape(32, 16),
    ),
    ("sum-of-norm", "llama_gqa", "layer0.attn.residual", {"stream": "attn.norm"}),
    ("part-scaled", "llama_gqa", "layer0.mlp.residual", {"added": 0.3}),
    ("final-norm-missing", "llama_gqa", "logits", {"of": "layer1.mlp.residual"}),
    ("bos-added", "llama_gqa", "embed.tok", of_tokens(1, *TOKENS[:-1])),
    ("bos-missing", "llama_gqa", "embed.tok", of_tokens(*TOKENS[1:], 5)),
    ("another-token", "llama_gqa", "embed.tok", of_tokens(17, 3, 44, 9, 60, 0, 29)),
    ("sum-of-unnormed", "2 layers, 2 heads", "layer0.attn.residual", {"stream": "embed.sum"}),
    (
        "weight-transposed", "2 layers, 2 heads", "layer0.mlp.up",
        lambda s, x: s["mlp.norm"] @ s.weight("mlp.up_proj.weight").reshape(12, 20),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("id", "case", "event", "change"), some_of(MISTAKES, every=2))
def test_a_mistake_is_named(decoders, id, case, event, change):
    made = MICROGPTS[case] if case in MICROGPTS else decoders(case)
    assert id in explaining(diagnosis_of(made, event, change))


def heads(x):
    return x.reshape(len(x), -1, 8)


def with_element(x, at, value):
    x = np.array(x)
    x[at] = value
    return x


DESCRIBED = [
    ("times", lambda x: 1.001 * x), ("negated", lambda x: -x), ("zeros", lambda x: 0 * x),
    ("nan", lambda x: with_element(x, (2, 3), np.nan)), ("one-position", lambda x: with_element(x, 2, 0)),
    ("one-position", lambda x: with_element(x, 2, x[4])), ("rows-shifted", lambda x: np.roll(x, 1, 0)),
    ("one-channel", lambda x: with_element(x, (slice(None), 5), 2 * x[:, 5])),
    ("one-element", lambda x: with_element(x, (2, 3), 1.01 * x[2, 3])),
    ("clipped", lambda x: np.clip(x, -0.5, 0.5)), ("rounded-bf16", lambda x: rounded_to(x, "bf16")),
    ("vector-added", lambda x: x + np.linspace(0, 1, x.shape[1])),
    ("one-head", lambda x: with_element(heads(x), (slice(None), 1), 0.5).reshape(x.shape)),
    ("heads-permuted", lambda x: heads(x)[:, [1, 0, 3, 2]].reshape(x.shape)),
]  # fmt: skip


@pytest.mark.parametrize(("id", "change"), some_of(DESCRIBED, every=2))
def test_an_error_without_a_known_mistake_is_described(decoders, id, change):
    for event in (Q, "layer1.attn.context"):
        assert id in explaining(diagnosis_of(decoders("llama_gqa"), event, lambda s, x: change(x)))


def test_nothing_explains_noise(decoders):
    noise = np.random.default_rng(1).standard_normal((7, 32))
    found = diagnosis_of(decoders("llama_gqa"), Q, lambda s, x: noise)
    assert explaining(found) == []
    assert found.tried


def test_a_cause_is_found_in_all_layers(decoders):
    made = decoders("llama_gqa")
    pairs = Fault("pairs", "", (), None, {f"attn.{n}_rope": {"interleaved": True} for n in "qk"})
    (found,) = diagnose_values(made[0], TOKENS, run_of(made, pairs)).findings
    assert found.also_explains == (K_ROPE, "layer1.attn.q_rope", "layer1.attn.k_rope")
    assert found.claim == "layer 0, q after RoPE: your values are your own q rotated in interleaved pairs"


@pytest.mark.parametrize("rounding", [None, "bf16"])
def test_late_positions_are_named_with_and_without_q_and_k_after_rope(decoders, rounding):
    (model, config, weights), late = decoders("qwen2"), {"offset": np.array([0, *6 * [-1]])}
    fault = Fault("late", "", (), None, {f"attn.{n}_rope": late for n in "qk"})
    values = decoder_run(config, weights, TOKENS, fault, rounding=rounding)
    for dump in (values, {name: x for name, x in values.items() if "rope" not in name}):
        (found,) = diagnose_values(model, TOKENS, dump).findings
        assert found.claim.endswith("rotated one position late (at positions 0, 0, 1, 2, ...)")
        assert found.also_explains[-1].startswith("layer1")


# --- Events that a dump lacks, and values that are not finite ---------------------------------------


def test_operations_that_a_dump_lacks_are_recomputed(decoders):
    made, lacking = decoders("llama_gqa"), ("q", "k", "v", "q_rope", "k_rope", "scores", "weights")
    kept = {n: x for n, x in run_of(made).items() if n.rpartition(".")[2] not in lacking}
    found = diagnose_values(made[0], TOKENS, kept)
    context = next(o for o in found.operations if o.name == CONTEXT)
    assert (found.clean, context.inputs) == (True, (NORM,))
    assert context.recomputed == tuple(f"layer0.attn.{n}" for n in lacking)
    assert (Q, "the dump does not contain this event") in found.untested


def test_logits_of_only_the_last_position_are_judged(decoders):
    made = decoders("llama_gqa")
    values = run_of(made)
    logits, _ = values.pop("logits")[-1:], values.pop("probs")
    assert diagnose_values(made[0], TOKENS, values, {"logits": (logits, (6,))}).clean
    found = diagnose_values(made[0], TOKENS, values, {"logits": (-logits, (6,))})
    assert (explaining(found), found.operations[-1].position) == (["negated"], 6)


def of_step(values, *positions):
    """Return the rows that a dump of a decode step (or of the last steps) contains."""
    return {n: (x[..., list(positions), :], positions) for n, x in values.items() if x.ndim > 1}


@pytest.mark.parametrize("rounding", [None, "bf16", "f16"])
def test_a_decode_step_is_judged_by_its_own_rows(decoders, rounding):
    model, config, weights = decoders("qwen3")
    for positions in ((6,), (3, 6)):
        step = of_step(decoder_run(config, weights, TOKENS, rounding=rounding), *positions)
        found = diagnose_values(model, TOKENS, {}, step)
        assert (found.clean, found.compute, found.judged) == (True, rounding or "f32", len(step))
    q_rope, scores, hidden = (o for o in found.operations if o.name in (Q_ROPE, SCORES, "layer0.mlp.hidden"))
    assert (q_rope.inputs, q_rope.recomputed) == ((Q_NORM,), ())
    assert (scores.inputs, scores.recomputed[-1]) == ((Q_ROPE,), K_ROPE)
    assert hidden.inputs == ("layer0.mlp.up", "layer0.mlp.act")


@pytest.mark.parametrize(("offset", "words"), [(1, "positions begin at 1"), (-1, "one position late")])
def test_a_decode_step_at_another_position_is_named(decoders, offset, words):
    """The keys in the cache are right: only the rows of this step are rotated elsewhere."""
    model, config, weights = decoders("llama_gqa")
    moved = {"offset": np.array([*6 * [0], offset])}
    step = of_step(
        run_of(
            (model, config, weights),
            Fault("", "", (), None, dict.fromkeys(("attn.q_rope", "attn.k_rope"), moved)),
        ),
        6,
    )
    found = diagnose_values(model, TOKENS, {}, step)
    rotations = (Q_ROPE, K_ROPE, "layer1.attn.q_rope", "layer1.attn.k_rope")
    assert tuple(o.name for o in found.wrong) == rotations
    assert words in found.findings[0].claim
    assert found.findings[0].also_explains == rotations[1:]


def test_a_wrong_operation_late_in_a_decode_step_blames_no_operation_before(decoders):
    """The keys of other positions are recomputed from the tokens, by operations whose rows are right."""
    made = decoders("llama_gqa")
    scores = "layer1.attn.scores"
    noise = np.random.default_rng(1).standard_normal((4, 7, 7))
    step = of_step(run_of(made, only(scores, lambda s, x: noise)), 6)
    found = diagnose_values(made[0], TOKENS, {}, step)
    assert (found.first_wrong, explaining(found)) == (scores, [])
    assert not [id for id in found.tried if "rope" in id or "dequantisation" in id or "embedding" in id]


@pytest.mark.parametrize(
    ("ids", "change"),
    [
        (["nan"], lambda x: np.full_like(x, np.nan)),
        (["nan"], lambda x: with_element(x, (3, 2), np.nan)),
        ([], lambda x: with_element(with_element(x, 3, 7 - x[3]), (3, 2), np.nan)),
    ],
    ids=["all", "one element", "one element of a wrong row"],
)
def test_nan_is_a_finding_if_the_rest_is_right(decoders, ids, change):
    found = diagnosis_of(decoders("llama_gqa"), V, lambda s, x: change(x))
    assert [id for id in explaining(found) if id == "nan"] == ids
    assert found.wrong[0].nonfinite == "NaN though the inputs are finite"
    if np.isnan(change(np.ones((7, 16)))).sum() == 1:
        assert found.wrong[0].element == (3, 2)


def test_tiny_scores_are_judged_without_an_error(decoders):
    made = decoders("llama_gqa")
    values = run_of(made)
    values[SCORES] = values[SCORES] * np.float32(1e-6)
    assert [o.name for o in diagnose_values(made[0], TOKENS, values).wrong] == [SCORES, ATTN_WEIGHTS]


def test_masked_scores_may_have_any_value(decoders):
    made = decoders("llama_gqa")
    values = run_of(made)
    for name in (SCORES, "layer1.attn.scores"):
        values[name] = np.where(np.tri(7) > 0, values[name], -np.inf)
    assert diagnose_values(made[0], TOKENS, values).clean


@pytest.mark.parametrize("hidden", [-np.inf, -1e9, 0])
def test_a_softmax_without_the_mask_is_named_from_masked_scores(decoders, hidden):
    """The dump has no scores of hidden keys, which this softmax used."""
    made = decoders("llama_gqa")
    for id, change in (("mask-missing", {"masked": False}), ("mask-shifted", {"ahead": 1})):
        values = run_of(made, only(ATTN_WEIGHTS, change))
        values[SCORES] = np.where(np.tri(7) > 0, values[SCORES], hidden)
        found = diagnose_values(made[0], TOKENS, values)
        assert (found.first_wrong, explaining(found)) == (ATTN_WEIGHTS, [id])


# --- Tokens and quantised weights -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("id", "text"), [("bos-missing", (1, *TOKENS)), ("bos-added", TOKENS[1:]), ("other-tokens", (9, 8))]
)
def test_tokens_that_differ_from_the_text_are_a_finding(decoders, id, text):
    made = decoders("llama_gqa")
    found = diagnose_values(made[0], TOKENS, run_of(made), text_tokens=text)
    assert (explaining(found), found.first_wrong, found.clean) == ([id], None, False)


@pytest.mark.parametrize(
    ("type", "other", "parts"), [("F16", "BF16", "the whole"), ("BF16", "F16", "a part of an order")]
)
def test_a_transposed_matrix_is_misread_as_the_other_16_bit_format(type, other, parts):
    tensor = transposed(type, parts)[0]
    (wrong,) = misreadings(type)
    read = _matrix(SimpleNamespace(tensors={"wq": tensor}), wrong, "wq")
    np.testing.assert_array_equal(read, replace(tensor, encoding=ENCODINGS[other]).read())
    assert not np.array_equal(read, tensor.read())


# --- The real model -------------------------------------------------------------------------------


@needs_smollm2
def test_smollm2_is_clean_and_its_rope_base_is_measured():
    model, tokens, name = load(SMOLLM2), [504, 3575, 282, 4649], "layer3.attn.q_rope"

    def run():
        run = trace(model, tokens=tokens, values=list(model.plan))
        return {event: run[event] for event in model.plan}

    values = run()
    assert diagnose_values(model, tokens, values).clean
    q = values["layer3.attn.q"].astype(np.float64).reshape(4, -1, 2, 32)
    angles = np.arange(4)[:, None, None] * 10_000.0 ** (-np.arange(32) / 32)
    z = (q[:, :, 0] + 1j * q[:, :, 1]) * np.exp(1j * angles)
    wrong = np.stack([z.real, z.imag], 2).reshape(4, -1).astype(np.float32)
    with model.hooks.subscribe(lambda event, value: wrong, name):
        values = run()
    found = diagnose_values(model, tokens, values)
    assert found.first_wrong == name
    assert "the base is 10,000, the model says 100,000" in found.findings[0].claim
