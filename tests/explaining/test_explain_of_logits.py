"""Explanations of the gradients of a logit, or of a difference of two logits, against `trace`."""

from itertools import product

import numpy as np
import pytest
from support.commands import microgpt
from support.documents import document, valid
from support.explanations import check_steps, check_uses, check_values, elements, explainer
from support.sweeps import some_of
from support.tiny_models import TOKENS

from microgpt_trace import explain, trace
from microgpt_trace.errors import InputError
from microgpt_trace.explaining.explain import keep_run
from microgpt_trace.formulas.steps import element_name

TEXT = {"tokens": list(TOKENS)}
DIFFERENCE = {"target": "#5", "against": "#7", "position": 3}
ABOUT = [*product(["gpt2", "llama_gqa", "qwen3_tied"], [DIFFERENCE, {"target": "#5"}])]
NAME = "(logit(5) - logit(7))"


@pytest.fixture
def llama(decoders):
    return decoders("llama_gqa")[0]


@pytest.mark.parametrize(("case", "about"), some_of(ABOUT, every=6))
def test_an_explanation_equals_the_gradient_of_a_trace(decoders, gpt2, case, about):
    model = gpt2()[1] if case == "gpt2" else decoders(case)[0]
    traced = trace(model, **TEXT, backward=True, values=["*"], parameters=["*"], **about)
    explained = explainer(model, 10**6, **TEXT, backward=True, **about)
    events = {name: array.shape for (phase, name), array in traced.arrays.items() if phase == "backward"}
    assert {"logits", "embed.tok", "layer1.attn.scores"} <= {*events}
    assert not {"probs", "loss"} & {*events}
    for name, index in elements(events, seed=4, count=2):
        found = explained(element_name(name, index), "backward")
        print(found.prefix + found.element, found.value, traced.gradient(name)[index], found.formula)
        assert (found.holds, found.traced) == (True, float(traced.gradient(name)[index]))
        assert (found.scalar, found.expr) == (traced.scalar, f"d {traced.scalar.name} / d {name}")
        check_steps(found)
        if name.startswith("layer1") and name in model.plan:
            check_values(found, explained)
            check_uses(found, explained)


def test_a_difference_is_the_gradient_of_the_target_less_the_gradient_of_the_other(llama):
    both, target, other = (
        explain(llama, "layer0.mlp.down[2,7]", **TEXT, backward=True, position=3, **about).value
        for about in ({"target": "#5", "against": "#7"}, {"target": "#5"}, {"target": "#7"})
    )
    print(both, target, other)
    assert both == pytest.approx(target - other, rel=1e-4)


def test_the_gradient_of_a_logit_is_1_or_less_1_or_0_with_a_reason(llama):
    reason = f"{NAME} at position 3 does not contain this logit"
    expected = {"3,5": ("1", 1), "3,7": ("-1", -1), "3,6": (f"0: {reason}", 0), "2,5": (f"0: {reason}", 0)}
    for index, (words, value) in expected.items():
        found = explain(llama, f"logits[{index}]", **TEXT, backward=True, **DIFFERENCE)
        assert (found.formula, found.value, found.traced) == (f"d logits[{index}] = {words}", value, value)
        assert found.notes == ("the backward pass begins here",) * (value != 0)


@pytest.mark.parametrize("element", ["layer0.attn.q[4,5]", "layer1.attn.scores[1,5,2]", "final.norm[2,3]"])
def test_a_position_that_does_not_matter_says_so(llama, element):
    found = explain(llama, element, **TEXT, backward=True, **DIFFERENCE)
    row = element.rpartition(",")[0] + "]"
    assert (found.value, found.notes) == (0, (f"{NAME} at position 3 does not depend on {row}",))
    assert explain(llama, "layer0.attn.q[3,5]", **TEXT, backward=True, **DIFFERENCE).notes == ()


def test_the_only_token_of_a_text_has_the_gradient_of_the_prediction(llama):
    traced = trace(llama, tokens=[3], backward=True, values=["embed.tok"])
    found = explain(llama, "embed.tok[0,5]", tokens=[3], backward=True)
    assert found.traced == traced.gradient("embed.tok")[0, 5] != 0
    assert (found.scalar, found.notes) == (traced.scalar, (traced.scalar.note,))
    with pytest.raises(InputError, match=r"^loss: no token follows"):
        explain(llama, "loss", tokens=[3], backward=True)


def test_wrong_arguments_are_refused(llama):
    with pytest.raises(InputError, match=r"^target, against and position: need backward=True$"):
        explain(llama, "logits[0,1]", **TEXT, target="#5")
    with pytest.raises(InputError, match=r"^target and against are both 5$"):
        keep_run(llama, **TEXT, backward=True, target="#5", against=5)
    with pytest.raises(InputError, match=r"^probs: logit\(5\) does not depend on probs, so there is no gra"):
        explain(llama, "probs[0,1]", **TEXT, backward=True, target="#5")


def test_the_command_names_the_logits_and_repeats_the_options(decoder_folder):
    folder = decoder_folder()
    words = (folder, "layer0.mlp.down[2,7]", "--tokens", ",".join(map(str, TOKENS)))
    options = ("--backward", "--target", "#5", "--against", "#7", "--position", "-4")
    text = microgpt("explain", *words, *options).out
    assert text.startswith("d (logit(b) - logit(d)) / d layer0.mlp.down[2,7] = ")
    assert "d loss" not in text
    next_line = next(line for line in text.splitlines() if line.startswith("Next: "))
    assert next_line.endswith("--backward --target '#5' --against '#7' --position -4")
    found = valid(microgpt("explain", *words, *options, "--json").out, "explain")
    of_trace = document("trace", folder, *words[2:], *options, "--layer", "layer0.mlp.down", "--values")
    assert found["scalar"] == of_trace["scalar"]
    (values,) = (event["values"] for event in of_trace["events"] if event["phase"] == "backward")
    assert np.float32(found["traced"]) == np.float32(values[2][7])
    shown = microgpt("trace", folder, *words[2:], *options, "--show", "layer0.mlp.down[2]").out
    assert "d (logit(b) - logit(d)) / d layer0.mlp.down" in shown
    assert "d loss" not in shown
    assert valid(microgpt("explain", *words, "--json").out, "explain")["scalar"] is None
