"""Explanations of gradients: the chain rule of each element, against PyTorch."""

from itertools import product

import pytest
from support.explanations import elements
from support.judges import agree, torch_grad, torch_run
from support.sweeps import some_of
from support.tiny_microgpts import CASES

from microgpt_trace import init
from microgpt_trace.explaining.explain import (
    explain,
    explain_in,
    gradient_worked_out,
    keep_run,
    run_for,
    worked_out,
)
from microgpt_trace.formulas.steps import element_name
from microgpt_trace.formulas.traced_element import Element, TracedElement

DEEP = CASES["2 layers, 2 heads"].model
EVENTS = DEEP.plan.shapes(9)


def places(shape, most=120):
    """Return about `most` indices, spread over all rows and columns."""
    every = list(product(*map(range, shape)))
    return every[:: len(every) // most | 1]


def test_explained_values_and_gradients_equal_pytorch(case):
    ids, model = case.ids, case.model
    events, parameters = torch_run(dict(model.params.items()), ids[:-1], ids[1:], model.config)
    traced = run_for(model, model.read(case.text), Element("loss", ()), True)
    for name, shape in traced.shapes.items():
        tensor, chosen = (events | parameters)[name], places(shape)
        for phase, worked, judged in (
            ("forward", worked_out, tensor.detach().numpy()),
            ("backward", gradient_worked_out, torch_grad(tensor)),
        ):
            if phase == "backward" or name in events:
                found = [worked(TracedElement(traced, Element(name, index), 4)).value for index in chosen]
                expected = [judged[index] for index in chosen]
                agree(found, expected, rtol=1e-9, atol=1e-12, what=f"{phase} {name}")


def test_float32_stays_well_within_the_tolerance_in_both_passes():
    model = init()
    events = model.plan.shapes(5)
    traced, worst = run_for(model, model.read("emma"), Element("loss", ()), True), 0.0
    for name, shape in traced.shapes.items():
        for index in places(shape, most=40):
            at = TracedElement(traced, Element(name, index), 1)
            for phase, worked in (("forward", worked_out), ("backward", gradient_worked_out)):
                if phase == "backward" or name in events:
                    found = worked(at)
                    off = abs(found.value - traced.value(name, index, phase))
                    worst = max(worst, off / (1e-5 * found.magnitude + 1e-38))
    print(worst)
    assert 0 < worst < 0.1


def test_the_residual_stream_gets_gradients_from_two_readers():
    found = explain(init(), "layer0.attn.residual[3,5]", backward=True)
    last = found.steps[-1]
    assert [term.factors[0].name for term in last.terms] == [
        "by way of layer0.mlp.residual",
        "by way of layer0.mlp.norm",
    ]
    assert found.traced == pytest.approx(sum(term.value for term in last.terms))


def test_the_gradient_of_a_parameter_is_a_sum_over_positions():
    (step,) = explain(init(), "layer0.attn_wq[5,3]", "emma", backward=True).steps
    assert [term.label for term in step.terms] == ["BOS", "e", "m", "m", "a"]
    assert [f.name for f in step.terms[2].factors] == ["layer0.attn.q[2,5]", "layer0.attn.norm[2,3]"]
    assert [f.kind for f in step.terms[2].factors] == ["backward", "forward"]


def test_the_gradient_of_an_embedding_adds_the_positions_of_its_token():
    twice, never = (explain(init(), f"wte[{token},3]", "emma", backward=True) for token in "mz")
    assert [f.name for f in twice.factors()] == ["embed.tok[2,3]", "embed.tok[3,3]"]
    assert (never.value, never.traced) == (0, 0)
    assert "the text does not read this row" in never.formula


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("victim", some_of([n for n in EVENTS if not n.startswith("layer1")], every=9))
def test_gradients_under_a_hook(deep, victim, phase):
    """A replaced event passes no gradient on; a replaced gradient is the only wrong gradient."""

    def changed(event, value):
        return value * 1.1 + 0.01

    with deep.model.hooks.subscribe(changed, victim, phases=phase):
        run = keep_run(deep.model, deep.text, backward=True)
        for name, index in elements(EVENTS | deep.model.config.shapes(), seed=len(victim)):
            found = explain_in(run, element_name(name, index), backward=True)
            right = name != victim or phase == "forward"
            assert found.holds == right, (found.element, found.value, found.traced, found.formula)
