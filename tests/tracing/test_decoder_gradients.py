"""Check the gradients in traces of a decoder: scalars, parts, hooks and interventions."""

import json

import numpy as np
import pytest
from support.tiny_models import TOKENS

from microgpt_trace import Intervention, trace
from microgpt_trace.arrays import logits
from microgpt_trace.errors import InputError
from microgpt_trace.hooks.event import Replacement
from microgpt_trace.interpreter import backward as interpreter
from microgpt_trace.render.documents.trace_as_json import trace_json

STREAM, INNER = "layer0.mlp.residual", "layer1.mlp.hidden"
LOGIT, DIFFERENCE = {"target": "#5"}, {"target": "#5", "against": "#7", "position": 3}


def run(model, **options):
    return trace(model, **({"tokens": list(TOKENS), "backward": True, "values": ["*"]} | options))


def scalar(traced, target=None, against=None, position=-1):
    """Compute the scalar of a trace from its logits, in float64."""
    rows = traced["logits"].astype(np.float64)
    if target is None:
        wide = rows[:-1] - np.log(np.exp(rows[:-1]).sum(axis=1, keepdims=True))
        return -wide[range(len(TOKENS) - 1), TOKENS[1:]].mean()
    return rows[position, int(target[1:])] - (rows[position, int(against[1:])] if against else 0)


def slope(model, name, options, about):
    """Return d scalar / dt for an event + t * direction, as the gradient and as a central difference."""
    traced = run(model, **options, **about)
    along = np.random.default_rng(1).standard_normal(traced[name].shape).astype("f")
    below, above = (moved(model, name, t * along, options, about) for t in (-STEP, STEP))
    return float((traced.gradient(name) * along).sum()), (above - below) / (2 * STEP)


STEP = 2e-3


def moved(model, name, change, options, about):
    with model.hooks.subscribe(lambda event, value: value + change, name, first=True):
        return scalar(run(model, values=["logits"], backward=False, **options), **about)


@pytest.mark.parametrize("about", [{}, LOGIT, DIFFERENCE], ids=["loss", "logit", "difference"])
@pytest.mark.parametrize("case", ["llama_gqa", "qwen3"])
@pytest.mark.parametrize("name", [STREAM, INNER, "layer0.attn.q_rope"])
def test_gradients_equal_central_differences(decoders, case, name, about):
    by_gradient, numeric = slope(decoders(case)[0], name, {}, about)
    print(f"d scalar along a direction of {name}: {by_gradient:.6g}, by differences {numeric:.6g}")
    assert by_gradient == pytest.approx(numeric, rel=5e-3, abs=2e-4)


INTERVENTIONS = {
    "ablated": Intervention("ablate", "layer1.attn.head0"),
    "scaled": Intervention("scale", "layer1.mlp.act", 0.5),
}


@pytest.mark.parametrize("intervention", INTERVENTIONS.values(), ids=INTERVENTIONS.keys())
def test_gradients_belong_to_the_changed_computation(tiny, intervention):
    plain, _ = slope(tiny, STREAM, {}, {})
    by_gradient, numeric = slope(tiny, STREAM, {"interventions": [intervention]}, {})
    print(f"{by_gradient:.6g}, by differences {numeric:.6g}; without the intervention {plain:.6g}")
    assert by_gradient == pytest.approx(numeric, rel=5e-3, abs=2e-4)
    assert by_gradient != pytest.approx(plain, rel=1e-2)


def test_a_replaced_value_stops_the_gradient(tiny):
    traced = run(tiny, interventions=[Intervention("ablate", STREAM)])
    assert not traced.gradient("embed.tok").any()
    assert traced.gradient(STREAM).any()
    assert traced.gradient("layer1.mlp.residual").any()


def test_hooks_may_replace_gradients_and_slopes(tiny):
    plain = run(tiny)
    with tiny.hooks.subscribe(lambda event, value: 2 * value, STREAM, phases="backward"):
        doubled = run(tiny)
    np.testing.assert_allclose(
        doubled.gradient("embed.tok"), 2 * plain.gradient("embed.tok"), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(doubled.gradient(INNER), plain.gradient(INNER))
    with tiny.hooks.subscribe(lambda event, value: Replacement(value.copy(), np.float32(3)), STREAM):
        tripled = run(tiny)
    np.testing.assert_allclose(
        tripled.gradient("embed.tok"), 3 * plain.gradient("embed.tok"), rtol=1e-5, atol=1e-5
    )


def gradients(traced):
    return {e.name: e.stats for e in traced if e.phase == "backward"}


@pytest.mark.parametrize("held", [1, 8])
@pytest.mark.parametrize("about", [{}, LOGIT, DIFFERENCE], ids=["loss", "logit", "difference"])
def test_gradients_of_logits_in_parts_equal_those_of_all_logits(tiny, monkeypatch, about, held):
    whole = run(tiny, values=[STREAM], **about)
    monkeypatch.setattr(logits, "PART", 61 * 3)
    monkeypatch.setattr(logits, "HELD", held)
    parts = run(tiny, values=[STREAM], **about)
    assert list(gradients(parts)) == list(gradients(whole))
    for name, stats in gradients(whole).items():
        assert gradients(parts)[name].count == stats.count, name
        assert gradients(parts)[name].l2_norm == pytest.approx(stats.l2_norm, rel=1e-5), name
    np.testing.assert_allclose(parts.gradient(STREAM), whole.gradient(STREAM), rtol=1e-4, atol=1e-7)


def test_kept_and_recomputed_values_give_the_same_bits(tiny, monkeypatch):
    scaled = [Intervention("scale", INNER, 0.5)]
    kept = run(tiny, interventions=scaled)
    monkeypatch.setattr(interpreter, "KEPT", 0)
    recomputed = run(tiny, interventions=scaled)
    assert kept.arrays.keys() == recomputed.arrays.keys()
    for place, array in kept.arrays.items():
        np.testing.assert_array_equal(array, recomputed.arrays[place], err_msg=str(place))


def test_a_trace_keeps_the_gradients_of_chosen_parameters(tiny):
    traced = run(tiny, parameters=["layer1.attn_w*", "final_norm"])
    kept = {name for phase, name in traced.arrays if phase == "backward" and name not in tiny.plan}
    assert kept == {*(f"layer1.attn_w{n}" for n in "qkvo"), "final_norm"}
    upper, inputs = traced.gradient("layer1.attn.q"), traced["layer1.attn.norm"]
    np.testing.assert_allclose(traced.gradient("layer1.attn_wq"), upper.T @ inputs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("part", [61 * 3, 1 << 21])
def test_several_targets_have_the_gradients_of_each_alone(tiny, monkeypatch, part):
    monkeypatch.setattr(logits, "PART", part)
    targets, common = ["#5", "#9", "#7"], {"against": "#2", "position": 3, "values": [STREAM, INNER]}
    together = run(tiny, target=targets, **common)
    alone = [run(tiny, target=target, **common) for target in targets]
    assert [own.scalar for own in together.more_gradients] == [own.scalar for own in alone[1:]]
    assert gradients(together) == gradients(alone[0])
    for number, own in enumerate(alone):
        for name in (STREAM, INNER):
            np.testing.assert_array_equal(together.gradient(name, number), own.gradient(name))
    events = [gradients(own.events) for own in together.more_gradients]
    assert events == [gradients(own) for own in alone[1:]]
    document = json.loads(trace_json(together, values=True))["more_gradients"][1]
    assert document["scalar"]["name"].startswith("(logit(")
    found = {event["name"]: event["values"] for event in document["events"] if "values" in event}
    np.testing.assert_allclose(found[INNER], alone[2].gradient(INNER), rtol=1e-6)


def test_only_positions_with_logits_count(tiny):
    traced = run(tiny, positions=[1, 3])
    assert traced.gradient("logits").shape == (2, 61)
    assert traced.loss == pytest.approx(np.mean([p.loss for p in traced.predictions]))
    after = traced.gradient(STREAM)
    assert after[:4].any()
    assert not after[4:].any()  # later positions have no logits


def test_without_a_next_token_the_scalar_is_the_logit_of_the_prediction(tiny):
    traced = run(tiny, tokens=[3], values=["logits"])
    best = traced.predictions[0].predicted
    assert (traced.scalar.target, traced.scalar.name) == (best.token, f"logit({best.label})")
    assert traced.input.notes[-1] == traced.scalar.note
    assert "no token follows" in traced.scalar.note
    assert np.flatnonzero(traced.gradient("logits")).tolist() == [best.token]
    assert "loss" not in gradients(traced)


def test_json_names_the_scalar(tiny):
    document = json.loads(trace_json(run(tiny, **DIFFERENCE)))
    assert (document["scalar"]["position"], document["scalar"]["against"]) == (3, 7)
    backward = [event for event in document["events"] if event["phase"] == "backward"]
    assert backward[0]["expr"] == f"d (logit({tiny.label(5)}) - logit({tiny.label(7)})) / d logits"


@pytest.mark.parametrize(("options", "expected"), [
    ({"generate": 2}, "backward cannot be combined with generate"),
    ({"against": 5}, "against needs target"),
    ({"target": 5, "against": 5}, "target and against are both b"),
    ({"target": 5, "position": 99}, "position 99"),
    ({"target": 5, "position": 2, "positions": [0, 1]}, "position 2: expected a position with logits, 0-1"),
    ({"step": True}, "step: expected a microGPT"),
    ({"target": 5, "backward": False}, "target needs backward or lens"),
    ({"position": 5, "backward": False}, "position needs backward"),
    ({"parameters": ["wte"], "backward": False}, "parameters needs backward"),
    ({"parameters": ["layer1.wq"]}, "'layer1.wq' matches no parameter of this model"),
])  # fmt: skip
def test_requests_that_do_not_fit(tiny, options, expected):
    with pytest.raises(InputError, match=expected):
        run(tiny, **options)
