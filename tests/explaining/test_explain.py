"""Explanations of events and parameters of a microGPT, each checked against the elements that it names."""

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from support.explanations import check_steps, check_uses, check_values, elements, explainer
from support.sweeps import some_of
from support.tiny_microgpts import CASES

from microgpt_trace import init
from microgpt_trace.errors import InputError
from microgpt_trace.explaining.explain import explain, explain_in, keep_run
from microgpt_trace.formulas.steps import element_name


def assert_same_steps(kept, alone):
    """Check that the explanation of a kept run differs from another only in its values of uses."""
    for a, b in zip(kept.uses, alone.uses, strict=True):
        assert b in (a, replace(a, value=None))
    assert replace(kept, uses=()) == replace(alone, uses=())


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_steps_add_up_and_uses_and_names_agree_with_other_explanations(case, phase):
    """The term that an element adds is in the explanation of the use; every factor can be explained."""
    events, backward = case.model.plan.shapes(len(case.ids) - 1), phase == "backward"
    explained = explainer(case.model, 10**6, text=case.text, backward=backward)
    for name, index in elements(events | case.model.config.shapes(), seed=3):
        explanation = explained(element_name(name, index), phase)
        print(phase, explanation.element, explanation.value, explanation.traced)
        assert explanation.holds
        check_steps(explanation)
        check_values(explanation, explained)
        if not backward or (name in events and name not in ("loss", "embed.norm")):
            check_uses(explanation, explained)


def test_explain_in_a_kept_run_equals_explain(deep):
    model, text = deep.model, deep.text
    run = keep_run(model, text, backward=True)
    of_all = elements(model.plan.shapes(len(deep.ids) - 1) | model.config.shapes(), seed=6)
    for name, index in islice(of_all, None, None, 3):
        written = element_name(name, index)
        alone = explain(model, written, text, backward=True)
        assert_same_steps(explain_in(run, written, backward=True), alone)


def test_explain_in_refuses_gradients_without_a_backward_pass_and_zero_terms(emma):
    with pytest.raises(InputError, match="this run has no backward pass"):
        explain_in(keep_run(emma, "emma"), "logits[1,2]", backward=True)
    with pytest.raises(InputError, match="terms: expected a whole number of at least 1"):
        explain_in(keep_run(emma, "emma"), "logits[1,2]", terms=0)


def test_a_score_is_a_scaled_sum_of_products():
    explanation = explain(init(), "layer0.attn.scores[1,3,2]", "emma")
    summed, scaled = explanation.steps
    assert explanation.place == "head 1, query at position 3 (m), key at position 2 (m)"
    assert explanation.expr == "scores = q @ k.T / sqrt(4)"
    assert [[f.name for f in term.factors] for term in summed.terms] == [
        [f"layer0.attn.q[3,{c}]", f"layer0.attn.k[2,{c}]"] for c in range(4, 8)
    ]
    assert scaled.value == summed.value / 2 == pytest.approx(explanation.traced)
    assert [use.name for use in explanation.uses] == ["layer0.attn.weights[1,3,2]"]


def test_the_largest_terms_are_listed_and_the_others_are_summed():
    few, many = (explain(init(), "layer0.mlp.down[3,5]", terms=n).steps[0] for n in (16, 64))
    sizes = sorted((abs(term.value) for term in many.terms), reverse=True)
    assert [abs(term.value) for term in few.terms] == sizes[:16]
    assert (few.count, few.value, many.rest) == (64, many.value, 0.0)
    print(few.rest, few.value)


def test_a_masked_score_is_computed_and_has_no_use():
    score, weight = (explain(init(), f"layer0.attn.{name}[0,1,3]") for name in ("scores", "weights"))
    assert "masked: key 3 comes after query 1" in score.notes[0]
    assert (score.uses, weight.uses) == ((), ())
    assert score.traced != 0
    assert (weight.value, weight.traced, weight.steps[0].count) == (0, 0, 0)


def test_a_parameter_is_explained_as_stored():
    model = init()
    explanation = explain(model, "layer0.attn_wq[5,3]")
    assert explanation.traced == model.params["layer0.attn_wq"][5, 3]
    assert explanation.steps == ()
    assert explanation.uses[0].name.startswith("layer0.attn.q[")


@pytest.mark.parametrize(
    ("written", "element"),
    [
        ("layer0.attn.q@3:5", "layer0.attn.q[3,5]"),
        ("layer0.attn.q[-2,-11]", "layer0.attn.q[3,5]"),
        ("ffn_up[3,5]", "layer0.mlp.up[3,5]"),
        ("logits[-1,a]", "logits[4,1]"),
        ("probs[-1,EOS]", "probs[4,0]"),
        ("lm_head[e,-1]", "lm_head[5,15]"),
        ("wte[#13,2]", "wte[13,2]"),
        ("loss", "loss"),
    ],
)
def test_an_element_can_be_written_in_several_ways(written, element):
    assert explain(init(), written, "emma").element == element


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("layer0.attn.q", "one element, such as layer0.attn.q[1,2]; layer0.attn.q is [5, 16], position"),
        ("layer0.attn.scores[1,3]", "is [4, 5, 5], head, query and key"),
        ("layer0.attn.scores@3:2", "[4, 5, 5]"),
        ("layer0.attn.q[0-2,5]", "one element"),
        ("layer0.attn.q[5,1]", "positions 0 to 4"),
        ("layer0.attn_wq[16,1]", "row 16"),
        ("layer0.attn.*[1,2]", "expected one event, found 13"),
        ("logits[0,ab]", "'ab'"),
        ("nothing[0]", "matches no event"),
    ],
)  # fmt: skip
def test_a_text_that_names_no_element_is_refused(written, words):
    with pytest.raises(InputError) as error:
        explain(init(), written, "emma")
    print(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind", "end"), [("loss", "forward", "wte["), ("wte[m,3]", "backward", "logits[")]
)
def test_following_first_factors_ends_at_the_start_of_the_pass(name, kind, end):
    run, seen = keep_run(init(), backward=True), []
    while name not in seen:
        seen.append(name)
        factors = explain_in(run, name, backward=kind == "backward").factors()
        name = next((factor.name for factor in factors if kind == "forward" or factor.kind == kind), name)
    print(" <- ".join(seen))
    assert seen[-1].startswith(end)
    assert "layer0.mlp.residual" in " ".join(seen)


@pytest.mark.parametrize("victim", some_of(CASES["2 layers, 2 heads"].model.plan.shapes(9), every=9))
def test_a_wrong_value_is_noticed_only_in_its_own_event(deep, victim):
    """A hook changes one event. Later events follow from it, but it does not follow from its inputs."""
    shapes = deep.model.plan.shapes(len(deep.ids) - 1)

    def wrong(event, value):
        return value * (1 + 1e-6)

    with deep.model.hooks.subscribe(wrong, victim):
        run = keep_run(deep.model, deep.text)
        for name, (*first, last) in ((name, index or (0,)) for name, index in elements(shapes)):
            index = (*first, min(first[-1], last)) if len(first) == 2 else (*first, last)
            explanation = explain_in(run, element_name(name, index if shapes[name] else ()))
            right = name != victim or explanation.traced == 0
            assert explanation.holds == right, (explanation.value, explanation.traced, explanation.tolerance)
            if name == victim:
                assert f"a hook replaced values of {victim}" in explanation.notes


def test_nan_values_are_compared():
    model = init()
    model.params["layer0.mlp_fc1"][3, 2] = np.nan
    broken, intact = (explain(model, f"layer0.mlp.up[1,{c}]") for c in (3, 4))
    assert math.isnan(broken.value)
    assert broken.holds
    assert intact.holds
    loss = explain(model, "loss")
    assert (math.isnan(loss.value), loss.holds, loss.steps[0].count) == (True, True, 5)


@pytest.mark.parametrize(("gain", "vanished"), [(1, 0), (12, 4), (40, 5)])
def test_the_loss_of_a_vanished_probability_comes_from_the_logits(gain, vanished):
    model = init()
    model.params.flat[:] *= gain
    explanation = explain(model, "loss", "emma")
    names = [term.factors[0].name for term in explanation.steps[0].terms]
    print(names, explanation.value, explanation.traced)
    assert explanation.steps[0].count == 5
    assert sum(name.startswith("the loss at position") for name in names) == vanished
    assert explanation.holds


def test_a_signalling_nan_among_the_weights_is_explained():
    model = init()
    model.params["lm_head"].view(np.uint32)[1, :2] = 0x7F800001
    with np.errstate(all="raise"):
        explanation = explain(model, "logits[-1,a]", "emma")
    assert np.isnan(explanation.value)


def test_a_nan_from_an_overflow_of_float32_is_explained():
    """Products beyond float32 cancel each other, so that the sum in float64 is finite."""
    model = init()
    model.params["layer0.mlp_fc1"][:4] = np.array([1, 1, -1, -1])[:, None] * np.float32(1e20)
    model.params["layer0.mlp_fc2"][0, :4] = np.array([1, -1, 1, -1]) * np.float32(1e20)
    with np.errstate(all="ignore"):
        explanation = explain(model, "layer0.mlp.down[2,0]", "emma")
    print(explanation.value, explanation.traced, explanation.notes)
    assert np.isnan(explanation.traced)
    assert abs(explanation.value) < 1e38
    assert explanation.notes == ("an intermediate result is larger than float32 can hold",)
