"""Every number explained: against independent judges, and against itself, name by name."""

import math

import numpy as np
import pytest
from support.explanations import asking, check_names, check_steps, check_uses, same_but_for_more, sampled
from support.sweeps import some_of
from support.tiny_microgpts import CASES

from microgpt_trace import init
from microgpt_trace.architecture.formulas.steps import element_name
from microgpt_trace.errors import InputError
from microgpt_trace.explaining.explain import explain, explain_in, keep_run

# --- microGPT -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_the_arithmetic_adds_up_and_leads_to_elements_that_say_the_same(case, phase):
    """What an element adds is a term where it goes, and every name that is said can be explained."""
    events, backward = case.model.plan.shapes(len(case.ids) - 1), phase == "backward"
    explained = asking(case.model, 10**6, text=case.text, backward=backward)
    for name, index in sampled(events | case.model.config.shapes(), seed=3):
        found = explained(element_name(name, index), phase)
        print(phase, found.element, found.value, found.traced)
        assert found.holds
        check_steps(found)
        check_names(found, explained)
        if not backward or (name in events and name not in ("loss", "embed.norm")):
            check_uses(found, explained)


def test_a_run_that_is_kept_tells_the_same_as_a_run_of_its_own(deep):
    model, text = deep.model, deep.text
    run = keep_run(model, text, backward=True)
    for name, index in sampled(model.plan.shapes(len(deep.ids) - 1) | model.config.shapes(), seed=6):
        written = element_name(name, index)
        same_but_for_more(
            explain_in(run, written, backward=True), explain(model, written, text, backward=True)
        )


def test_a_run_that_is_kept_has_no_gradients_unless_asked(emma):
    with pytest.raises(InputError, match="this run has no backward pass"):
        explain_in(keep_run(emma, "emma"), "logits[1,2]", backward=True)
    with pytest.raises(InputError, match="terms: expected at least 1"):
        explain_in(keep_run(emma, "emma"), "logits[1,2]", terms=0)


def test_the_issues_example():
    found = explain(init(), "layer0.attn.scores[1,3,2]", "emma")
    summed, scaled = found.steps
    assert found.place == "head 1, query at position 3 (m), key at position 2 (m)"
    assert found.expr == "scores = q @ k.T / sqrt(4)"
    assert [[f.name for f in term.factors] for term in summed.terms] == [
        [f"layer0.attn.q[3,{c}]", f"layer0.attn.k[2,{c}]"] for c in range(4, 8)
    ]
    assert scaled.value == summed.value / 2 == pytest.approx(found.traced)
    assert [use.name for use in found.uses] == ["layer0.attn.weights[1,3,2]"]


def test_the_largest_terms_are_listed_and_the_rest_is_summed():
    few, many = (explain(init(), "layer0.mlp.down[3,5]", terms=n).steps[0] for n in (16, 64))
    sizes = sorted((abs(term.value) for term in many.terms), reverse=True)
    assert [abs(term.value) for term in few.terms] == sizes[:16]
    assert (few.count, few.value, many.rest) == (64, many.value, 0.0)
    print(few.rest, few.value)


def test_a_masked_score_is_computed_and_goes_nowhere():
    score, weight = (explain(init(), f"layer0.attn.{name}[0,1,3]") for name in ("scores", "weights"))
    assert "masked: key 3 comes after query 1" in score.notes[0]
    assert (score.uses, weight.uses) == ((), ())
    assert score.traced != 0
    assert (weight.value, weight.traced, weight.steps[0].count) == (0, 0, 0)


def test_a_parameter_is_stored():
    model = init()
    found = explain(model, "layer0.attn_wq[5,3]")
    assert found.traced == model.params["layer0.attn_wq"][5, 3]
    assert found.steps == ()
    assert found.uses[0].name.startswith("layer0.attn.q[")


@pytest.mark.parametrize(
    ("written", "meant"),
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
def test_elements_are_written_in_several_ways(written, meant):
    assert explain(init(), written, "emma").element == meant


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("layer0.attn.q", "layer0.attn.q is [5, 16], position and channel; name one element, such as"),
        ("layer0.attn.scores[1,3]", "head, query and key; name one element, such as"),
        ("layer0.attn.scores@3:2", "[4, 5, 5]"),
        ("layer0.attn.q[0-2,5]", "one element"),
        ("layer0.attn.q[5,1]", "positions 0 to 4"),
        ("layer0.attn_wq[16,1]", "row 16"),
        ("layer0.attn.*[1,2]", "expected one event, found 13"),
        ("logits[0,ab]", "'ab'"),
        ("nothing[0]", "matches no event"),
    ],
)  # fmt: skip
def test_elements_that_do_not_exist(written, words):
    with pytest.raises(InputError) as error:
        explain(init(), written, "emma")
    print(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind", "end"), [("loss", "forward", "wte["), ("wte[m,3]", "backward", "logits[")]
)
def test_following_first_factors_ends_where_a_pass_begins(name, kind, end):
    run, seen = keep_run(init(), backward=True), []
    while name not in seen:
        seen.append(name)
        factors = explain_in(run, name, backward=kind == "backward").factors()
        name = next((factor.name for factor in factors if kind == "forward" or factor.kind == kind), name)
    print(" <- ".join(seen))
    assert seen[-1].startswith(end)
    assert "layer0.mlp.residual" in " ".join(seen)


# --- Hooks and wrong values -----------------------------------------------------------------------


@pytest.mark.parametrize("victim", some_of(CASES["2 layers, 2 heads"].model.plan.shapes(9), every=3))
def test_a_wrong_value_is_seen_where_it_is_and_nowhere_else(deep, victim):
    """A hook changes one event: what is computed from it follows from it, and it from nothing."""
    shapes = deep.model.plan.shapes(len(deep.ids) - 1)

    def wrong(event, value):
        return value * (1 + 1e-6)

    with deep.model.hooks.subscribe(wrong, victim):
        run = keep_run(deep.model, deep.text)
        for name, (*first, last) in ((name, index or (0,)) for name, index in sampled(shapes)):
            index = (*first, min(first[-1], last)) if len(first) == 2 else (*first, last)
            found = explain_in(run, element_name(name, index if shapes[name] else ()))
            wanted = name != victim or found.traced == 0
            assert found.holds == wanted, (found.element, found.value, found.traced, found.tolerance)
            if name == victim:
                assert f"a hook replaced values of {victim}" in found.notes


def test_values_that_are_not_finite_are_compared():
    model = init()
    model.params["layer0.mlp_fc1"][3, 2] = np.nan
    spoiled, whole = (explain(model, f"layer0.mlp.up[1,{c}]") for c in (3, 4))
    assert math.isnan(spoiled.value)
    assert spoiled.holds
    assert whole.holds
    loss = explain(model, "loss")
    assert (math.isnan(loss.value), loss.holds, loss.steps[0].count) == (True, True, 5)


@pytest.mark.parametrize(("gain", "vanished"), [(1, 0), (12, 4), (40, 5)])
def test_a_probability_that_vanished_leaves_its_loss_to_the_logits(gain, vanished):
    model = init()
    model.params.flat[:] *= gain
    found = explain(model, "loss", "emma")
    names = [term.factors[0].name for term in found.steps[0].terms]
    print(names, found.value, found.traced)
    assert found.steps[0].count == 5
    assert sum(name.startswith("the loss at position") for name in names) == vanished
    assert found.holds


def test_a_signalling_nan_among_the_weights_is_explained():
    model = init()
    model.params["lm_head"].view(np.uint32)[1, :2] = 0x7F800001
    with np.errstate(all="raise"):
        found = explain(model, "logits[-1,a]", "emma")
    assert np.isnan(found.value)


def test_a_nan_of_what_float32_does_not_hold_is_told_apart():
    """Two products beyond float32 take each other away, which in float64 leaves nothing."""
    model = init()
    model.params["layer0.mlp_fc1"][:4] = np.array([1, 1, -1, -1])[:, None] * np.float32(1e20)
    model.params["layer0.mlp_fc2"][0, :4] = np.array([1, -1, 1, -1]) * np.float32(1e20)
    with np.errstate(all="ignore"):
        found = explain(model, "layer0.mlp.down[2,0]", "emma")
    print(found.value, found.traced, found.notes)
    assert np.isnan(found.traced)
    assert abs(found.value) < 1e38
    assert found.notes == ("an intermediate result is larger than float32 can hold",)
